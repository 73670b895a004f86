"""What the service answers to: a picture to denoise, questions about itself, and the page."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import Annotated, Any, TypeVar
from urllib.parse import quote

from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse
from pydantic import BaseModel, Field

from engine.images import decode, encode_png
from engine.networks import kind_of
from engine.picture import denoise_picture
from engine.weights import Model
from service.body import FIELD, read_picture
from service.errors import documented
from service.models import Models
from service.settings import Settings

T = TypeVar("T")

PAGE = Path(__file__).parent / "page"
# The page loads nothing from elsewhere, and runs no script but its own file.
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_PICTURE = {"type": "string", "format": "binary"}
_FORM = {"type": "object", "required": [FIELD], "properties": {FIELD: _PICTURE}}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "JPEG, PNG, WebP, BMP, TIFF or GIF (first frame), in the form's field or as it is.",
        "content": {"multipart/form-data": {"schema": _FORM}, "application/octet-stream": {"schema": _PICTURE}},
    }
}
_CLEAN = {
    "description": "The picture without its noise.",
    "content": {"image/png": {"schema": _PICTURE}},
    "headers": {
        name: {"description": text, "schema": {"type": "string"}}
        for name, text in {
            "X-Denoise-Model": "The model's name, percent-encoded.",
            "X-Denoise-Digest": "SHA-256 of its weights.",
            "X-Denoise-Precision": "The type its products ran in.",
            "X-Denoise-Seconds": "How long the picture took, without its upload and the wait for its turn.",
        }.items()
    },
}
_ERRORS = documented(
    {
        400: "No picture, or a broken one.",
        404: "No such model.",
        413: "Too many bytes, or too many pixels.",
        415: "A kind of picture that is not taken.",
        422: "A form without the field.",
    }
)

router = APIRouter()


class Health(BaseModel):
    """What the service is, and what it is doing."""

    ready: bool = Field(description="Nothing is answered before the weights are loaded.")
    model: str = Field(description="What a request gets that names no model.")
    digest: str = Field(description="SHA-256 of that model's weights.")
    device: str
    precision: str = Field(description="The type that products run in.")
    version: str
    denoising: int = Field(description="Pictures that are being denoised.")
    waiting: int = Field(description="Pictures that wait for their turn.")


class About(BaseModel):
    """A model that a request may name."""

    name: str
    default: bool
    kind: str
    digest: str
    metadata: dict[str, str]


@router.post("/denoise", response_class=Response, responses={200: _CLEAN, **_ERRORS}, openapi_extra=_BODY)
async def post_denoise(
    request: Request, model: Annotated[str | None, Query(description="A name that /models lists.")] = None
) -> Response:
    """Return a picture of the same size without its noise, as PNG."""
    models: Models = request.state.models
    chosen = models.get(model)
    noisy = await read_picture(request, request.state.settings.max_bytes)
    png, seconds = await _in_turn(request, partial(_denoise, noisy, chosen, request.state.settings))
    headers = {
        "X-Denoise-Model": quote(chosen.name),
        "X-Denoise-Digest": chosen.digest,
        "X-Denoise-Precision": models.precision,
        "X-Denoise-Seconds": f"{seconds:.3f}",
    }
    return Response(png, media_type="image/png", headers=headers)


def _denoise(data: bytes, model: Model, settings: Settings, wanted: Callable[[], bool]) -> tuple[bytes, float]:
    """The denoised picture's file, and the seconds it took."""
    start = time.perf_counter()
    noisy = decode(data, settings.max_pixels)
    clean = denoise_picture(model.net, noisy.pixels, settings.memory_budget, wanted=wanted)
    return encode_png(replace(noisy, pixels=clean)), time.perf_counter() - start


async def _in_turn(request: Request, work: Callable[[Callable[[], bool]], T]) -> T:
    """Run the work in a thread of the few there are, and have it stop when the client goes away.

    A thread, because this is arithmetic, and the event loop has to answer others.
    """
    gone = Event()

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        gone.set()

    watching = asyncio.create_task(watch())
    try:
        return await to_thread.run_sync(work, lambda: not gone.is_set(), limiter=request.state.denoising)
    finally:
        watching.cancel()


@router.get("/health")
async def get_health(request: Request) -> Health:
    """Whether the service is ready, what it runs, and how busy it is."""
    models: Models = request.state.models
    turns = request.state.denoising.statistics()
    return Health(
        ready=True,
        model=models.default.name,
        digest=models.default.digest,
        device=models.device,
        precision=models.precision,
        version=request.app.version,
        denoising=turns.borrowed_tokens,
        waiting=turns.tasks_waiting,
    )


@router.get("/models")
async def get_models(request: Request) -> list[About]:
    """The models there are, each with what is known of its training."""
    models: Models = request.state.models
    return [
        About(
            name=model.name,
            default=model is models.default,
            kind=kind_of(model.spec),
            digest=model.digest,
            metadata=model.metadata,
        )
        for model in models.by_name.values()
    ]


@router.get("/", include_in_schema=False)
async def get_page() -> FileResponse:
    """The page: drop a picture, see before and after, download."""
    return FileResponse(PAGE / "index.html", headers=PAGE_HEADERS)
