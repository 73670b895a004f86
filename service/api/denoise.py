"""POST /denoise: removes the noise from one image."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from engine.imageio.formats import FORMATS, WRITABLE_FORMATS
from service.api.content_negotiation import negotiate_format
from service.auth.dependencies import owner
from service.params import DenoiseParams
from service.problems import BUSY_ERRORS, describe_problems
from service.runtime.parameters import with_fields
from service.runtime.pipeline import Pipeline, refuse_unknown
from service.runtime.ticket import MemoryShare, response_memory
from service.runtime.upload import FILE_SCHEMA, image_body, receive_upload, until_disconnected

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
            "X-Denoise-Cache": "hit: the answer to an equal request was kept. pages: the image was kept, and was "
            "written anew in this format. miss: it was denoised.",
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
        415: "An unsupported kind of image, or of compression of the body.",
        422: "A form without the field, an unknown or invalid parameter, a format that cannot hold the image, or "
        "a file that takes too long to decode.",
        **BUSY_ERRORS,
    }
)

router = APIRouter(tags=["images"])


@router.post(
    "/denoise",
    operation_id="denoise_image",
    summary="Denoise an image",
    response_class=Response,
    responses={200: _CLEAN, **_ERRORS},
    openapi_extra=image_body(DenoiseParams),
)
async def post_denoise(
    request: Request,
    params: Annotated[DenoiseParams, Query()],
    memory: Annotated[MemoryShare, Depends(response_memory)],
) -> Response:
    """Denoise an image. The result has the same size.

    The parameters may also be fields of the form.
    """
    pipeline: Pipeline = request.state.pipeline
    refuse_unknown(params, request.state.registry.models)
    charge = request.state.api_keys.charger(owner(request))
    async with receive_upload(request, request.state.scheduler, request.state.settings) as upload:
        params = with_fields(params, request, upload.fields)
        refuse_unknown(params, request.state.registry.models)
        if params.format is None:
            params.format = negotiate_format(request.headers.get("accept"))
        disconnected = partial(until_disconnected, request)
        denoised = await pipeline.denoise(upload.image, params, memory, disconnected, charge)
    encoded = denoised.written
    return Response(encoded.data, media_type=encoded.kind.media_type, headers=denoised.headers)
