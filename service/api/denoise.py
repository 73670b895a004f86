"""What the service answers to: an image to denoise, questions about itself, and the page."""

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from prometheus_client.exposition import choose_encoder
from pydantic import BaseModel, Field

from engine.imageio.formats import FORMATS, WRITTEN
from engine.layers import kernels
from service.api.content_negotiation import acceptable
from service.auth.dependencies import owner
from service.middleware.etag import with_etag
from service.middleware.request_limits import Stopping
from service.params import DenoiseParams
from service.problems import BUSY, documented
from service.registry.registry import ModelRegistry
from service.registry.snapshot import Digests, Fault, Loaded, Previous
from service.runtime.pipeline import Pipeline, refuse_unknown
from service.runtime.scheduler import Scheduler
from service.runtime.shutdown import GracefulShutdown
from service.runtime.ticket import MemoryShare
from service.runtime.upload import FILE_SCHEMA, IMAGE_BODY, receive_upload, until_disconnected
from service.telemetry.metrics import Metrics

PAGE = Path(__file__).parents[1] / "page"
# The page loads nothing from elsewhere, and runs no script but its own file.
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}
_CLEAN = {
    "description": "The image without its noise.",
    "content": {FORMATS[name].media_type: {"schema": FILE_SCHEMA} for name in WRITTEN},
    "headers": {
        name: {"description": text, "schema": {"type": "string"}}
        for name, text in {
            "X-Denoise-Model": "The model's name, percent-encoded.",
            "X-Denoise-Digest": "SHA-256 of its weights.",
            "X-Denoise-Precision": "The type its products ran in.",
            "X-Denoise-Seconds": "How long the image took, without its upload and the wait for its turn.",
            "X-Denoise-Noise": "What noise was found, where the model was chosen by it.",
            "X-Denoise-Changed": "What this format could not hold of the image, if there is anything.",
        }.items()
    },
}
_ERRORS = documented(
    {
        400: "No image, or a broken one.",
        404: "No such model.",
        406: "No format that is accepted is written.",
        413: "Too many bytes, pixels or pages, or too much memory.",
        415: "A kind of image that is not taken.",
        422: "A form without the field, a parameter out of its range, a format that cannot hold the image, or "
        "a file that takes too long to decode.",
        **BUSY,
    }
)

router = APIRouter()


class Health(BaseModel):
    """What the service is, and what it is doing."""

    ready: bool = Field(
        description="The weights are loaded, before which nothing is answered, and it is not stopping."
    )
    model: str = Field(description="What a request gets that names no model.")
    digests: Digests
    previous: Previous
    loaded: Loaded
    faults: list[Fault] = Field(description="Weights files that are not what is served under their names.")
    device: str
    precision: str = Field(description="The type that products run in.")
    kernels: str = Field(description="The compiled kernels in use on the processor, or plain, which is none.")
    version: str
    denoising: int = Field(description="Images that are being decoded, denoised or encoded.")
    waiting: int = Field(description="Images that wait for their turn.")
    jobs: bool = Field(description="Whether images can be left here as jobs.")


async def _response_memory() -> AsyncIterator[MemoryShare]:
    """The share that holds the encoded image. FastAPI ends this block once the response is sent, or cannot be."""
    with MemoryShare() as share:
        yield share


@router.post("/denoise", response_class=Response, responses={200: _CLEAN, **_ERRORS}, openapi_extra=IMAGE_BODY)
async def post_denoise(
    request: Request,
    params: Annotated[DenoiseParams, Query()],
    memory: Annotated[MemoryShare, Depends(_response_memory)],
) -> Response:
    """Return an image of the same size without its noise."""
    pipeline: Pipeline = request.state.pipeline
    scheduler: Scheduler = request.state.scheduler
    refuse_unknown(params, request.state.shelf.models)
    if params.format is None:
        params.format = acceptable(request.headers.get("accept"))
    charge = request.state.keys.charging(owner(request))
    async with receive_upload(request, scheduler, request.state.settings.max_bytes) as image:
        denoised = await pipeline.denoise(image, params, memory, partial(until_disconnected, request), charge)
    encoded = denoised.written
    return Response(encoded.data, media_type=encoded.kind.media_type, headers=denoised.headers)


@router.get("/health")
async def get_health(request: Request) -> Health:
    """Whether the service is ready, what it runs, and how busy it is."""
    closing: GracefulShutdown = request.state.closing
    registry: ModelRegistry = request.state.shelf
    models = registry.models
    scheduler: Scheduler = request.state.scheduler
    return Health(
        ready=not closing.begun,
        model=models.default,
        **models.history(models.default),
        faults=list(models.faults.values()),
        device=models.device,
        precision=models.precision,
        kernels=kernels.name(),
        version=request.app.version,
        denoising=scheduler.in_work,
        waiting=scheduler.waiting,
        jobs=request.state.worker is not None,
    )


@router.get("/health/live")
async def get_live() -> dict[str, bool]:
    """Whether the process answers: if not, start it again."""
    return {"live": True}


@router.get("/health/ready", responses=documented({503: "The service is stopping."}))
async def get_ready(request: Request) -> dict[str, bool]:
    """Whether to send images here."""
    closing: GracefulShutdown = request.state.closing
    if closing.begun:
        raise Stopping
    return {"ready": True}


@router.get("/metrics", include_in_schema=False)
async def get_metrics(request: Request) -> Response:
    """What is counted, in a format that Prometheus reads."""
    metrics: Metrics = request.state.metrics
    encode, media_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(metrics.registry), media_type=media_type)


@router.get("/", include_in_schema=False)
def get_page(request: Request) -> Response:
    """The page: drop an image, see before and after, download."""
    html = (PAGE / "index.html").read_bytes()
    return with_etag(request, Response(html, media_type="text/html", headers=PAGE_HEADERS))
