"""The image in a request's body, which is counted while it arrives and refused as soon as it is too large."""

from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any

from fastapi import Request
from starlette.datastructures import UploadFile as FormFile
from starlette.types import Message, Receive

from engine.imageio.formats import FORMATS, join_words
from service.problems import ProblemError

FIELD = "image"
OCTETS = "application/octet-stream"
# As OpenAPI describes them.
PICTURE = {"type": "string", "format": "binary"}
PICTURES = {"type": "array", "minItems": 1, "items": PICTURE}


def described(text: str, field: Mapping[str, Any], *others: str) -> dict[str, Any]:
    """The OpenAPI description of a body: a form with such a field, or a file as it is, of the others' types."""
    form = {"type": "object", "required": [FIELD], "properties": {FIELD: field}}
    content = {"multipart/form-data": {"schema": form}, **{other: {"schema": PICTURE} for other in others}}
    return {"requestBody": {"required": True, "description": text, "content": content}}


PICTURE_BODY = described(
    f"{join_words([kind.title for kind in FORMATS.values()])}, in the form's field or as it is.", PICTURE, OCTETS
)


class BodyTooLarge(ProblemError):
    """More bytes than are taken."""

    status = 413


class WrongField(ProblemError):
    """A form without the image where it should be."""

    status = 422


async def read_image(
    request: Request, max_bytes: int, arrived: Callable[[int], None] = lambda more: None
) -> bytes:
    """The bytes of a form's field `image`, or else the whole body, whatever its Content-Type.

    (curl's --data-binary says that an image is a urlencoded form.)
    arrived: called with the bytes of each part, and may raise what it likes.
    Raises BodyTooLarge, WrongField, or HTTPException with status 400 for a form that is none.
    """
    body = counted(request, max_bytes, arrived)
    return await (_read_field(body) if is_form(request) else _whole(body))


def is_form(request: Request) -> bool:
    """Whether it says that its body is a form that may hold files."""
    return request.headers.get("content-type", "").lower().startswith("multipart/form-data")


def announced(request: Request, max_bytes: int) -> int:
    """How many bytes it says that its body has; 0 if it does not. Raises BodyTooLarge."""
    said = request.headers.get("content-length", "")
    size = int(said) if said.isdecimal() else 0
    if size > max_bytes:
        raise BodyTooLarge(f"The body has {size} bytes; at most {max_bytes} are taken.")
    return size


def counted(request: Request, max_bytes: int, arrived: Callable[[int], None] = lambda more: None) -> Request:
    """The same request, with a body that ends in BodyTooLarge before it becomes too large.

    Raises BodyTooLarge if it announces that it will.
    """
    announced(request, max_bytes)
    return Request(request.scope, _counted(request.receive, max_bytes, arrived))


def _counted(receive: Receive, max_bytes: int, arrived: Callable[[int], None]) -> Receive:
    """The same messages, up to the one that makes the body too large."""
    received = 0

    async def receive_and_count() -> Message:
        nonlocal received
        message = await receive()
        more = len(message.get("body", b""))
        received += more
        if received > max_bytes:
            raise BodyTooLarge(f"The body has at least {received} bytes; at most {max_bytes} are taken.")
        arrived(more)
        return message

    return receive_and_count


async def until_gone(request: Request) -> None:
    """Return once the client goes away, the body being read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _whole(request: Request) -> bytes:
    """Part by part into one block: parts that are kept until the last has come take as much memory again, which
    the C library then holds on to.
    """
    body = BytesIO()
    async for part in request.stream():
        body.write(part)
    return body.getvalue()


async def _read_field(request: Request) -> bytes:
    async with request.form() as form:
        value = form.get(FIELD)
        if isinstance(value, FormFile):
            return await value.read()
        came = "as text" if isinstance(value, str) else f"among: {', '.join(form) or 'nothing'}"
    raise WrongField(f"The image is taken from the file field {FIELD!r}, which came {came}.")
