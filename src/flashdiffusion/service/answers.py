"""What a service answers, as JSON."""

from base64 import b64encode
from typing import Any

from pydantic import BaseModel, Field

from flashdiffusion.service.jobs import State, StoredJob
from flashdiffusion.service.refusals import ProblemDetails
from flashdiffusion.service.work import Outcome

_RECORD = {
    "id": "blurred",
    "degradation": {"physics": "gaussian-blur", "std": 2.0, "noise_std": 0.02},
    "severity": 0.031,
    "start_step": 187,
    "nfe": 4,
    "gflop": 52.1,
    "seconds": 1.2,
    "consistency": 1.01,
    "file": "blurred.png",
}
Record = dict[str, Any]


class RestoredSample(BaseModel):
    """A result, in the answer itself."""

    image: str = Field(description="PNG, in Base64.", examples=["iVBORw0KGgo..."])
    record: Record = Field(description="As in `results.json` of `flashdiffusion restore`.", examples=[_RECORD])


class Restoration(BaseModel):
    """All results of a request, in the answer itself."""

    samples: list[RestoredSample]
    maps: dict[str, str] = Field(description="Pictures of severity, and of the steps of tiles: PNG, in Base64.")
    notes: list[str] = Field(description="What the user should know.", examples=[["blurred.png has mode CMYK"]])

    @classmethod
    def of(cls, outcome: Outcome) -> "Restoration":
        """Write an outcome."""
        samples = [RestoredSample(image=_base64(one.png), record=one.record) for one in outcome.samples]
        return cls(
            samples=samples, maps={name: _base64(png) for name, png in outcome.maps.items()}, notes=outcome.notes
        )


class JobSample(BaseModel):
    """A result of a job, by its address."""

    image: str = Field(examples=["/v1/jobs/0f3c5e.../images/0"])
    record: Record = Field(examples=[_RECORD])


class Job(BaseModel):
    """A job: how far it is; its results, when it is done, or why there are none."""

    id: str = Field(examples=["0f3c5e0b8f7d4c6f9a2b1d3e5f708192"])
    state: State = Field(examples=["done"])
    created: float = Field(description="Seconds since 1970.")
    expires: float | None = Field(None, description="When it is dropped, in seconds since 1970; null until it is done.")
    samples: list[JobSample] = []
    maps: dict[str, str] = {}
    notes: list[str] = []
    problem: ProblemDetails | None = None

    @classmethod
    def of(cls, job: StoredJob, address: str) -> "Job":
        """Write a job, whose own address is given."""
        about: dict[str, Any] = {"id": job.id, "state": job.state, "created": job.created, "expires": job.expires}
        if job.state == "failed" and job.refusal is not None:
            return cls(**about, problem=ProblemDetails(**job.refusal.problem))
        if job.state != "done":
            return cls(**about)
        samples = [JobSample(image=f"{address}/images/{n}", record=one) for n, one in enumerate(job.records)]
        maps = {name.removeprefix("maps/"): f"{address}/{name}" for name in job.files if name.startswith("maps/")}
        return cls(**about, samples=samples, maps=maps, notes=job.notes)


class Model(BaseModel):
    """A model that is served."""

    name: str = Field(examples=["photos"])
    size: int | None = Field(description="Side in pixels of the images that it was trained on; null for any size.")
    device: str = Field(examples=["cpu"])


class Limits(BaseModel):
    """What a request may have."""

    megabytes: float
    megapixels: float
    samples: int
    seconds: float = Field(description="From acceptance to result.")


class About(BaseModel):
    """What is served."""

    version: str
    models: list[Model] = Field(description="The first is the default.")
    methods: list[str]
    physics: list[str]
    limits: Limits


class Health(BaseModel):
    """How the service is."""

    status: str = Field(examples=["ok"])


def _base64(png: bytes) -> str:
    return b64encode(png).decode()
