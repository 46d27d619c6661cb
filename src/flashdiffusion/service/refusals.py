"""Why a request gets no result, as JSON that says so (RFC 9457)."""

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, ValidationError
from starlette.exceptions import HTTPException

MEDIA_TYPE = "application/problem+json"
RETRY = 5  # seconds after which one who found the service full may try again


class ProblemDetails(BaseModel):
    """Why a request was refused, or failed."""

    type: str = "about:blank"
    title: str = Field(examples=["Unprocessable Entity"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["blurred.png: damaged or truncated image; expected a whole one"])


class Refusal(Exception):
    """A request that gets no result.

    Args:
        status: HTTP's.
        detail: what was wrong, what was expected.
        retry_after: seconds after which it may be accepted; None if it never will.
    """

    def __init__(self, status: int, detail: str, retry_after: int | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.retry_after = status, detail, retry_after

    @property
    def headers(self) -> dict[str, str]:
        """Those that go with it."""
        found = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return found | ({"WWW-Authenticate": "Bearer"} if self.status == HTTPStatus.UNAUTHORIZED else {})

    @property
    def problem(self) -> dict[str, Any]:
        """It as JSON."""
        return ProblemDetails(title=HTTPStatus(self.status).phrase, status=self.status, detail=self.detail).model_dump()

    @property
    def response(self) -> JSONResponse:
        """It as an answer."""
        return JSONResponse(self.problem, self.status, self.headers, MEDIA_TYPE)


def invalid(error: ValidationError | RequestValidationError) -> Refusal:
    """Refuse values that are none: which, and what was expected."""
    found = []
    for one in error.errors():
        where = ".".join(str(part) for part in one["loc"] if part not in {"query", "path", "header", "body"})
        message = one["msg"].removeprefix("Value error, ")
        found.append(f"{where}: {message}" if where else message)
    return Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, "; ".join(found))


def add_refusals(app: FastAPI) -> None:
    """Let everything that fails be answered in the same way."""

    async def refused(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, Refusal)
        return error.response

    async def wrong(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, (RequestValidationError, ValidationError))
        return invalid(error).response

    async def plain(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        answer = Refusal(error.status_code, str(error.detail)).response
        answer.headers.update(error.headers or {})
        return answer

    async def fault(request: Request, error: Exception) -> JSONResponse:
        return Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "a fault of the service; it is in its log").response

    for kind, handler in {Refusal: refused, RequestValidationError: wrong, HTTPException: plain}.items():
        app.add_exception_handler(kind, handler)
    app.add_exception_handler(Exception, fault)
