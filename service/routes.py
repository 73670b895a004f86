"""What the service answers to: a picture to denoise, questions about itself, and the page."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse
from pydantic import BaseModel, Field

from engine.images import Picture, decode, encode_png
from engine.networks import kind_of
from engine.picture import denoise
from engine.weights import Model
from service.body import FIELD, read_picture
from service.errors import documented
from service.models import Models
from service.schedule import Schedule, Turn
from service.settings import Settings

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
    denoising: int = Field(description="Pictures that are being decoded, denoised or encoded.")
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
    settings: Settings = request.state.settings
    body = await read_picture(request, settings.max_bytes)
    async with request.state.schedule.turn(request.receive) as turn:
        noisy = await turn.in_thread(partial(decode, body, settings.max_pixels))
        # A name for each large thing would keep it until the end.
        del body
        clean = await turn.in_thread(partial(_denoise, chosen, noisy, settings, turn))
        del noisy
        png = await turn.in_thread(partial(encode_png, clean, settings.png_level))
    headers = {
        "X-Denoise-Model": quote(chosen.name),
        "X-Denoise-Digest": chosen.digest,
        "X-Denoise-Precision": models.precision,
        "X-Denoise-Seconds": f"{turn.seconds:.3f}",
    }
    return Response(png, media_type="image/png", headers=headers)


def _denoise(model: Model, noisy: Picture, settings: Settings, turn: Turn) -> Picture:
    return denoise(model.net, noisy, settings.memory_budget, wanted=turn.wanted, in_turn=turn.in_network)


@router.get("/health")
async def get_health(request: Request) -> Health:
    """Whether the service is ready, what it runs, and how busy it is."""
    models: Models = request.state.models
    schedule: Schedule = request.state.schedule
    return Health(
        ready=True,
        model=models.default.name,
        digest=models.default.digest,
        device=models.device,
        precision=models.precision,
        version=request.app.version,
        denoising=schedule.in_work,
        waiting=schedule.waiting,
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
