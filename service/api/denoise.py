"""POST /denoise: removes the noise from one image."""

from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from engine.imageio.formats import FORMATS, WRITABLE_FORMATS
from service.api.content_negotiation import negotiate_format
from service.auth.dependencies import owner
from service.params import DenoiseParams
from service.problems import BUSY_ERRORS, describe_problems
from service.runtime.pipeline import Pipeline, refuse_unknown
from service.runtime.scheduler import Scheduler
from service.runtime.ticket import MemoryShare
from service.runtime.upload import FILE_SCHEMA, IMAGE_BODY, receive_upload, until_disconnected

_CLEAN = {
    "description": "The denoised image.",
    "content": {FORMATS[name].media_type: {"schema": FILE_SCHEMA} for name in WRITABLE_FORMATS},
    "headers": {
        name: {"description": text, "schema": {"type": "string"}}
        for name, text in {
            "X-Denoise-Model": "The model's name, percent-encoded.",
            "X-Denoise-Digest": "SHA-256 of the weights.",
            "X-Denoise-Precision": "The type that the network computed in.",
            "X-Denoise-Seconds": "Seconds of work on the image, without the upload and the wait in the queue.",
            "X-Denoise-Noise": "The noise that was found, in words and figures.",
            "X-Denoise-Estimate": "The noise that was found, as JSON: the main fields of POST /estimate.",
            "X-Denoise-Steps": "What was done besides running the network, or why the image is unchanged.",
            "X-Denoise-Changed": "What was lost because the format cannot hold it, if anything.",
        }.items()
    },
}
_ERRORS = describe_problems(
    {
        400: "Not an image, or a broken one.",
        404: "No such model.",
        406: "The service writes none of the accepted formats.",
        413: "Too many bytes, pixels or pages, or too much memory needed.",
        415: "An unsupported kind of image.",
        422: "A form without the field, an invalid parameter, a format that cannot hold the image, or a file "
        "that takes too long to decode.",
        **BUSY_ERRORS,
    }
)

router = APIRouter()


async def _response_memory() -> AsyncIterator[MemoryShare]:
    """The share of memory for the encoded image. FastAPI ends this block once the response is sent or fails."""
    with MemoryShare() as share:
        yield share


@router.post("/denoise", response_class=Response, responses={200: _CLEAN, **_ERRORS}, openapi_extra=IMAGE_BODY)
async def post_denoise(
    request: Request,
    params: Annotated[DenoiseParams, Query()],
    memory: Annotated[MemoryShare, Depends(_response_memory)],
) -> Response:
    """Denoise an image. The result has the same size."""
    pipeline: Pipeline = request.state.pipeline
    scheduler: Scheduler = request.state.scheduler
    refuse_unknown(params, request.state.registry.models)
    if params.format is None:
        params.format = negotiate_format(request.headers.get("accept"))
    charge = request.state.api_keys.charger(owner(request))
    async with receive_upload(request, scheduler, request.state.settings.max_bytes) as image:
        denoised = await pipeline.denoise(image, params, memory, partial(until_disconnected, request), charge)
    encoded = denoised.written
    return Response(encoded.data, media_type=encoded.kind.media_type, headers=denoised.headers)
