"""The service's addresses."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import FastAPI, Path, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST

from flashdiffusion import __version__
from flashdiffusion.methods import methods
from flashdiffusion.physics.registry import PHYSICS
from flashdiffusion.service.answers import About, Health, Job, Limits, Model, Restoration
from flashdiffusion.service.forms import described, form_of
from flashdiffusion.service.guard import Guard
from flashdiffusion.service.metrics import Measured
from flashdiffusion.service.refusals import MEDIA_TYPE, RETRY, ProblemDetails, Refusal, add_refusals
from flashdiffusion.service.service import Service
from flashdiffusion.service.work import Outcome, Work

PNG, JSON = "image/png", "application/json"
RECORD, NOTES = "Flashdiffusion-Record", "Flashdiffusion-Notes"  # headers of an answer that is a picture
WAIT = 60  # seconds that a poll may wait at most
_GONE = 499  # nobody reads it
_ABOUT = """Restore degraded pictures, each in as many steps as it needs.

Post a picture, and say what damaged it: `curl -F file=@blurred.png -F physics=gaussian-blur:std=2 URL/v1/restore`.
"""
JobId = Annotated[str, Path(pattern="^[0-9a-f]{32}$", examples=["0f3c5e0b8f7d4c6f9a2b1d3e5f708192"])]


def create_app(service: Service) -> FastAPI:
    """The application of a service, which it closes at its end."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.close)

    app = FastAPIOffline(
        title="Flash-Diffusion", version=__version__, description=_ABOUT, lifespan=lifespan, redoc_url=None
    )
    add_refusals(app)
    app.add_middleware(Guard, options=service.options)
    app.add_middleware(Measured, metrics=service.metrics)
    _add_restorations(app, service)
    _add_jobs(app, service)
    _add_health(app, service)
    _document_token(app, service)
    return app


def _add_restorations(app: FastAPI, service: Service) -> None:
    pictures: dict[str, Any] = {
        "description": "The picture, or with Accept: application/json all samples and maps.",
        "content": {PNG: {"schema": {"type": "string", "format": "binary"}}},
        "headers": {
            RECORD: {"description": "The record, as JSON.", "schema": {"type": "string"}},
            NOTES: {"description": "Notes for the user, as JSON.", "schema": {"type": "string"}},
        },
    }
    placed: dict[int | str, Any] = {202: {"headers": {"Location": {"schema": {"type": "string"}}}}}
    form, posted = described(service.asked), _refusals(400, 401, 408, 413, 415, 422, 500, 503)

    @app.post(
        "/v1/restore",
        summary="Restore a picture, and wait for it",
        response_model=Restoration,
        responses={200: pictures} | _refusals(406, 409, 504) | posted,
        openapi_extra=form,
        tags=["restoration"],
    )
    async def restore(request: Request) -> Response:
        wanted = _wanted(request)
        work = await _accepted(request, service, False, wanted)
        outcome = await _outcome(work, request)
        if outcome is None:
            return Response(status_code=_GONE)
        if isinstance(outcome, Refusal):
            raise outcome
        if wanted == JSON:
            return await asyncio.to_thread(lambda: JSONResponse(Restoration.of(outcome).model_dump()))
        one = outcome.samples[0]
        short = {key: value for key, value in one.record.items() if key != "tiles"}  # headers hold little
        return Response(one.png, media_type=PNG, headers={RECORD: json.dumps(short), NOTES: json.dumps(outcome.notes)})

    @app.post(
        "/v1/jobs",
        status_code=HTTPStatus.ACCEPTED,
        summary="Restore a picture later: gives a job to poll",
        response_model=Job,
        responses=placed | posted,
        openapi_extra=form,
        tags=["jobs"],
    )
    async def submit(request: Request, response: Response) -> Job:
        work = await _accepted(request, service, True)
        job = service.jobs.of(work)
        response.headers["Location"] = _address(request, job.id)
        return Job.of(job, _address(request, job.id))


def _add_jobs(app: FastAPI, service: Service) -> None:
    known = _refusals(401, 404, 422)

    @app.get("/v1/jobs/{id}", summary="How far a job is", responses=known, tags=["jobs"])
    async def status(
        request: Request,
        id: JobId,
        wait: Annotated[float, Query(ge=0, le=WAIT, description="Seconds to wait for it, if it is not done.")] = 0,
    ) -> Job:
        job = service.jobs.get(id)
        if wait and job.work is not None:
            await asyncio.wait({job.work.future}, timeout=wait)
            await asyncio.sleep(0)  # what follows from its end comes first
        job.told = job.state == "failed"
        return Job.of(job, _address(request, id))

    @app.delete(
        "/v1/jobs/{id}",
        status_code=HTTPStatus.NO_CONTENT,
        summary="Cancel a job that is not done; forget it and its results",
        responses=known,
        tags=["jobs"],
    )
    async def delete(id: JobId) -> None:
        work = service.jobs.get(id).work
        service.jobs.drop(id)
        if work is not None:
            work.resolve(Refusal(HTTPStatus.CONFLICT, "cancelled"))
            work.give_up("cancelled")

    pictures: dict[int | str, Any] = {200: {"content": {PNG: {"schema": {"type": "string", "format": "binary"}}}}}
    fetched: dict[str, Any] = {
        "response_class": FileResponse,
        "responses": pictures | known | _refusals(409),
        "tags": ["jobs"],
    }

    @app.get("/v1/jobs/{id}/images/{number}", summary="A sample of a job that is done", **fetched)
    async def image(id: JobId, number: Annotated[int, Path(ge=0, le=10**6)]) -> FileResponse:
        return _file(service, id, f"images/{number}")

    @app.get("/v1/jobs/{id}/maps/{kind}", summary="A map of a job that asked for maps", **fetched)
    async def map_of(
        id: JobId, kind: Annotated[str, Path(pattern="^[a-z]{1,20}$", examples=["severity"])]
    ) -> FileResponse:
        return _file(service, id, f"maps/{kind}")


def _file(service: Service, id: str, name: str) -> FileResponse:
    job = service.jobs.get(id)
    if job.state != "done":
        raise Refusal(HTTPStatus.CONFLICT, f"the job is {job.state}; expected one that is done")
    if name not in job.files:
        known = ", ".join(job.files)
        raise Refusal(HTTPStatus.NOT_FOUND, f"the job has no {name}; expected one of {known}")
    job.unfetched.discard(name)
    return FileResponse(job.files[name], media_type=PNG)


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", summary="Whether the service works", responses=_refusals(503), tags=["health"])
    async def health() -> Health:
        if not service.alive:
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "a model has no thread that serves it; start anew")
        return Health(status="ok")

    @app.get("/readyz", summary="Whether it takes requests", responses=_refusals(503), tags=["health"])
    async def ready() -> Health:
        with service.place():
            return Health(status="ok")

    page: dict[int | str, Any] = {200: {"content": {CONTENT_TYPE_LATEST: {"schema": {"type": "string"}}}}}

    @app.get(
        "/metrics",
        summary="Numbers for Prometheus",
        response_class=Response,
        responses=page | _refusals(401),
        tags=["health"],
    )
    async def metrics() -> Response:
        return Response(service.metrics.page(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/about", summary="Models, methods and limits", responses=_refusals(401), tags=["restoration"])
    async def about() -> About:
        options = service.options
        models = [
            Model(name=name, size=one.reading.pipeline.sample_size, device=str(one.reading.pipeline.device))
            for name, one in service.served.items()
        ]
        limits = Limits(
            megabytes=options.max_megabytes,
            megapixels=options.max_megapixels,
            samples=options.max_samples,
            seconds=options.timeout,
        )
        physics = [name for name, one in PHYSICS.items() if one.forms]
        return About(version=__version__, models=models, methods=[*methods()], physics=physics, limits=limits)


def _wanted(request: Request) -> str:
    """PNG or JSON, by what the client accepts; raises Refusal if it is neither."""
    accepted = [part.partition(";")[0].strip().lower() for part in request.headers.get("accept", "*/*").split(",")]
    for one in accepted:
        if one in {PNG, "image/*", "*/*", ""}:
            return PNG
        if one in {JSON, "application/*"}:
            return JSON
    raise Refusal(HTTPStatus.NOT_ACCEPTABLE, f"this gives {PNG} or {JSON}; expected one of them in Accept")


async def _accepted(request: Request, service: Service, job: bool, wanted: str = JSON) -> Work:
    """The work of a request, in line; its files are read and gone."""
    with service.place() as place:
        async with form_of(request, service.asked) as form:
            if wanted == PNG and form.asked.samples > 1:
                raise Refusal(
                    HTTPStatus.NOT_ACCEPTABLE,
                    f"{form.asked.samples} samples are several pictures; ask for them with Accept: {JSON}, or as a job",
                )
            return await service.accept(place, form.upload, form.attachments, form.asked, job)


async def _outcome(work: Work, request: Request) -> Outcome | Refusal | None:
    """What a work comes to; None if the client goes away, for whom it is then given up."""
    gone = asyncio.create_task(_gone(request))
    try:
        waiting: set[asyncio.Future[Any]] = {work.future, gone}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if work.future.done():
            return work.future.result()
        return None
    finally:
        gone.cancel()
        if not work.future.done():
            work.resolve(Refusal(HTTPStatus.CONFLICT, "the client went away"))
            work.give_up("the client went away")


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _address(request: Request, id: str) -> str:
    return f"{request.scope.get('root_path', '')}/v1/jobs/{id}"


def _refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Refusals for OpenAPI."""
    wait: dict[str, Any] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}, "example": RETRY}}
    content = {MEDIA_TYPE: {"schema": ProblemDetails.model_json_schema()}}
    found: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        found[status] = {"description": HTTPStatus(status).phrase, "content": content}
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            found[status]["headers"] = wait
    return found


def _document_token(app: FastAPI, service: Service) -> None:
    """Say in the OpenAPI page that the token is asked for."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        schema = made()
        if service.options.token is not None:
            schema["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
            for path, operations in schema["paths"].items():
                for operation in operations.values():
                    operation["security"] = [] if path in {"/healthz", "/readyz"} else [{"token": []}]
        return schema

    vars(app)["openapi"] = openapi
