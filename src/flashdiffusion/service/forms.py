"""A request's form: read within limits, checked, and described for the OpenAPI page."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from flashdiffusion.service.asked import Asked
from flashdiffusion.service.refusals import Refusal, invalid
from flashdiffusion.service.uploads import Uploaded

FILE, ATTACHMENT = "file", "attachment"
ATTACHMENTS, FIELDS, PART = 4, 64, 4096  # of a request at most; bytes of a field
READ_SECONDS = 60  # in which a request is to be here in full
_FILES: dict[str, Any] = {
    FILE: {
        "type": "string",
        "format": "binary",
        "description": "The picture (PNG, JPEG, TIFF, WebP, ...), array (.npy, .npz, .pt, .mat) or measurement file "
        "(.safetensors of `flashdiffusion degrade`); the suffix of its name says which.",
    },
    ATTACHMENT: {
        "type": "array",
        "maxItems": ATTACHMENTS,
        "items": {"type": "string", "format": "binary"},
        "description": "Files that the physics names: masks, blur kernels.",
    },
}


@dataclass(frozen=True)
class Form:
    """What came with a request."""

    upload: Uploaded
    attachments: Mapping[str, Uploaded]
    asked: Asked


@asynccontextmanager
async def form_of(request: Request, model: type[Asked]) -> AsyncIterator[Form]:
    """Read the form of a request; its files are there until the end of the block.

    Raises:
        Refusal: it is no such form.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "multipart/form-data":
        raise Refusal(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "expected a form: multipart/form-data with a file, as curl -F file=@FILE"
        )
    data = await _read(request)
    try:
        yield _checked(data, model)
    finally:
        await data.close()


async def _read(request: Request) -> FormData:
    try:
        async with asyncio.timeout(READ_SECONDS):
            return await request.form(max_files=1 + ATTACHMENTS, max_fields=FIELDS, max_part_size=PART)
    except TimeoutError as error:
        raise Refusal(HTTPStatus.REQUEST_TIMEOUT, f"the request did not come in full in {READ_SECONDS} s") from error
    except ClientDisconnect as error:
        raise Refusal(HTTPStatus.BAD_REQUEST, "the request ended early") from error
    except HTTPException as error:
        raise Refusal(HTTPStatus.BAD_REQUEST, f"the form cannot be read: {error.detail}") from error


def _checked(data: FormData, model: type[Asked]) -> Form:
    files: dict[str, list[Uploaded]] = {FILE: [], ATTACHMENT: []}
    values: dict[str, str] = {}
    for name, count in Counter(name for name, _ in data.multi_items()).items():
        if count > 1 and name != ATTACHMENT:
            raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, f"{name[:80]!r} is given {count} times; expected once")
    for name, value in data.multi_items():
        if name in files and isinstance(value, UploadFile):
            files[name].append(Uploaded.of(value.filename, value.file, name))
        elif isinstance(value, UploadFile) or name in files:
            expected = "a text" if isinstance(value, UploadFile) else "a file, with its name"
            raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, f"{name[:80]!r}: expected {expected}")
        elif value != "":  # as forms of browsers send what was left empty
            values[name] = value
    if not files[FILE]:
        raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, f"{FILE!r} is missing; expected the picture to restore")
    attachments = {one.name: one for one in files[ATTACHMENT]}
    if len(attachments) < len(files[ATTACHMENT]):
        raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, "attachments of the same name; expected a name for each")
    try:
        return Form(files[FILE][0], attachments, model.model_validate(values))
    except ValidationError as error:
        raise invalid(error) from error


def described(model: type[BaseModel]) -> dict[str, Any]:
    """The form for OpenAPI."""
    schema = model.model_json_schema()
    properties = {name: _given(one) for name, one in schema["properties"].items()}
    form = {
        "type": "object",
        "properties": _FILES | properties,
        "required": [FILE],
        "additionalProperties": False,
        "example": {"physics": "gaussian-blur:std=2", "noise_std": "0.02", "seed": 0},
    }
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": form}}}}


def _given(schema: dict[str, Any]) -> dict[str, Any]:
    """A field's schema where it is given: null cannot be written in a form."""
    rest = {key: value for key, value in schema.items() if key not in {"anyOf", "title", "default"}}
    kinds = [one for one in schema.get("anyOf", [{}]) if one.get("type") != "null"]
    known = {} if schema.get("default") is None else {"default": schema["default"]}
    return rest | kinds[0] | known
