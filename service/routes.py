"""What the service answers to: a picture to denoise, questions about itself, and the page."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse
from pydantic import BaseModel, Field

from engine.auto import AUTO
from engine.estimate import in_words
from engine.formats import FORMATS, WRITTEN, chosen, listed
from engine.images import Picture, encode, read
from engine.networks import kind_of
from engine.picture import Finish, denoise
from engine.weights import Model
from service.accept import DEFAULT, acceptable
from service.body import FIELD, read_picture
from service.errors import documented
from service.models import Models
from service.schedule import Schedule, Turn
from service.settings import Settings
from service.wishes import Wishes

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
        "description": f"{listed([kind.title for kind in FORMATS.values()])}, in the form's field or as it is.",
        "content": {"multipart/form-data": {"schema": _FORM}, "application/octet-stream": {"schema": _PICTURE}},
    }
}
_CLEAN = {
    "description": "The picture without its noise.",
    "content": {FORMATS[name].media_type: {"schema": _PICTURE} for name in WRITTEN},
    "headers": {
        name: {"description": text, "schema": {"type": "string"}}
        for name, text in {
            "X-Denoise-Model": "The model's name, percent-encoded.",
            "X-Denoise-Digest": "SHA-256 of its weights.",
            "X-Denoise-Precision": "The type its products ran in.",
            "X-Denoise-Seconds": "How long the picture took, without its upload and the wait for its turn.",
            "X-Denoise-Noise": "What noise was found, where the model was chosen by it.",
            "X-Denoise-Changed": "What this format could not hold of the picture, if there is anything.",
        }.items()
    },
}
_ERRORS = documented(
    {
        400: "No picture, or a broken one.",
        404: "No such model.",
        406: "No format that is accepted is written.",
        413: "Too many bytes, pixels or pages.",
        415: "A kind of picture that is not taken.",
        422: "A form without the field, a parameter out of its range, or a format that cannot hold the picture.",
    }
)

router = APIRouter()


class Health(BaseModel):
    """What the service is, and what it is doing."""

    ready: bool = Field(description="Nothing is answered before the weights are loaded.")
    model: str = Field(description="What a request gets that names no model.")
    digests: dict[str, str] = Field(description="SHA-256 of its weights, or of those it chooses among.")
    device: str
    precision: str = Field(description="The type that products run in.")
    version: str
    denoising: int = Field(description="Pictures that are being decoded, denoised or encoded.")
    waiting: int = Field(description="Pictures that wait for their turn.")


class About(BaseModel):
    """A model that a request may name."""

    name: str
    default: bool
    kind: str = Field(description="The network, or that one of several is chosen by the noise found.")
    digests: dict[str, str] = Field(description="SHA-256 of its weights, or of those it chooses among.")
    metadata: dict[str, str]


@router.post("/denoise", response_class=Response, responses={200: _CLEAN, **_ERRORS}, openapi_extra=_BODY)
async def post_denoise(request: Request, wishes: Annotated[Wishes, Query()]) -> Response:
    """Return a picture of the same size without its noise."""
    models: Models = request.state.models
    name = models.named(wishes.model)
    target = wishes.format or acceptable(request.headers.get("accept"))
    # A format that is not written is refused before the picture is read.
    chosen(target, FORMATS[DEFAULT])
    settings: Settings = request.state.settings
    body = await read_picture(request, settings.max_bytes)
    async with request.state.schedule.turn(request.receive) as turn:
        file = await turn.in_thread(partial(read, body, settings.max_pixels, settings.max_pages, wishes.page))
        # A name for each large thing would keep it until the end.
        del body
        kind = chosen(target, file.kind)
        finish = Finish(wishes.strength, wishes.luma, wishes.chroma, wishes.output)
        pages = list(file.pages)
        file = replace(file, pages=())
        # The first page decides for all: they come from one camera.
        model, estimate = await turn.in_thread(partial(models.choose, name, pages[0]))
        for number in range(len(pages)):
            pages[number] = await turn.in_thread(partial(_denoise, model, pages[number], settings, turn, finish))
        file = replace(file, pages=tuple(pages))
        written = await turn.in_thread(partial(encode, file, kind, wishes.quality, settings.png_level))
    headers = {
        "X-Denoise-Model": quote(model.name),
        "X-Denoise-Digest": model.digest,
        "X-Denoise-Precision": models.precision,
        "X-Denoise-Seconds": f"{turn.seconds:.3f}",
    }
    if estimate:
        headers["X-Denoise-Noise"] = in_words(estimate)
    if written.changed:
        headers["X-Denoise-Changed"] = "; ".join(written.changed)
    return Response(written.data, media_type=kind.media_type, headers=headers)


def _denoise(model: Model, noisy: Picture, settings: Settings, turn: Turn, finish: Finish) -> Picture:
    return denoise(
        model.net, noisy, settings.memory_budget, wanted=turn.wanted, in_turn=turn.in_network, finish=finish
    )


@router.get("/health")
async def get_health(request: Request) -> Health:
    """Whether the service is ready, what it runs, and how busy it is."""
    models: Models = request.state.models
    schedule: Schedule = request.state.schedule
    return Health(
        ready=True,
        model=models.default,
        digests={model.name: model.digest for model in models.behind(models.default)},
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
    return [_about(models, name) for name in models.names]


def _about(models: Models, name: str) -> About:
    behind = models.behind(name)
    digests = {model.name: model.digest for model in behind}
    kind, metadata = ("choice", {}) if name == AUTO else (kind_of(behind[0].spec), behind[0].metadata)
    return About(name=name, default=name == models.default, kind=kind, digests=digests, metadata=metadata)


@router.get("/", include_in_schema=False)
async def get_page() -> FileResponse:
    """The page: drop a picture, see before and after, download."""
    return FileResponse(PAGE / "index.html", headers=PAGE_HEADERS)
