"""Uploads: the image in a request's body, written to shared memory as it arrives."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from pydantic import BaseModel

from engine.imageio.formats import FORMATS, join_words
from engine.imageio.sandbox.shared_file import MemoryFile, SharedFile
from service.runtime.body import BodyLimit, announced, counted
from service.runtime.form import FIELD, HEAD_BYTES, Form, WrongField, is_form, refuse_unannounced_form
from service.runtime.scheduler import Scheduler
from service.settings import Settings

OCTETS = "application/octet-stream"
# How OpenAPI describes a file, and a form's field of several files.
FILE_SCHEMA = {"type": "string", "format": "binary"}
FILES_SCHEMA = {"type": "array", "minItems": 1, "items": FILE_SCHEMA}


def described(text: str, field: Mapping[str, Any], params: type[BaseModel], *others: str) -> dict[str, Any]:
    """OpenAPI's description of a body: a form with this field, or the file itself as one of the other types.

    params: the parameters that may also be fields of the form.
    """
    fields = {name: _as_field(about) for name, about in params.model_json_schema()["properties"].items()}
    form = {
        "type": "object",
        "required": [FIELD],
        "properties": {FIELD: field, **fields},
        "additionalProperties": False,
    }
    content = {"multipart/form-data": {"schema": form}, **{other: {"schema": FILE_SCHEMA} for other in others}}
    text = f"{text} It may be compressed, as `Content-Encoding` says: gzip or deflate."
    return {"requestBody": {"required": True, "description": text, "content": content}}


def _as_field(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a parameter, as one of a form's field: it cannot be null."""
    choices = [each for each in schema.get("anyOf", ()) if each != {"type": "null"}]
    kept = {key: value for key, value in schema.items() if key not in ("anyOf", "title") and value is not None}
    return {**kept, **(choices[0] if choices else {})}


def image_body(params: type[BaseModel]) -> dict[str, Any]:
    """OpenAPI's description of a body that is one image. params: as for `described`."""
    kinds = join_words([kind.title for kind in FORMATS.values()])
    return described(f"{kinds}, in the form's field or as the whole body.", FILE_SCHEMA, params, OCTETS)


@dataclass(frozen=True)
class ImageSource:
    """An image file that can be opened, and opened again.

    open: the file, until the block ends; it runs in a thread, and may raise ProblemError. memory: bytes that the
    file takes while it is open, unless a budget counts them already.
    """

    open: Callable[[], AbstractContextManager[SharedFile]]
    memory: int = 0

    @classmethod
    def of(cls, file: SharedFile) -> "ImageSource":
        """A file that stays open as long as it is needed."""
        return cls(lambda: nullcontext(file))


@dataclass(frozen=True)
class Upload:
    """The image in a request's body, and the text fields of its form."""

    image: ImageSource
    fields: Mapping[str, str]


@asynccontextmanager
async def receive_upload(request: Request, scheduler: Scheduler, settings: Settings) -> AsyncIterator[Upload]:
    """What a request's body holds. It takes memory, and counts as body memory, until the block ends.

    Raises QueueFull (before the body is read, if possible) and what read_image raises.
    """
    limit = BodyLimit.of(settings, "max_bytes")
    size = announced(request, limit)
    scheduler.refuse_if_full()
    with scheduler.arriving(size) as arrived, MemoryFile("upload") as file:
        fields = await read_image(request, file, limit, arrived)
        yield Upload(ImageSource.of(file.seal()), fields)


async def read_image(
    request: Request, file: MemoryFile, limit: BodyLimit, arrived: Callable[[int], None] = lambda more: None
) -> Mapping[str, str]:
    """Writes to `file` a form's field `image`, or else the whole body, whatever its Content-Type.

    (curl's --data-binary calls an image a urlencoded form.)
    Returns the form's text fields. arrived: as for `counted`. Raises what `counted` and Form raise.
    """
    body = counted(request, limit, arrived)
    form = Form(request.headers["content-type"], 1, _several_files(request)) if is_form(request) else None
    head = b""
    async for chunk in body.stream():
        head += chunk[: HEAD_BYTES - len(head)]
        file.write(form.feed(chunk) if form else chunk)
    if not form:
        refuse_unannounced_form(request.headers.get("content-type"), head)
        return {}
    form.finish()
    return form.fields


def _several_files(request: Request) -> WrongField:
    return WrongField(
        f"The form has more than one file in the field {FIELD!r}, and {request.url.path} takes one. "
        "POST /denoise/batch denoises many."
    )


async def until_disconnected(request: Request) -> None:
    """Returns when the client closes the connection. Call it after the body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
