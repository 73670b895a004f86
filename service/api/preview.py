"""POST /preview: decodes an image for programs that cannot, without denoising it."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from engine.imageio.formats import FORMATS
from service.params import PageParams
from service.problems import BUSY_ERRORS, describe_problems
from service.runtime.parameters import with_fields
from service.runtime.pipeline import PREVIEW_FORMAT, Pipeline
from service.runtime.ticket import MemoryShare, response_memory
from service.runtime.upload import FILE_SCHEMA, image_body, receive_upload, until_disconnected

_MEDIA_TYPE = FORMATS[PREVIEW_FORMAT].media_type
_DECODED = {
    "description": "The image, upright and otherwise unchanged.",
    "content": {_MEDIA_TYPE: {"schema": FILE_SCHEMA}},
    "headers": {
        "X-Denoise-Changed": {
            "description": "What was lost because PNG cannot hold it, if anything.",
            "schema": {"type": "string"},
        }
    },
}
_ERRORS = describe_problems(
    {
        400: "Not an image, or a broken one.",
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
    summary="Decode an image",
    response_class=Response,
    responses={200: _DECODED, **_ERRORS},
    openapi_extra=image_body(PageParams),
)
async def post_preview(
    request: Request,
    params: Annotated[PageParams, Query()],
    memory: Annotated[MemoryShare, Depends(response_memory)],
) -> Response:
    """Decode one page of a file, and answer with it as PNG, for programs that cannot read the file's format.

    The noise is neither measured nor removed, and the pixels do not count against the limit of the API key.
    """
    pipeline: Pipeline = request.state.pipeline
    async with receive_upload(request, request.state.scheduler, request.state.settings) as upload:
        page = with_fields(params, request, upload.fields).page or 1
        written = await pipeline.preview(upload.image, page, memory, partial(until_disconnected, request))
    headers = {"X-Denoise-Changed": "; ".join(written.changed)} if written.changed else None
    return Response(written.data, media_type=written.kind.media_type, headers=headers)
