"""POST /preview: renders parts of an image for the eye, noisy or denoised."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from engine.imageio.formats import FORMATS
from service.auth.dependencies import owner
from service.params import PreviewParams
from service.problems import BUSY_ERRORS, describe_problems
from service.runtime.parameters import with_fields
from service.runtime.preview import PREVIEW_FORMAT, Previewer
from service.runtime.ticket import MemoryShare, response_memory
from service.runtime.upload import FILE_SCHEMA, image_body, until_disconnected
from service.runtime.views import opened_view

_MEDIA_TYPE = FORMATS[PREVIEW_FORMAT].media_type
_RENDERED = {
    "description": "The image, upright.",
    "content": {_MEDIA_TYPE: {"schema": FILE_SCHEMA}},
    "headers": {
        name: {"description": text, "schema": {"type": "string"}}
        for name, text in {
            "X-Denoise-View": "The page, as JSON: its size, type, range and histogram, the number of pages, the "
            "black and white points, and the name of the view for further requests.",
            "X-Denoise-Model": "The model that denoised it, percent-encoded. Only for clean and compare.",
            "X-Denoise-Steps": "What was done besides running the network, if anything.",
            "X-Denoise-Changed": "What was lost because PNG cannot hold it, if anything.",
        }.items()
    },
}
_ERRORS = describe_problems(
    {
        400: "Not an image, or a broken one.",
        404: "No such model, or no such view: send the file again.",
        413: "Too many bytes or pixels, or too much memory needed.",
        415: "An unsupported kind of image, or of compression of the body.",
        422: "A form without the field, an invalid parameter, a missing page, or a file that takes too long to "
        "decode.",
        **BUSY_ERRORS,
    }
)

router = APIRouter(tags=["images"])


@router.post(
    "/preview",
    operation_id="preview_image",
    summary="Show a part of an image",
    response_class=Response,
    responses={200: _RENDERED, **_ERRORS},
    openapi_extra=image_body(PreviewParams),
)
async def post_preview(
    request: Request,
    params: Annotated[PreviewParams, Query()],
    memory: Annotated[MemoryShare, Depends(response_memory)],
) -> Response:
    """Decode one page of a file, and answer with it as PNG, for programs that cannot read or show the file.

    A part can be chosen, made smaller, denoised as POST /denoise does, and mapped to 8 bits between a black and a
    white point. The answer names a view: with it, further requests need not send the file again. Only denoised
    pixels count against the limit of the API key.
    """
    previewer: Previewer = request.state.previewer
    request.state.registry.models.resolve_name(params.model)
    charge = request.state.api_keys.charger(owner(request))
    async with opened_view(request, params.view) as (view, fields):
        params = with_fields(params, request, fields)
        disconnected = partial(until_disconnected, request)
        preview = await previewer.render(view, params, memory, disconnected, charge)
    return Response(preview.written.data, media_type=preview.written.kind.media_type, headers=preview.headers)
