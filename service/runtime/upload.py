"""Uploads: the image in a request's body, written to shared memory as it arrives."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from starlette.datastructures import UploadFile as FormFile
from starlette.types import Message, Receive

from engine.imageio.formats import FORMATS, join_words
from engine.imageio.sandbox.shared_file import MemoryFile, SharedFile
from service.problems import ProblemError
from service.runtime.scheduler import Scheduler

FIELD = "image"
OCTETS = "application/octet-stream"
# How OpenAPI describes a file, and a form's field of several files.
FILE_SCHEMA = {"type": "string", "format": "binary"}
FILES_SCHEMA = {"type": "array", "minItems": 1, "items": FILE_SCHEMA}
# How much of a form's file is copied at a time, in bytes.
CHUNK = 2**20


def described(text: str, field: Mapping[str, Any], *others: str) -> dict[str, Any]:
    """OpenAPI's description of a body: a form with this field, or the file itself as one of the other types."""
    form = {"type": "object", "required": [FIELD], "properties": {FIELD: field}}
    content = {"multipart/form-data": {"schema": form}, **{other: {"schema": FILE_SCHEMA} for other in others}}
    return {"requestBody": {"required": True, "description": text, "content": content}}


IMAGE_BODY = described(
    f"{join_words([kind.title for kind in FORMATS.values()])}, in the form's field or as the whole body.",
    FILE_SCHEMA,
    OCTETS,
)


class BodyTooLarge(ProblemError):
    """More bytes than the limit."""

    status = 413


class WrongField(ProblemError):
    """A form without a file in the field `image`."""

    status = 422


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


@asynccontextmanager
async def receive_upload(request: Request, scheduler: Scheduler, max_bytes: int) -> AsyncIterator[ImageSource]:
    """The image in a request's body. It takes memory, and counts as body memory, until the block ends.

    Raises QueueFull (before the body is read, if possible) and what read_image raises.
    """
    size = announced(request, max_bytes)
    scheduler.refuse_if_full()
    with scheduler.arriving(size) as arrived, MemoryFile("upload") as file:
        await read_image(request, file, max_bytes, arrived)
        yield ImageSource.of(file.seal())


async def read_image(
    request: Request, file: MemoryFile, max_bytes: int, arrived: Callable[[int], None] = lambda more: None
) -> None:
    """Writes to `file` a form's field `image`, or else the whole body, whatever its Content-Type.

    (curl's --data-binary calls an image a urlencoded form.)
    arrived: called with the number of bytes of each chunk; what it raises ends the upload.
    Raises BodyTooLarge, WrongField, or HTTPException with status 400 for a form that cannot be parsed.
    """
    body = counted(request, max_bytes, arrived)
    if is_form(request):
        await _read_field(body, file)
    else:
        async for chunk in body.stream():
            file.write(chunk)


def is_form(request: Request) -> bool:
    """Whether the request's headers announce a form that may hold files."""
    return request.headers.get("content-type", "").lower().startswith("multipart/form-data")


def announced(request: Request, max_bytes: int) -> int:
    """The body's size by its headers, in bytes; 0 if they do not say. Raises BodyTooLarge."""
    header = request.headers.get("content-length", "")
    size = int(header) if header.isdecimal() else 0
    if size > max_bytes:
        raise BodyTooLarge(f"The body has {size} bytes; at most {max_bytes} are allowed.")
    return size


def counted(request: Request, max_bytes: int, arrived: Callable[[int], None] = lambda more: None) -> Request:
    """The same request. Reading its body raises BodyTooLarge at the first chunk beyond max_bytes.

    Raises BodyTooLarge at once if the headers announce more.
    """
    announced(request, max_bytes)
    return Request(request.scope, _counted(request.receive, max_bytes, arrived))


def _counted(receive: Receive, max_bytes: int, arrived: Callable[[int], None]) -> Receive:
    received = 0

    async def receive_and_count() -> Message:
        nonlocal received
        message = await receive()
        more = len(message.get("body", b""))
        received += more
        if received > max_bytes:
            raise BodyTooLarge(f"The body has at least {received} bytes; at most {max_bytes} are allowed.")
        arrived(more)
        return message

    return receive_and_count


async def until_disconnected(request: Request) -> None:
    """Returns when the client closes the connection. Call it after the body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _read_field(request: Request, file: MemoryFile) -> None:
    async with request.form() as form:
        value = form.get(FIELD)
        if isinstance(value, FormFile):
            while chunk := await value.read(CHUNK):
                file.write(chunk)
            return
        fault = "is text, not a file" if isinstance(value, str) else f"is missing; the form has: {_names(form)}"
    raise WrongField(f"The form's file field {FIELD!r} {fault}.")


def _names(form: Mapping[str, Any]) -> str:
    return ", ".join(form) or "nothing"
