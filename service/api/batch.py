"""POST /denoise/batch: denoises many images and streams a zip of the results."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from functools import partial
from tempfile import TemporaryFile
from typing import IO, Annotated

from anyio import to_thread
from fastapi import APIRouter, Depends, Query, Request, Response
from starlette.responses import StreamingResponse
from starlette.types import Send

from service.archives.batch import denoise_batch
from service.archives.upload import read_entries, store_upload
from service.archives.zip_writer import MEDIA_TYPE, NAME, ZipMember, write_zip
from service.auth.dependencies import owner
from service.params import DenoiseParams
from service.problems import BUSY_ERRORS, describe_problems
from service.runtime.parameters import with_fields
from service.runtime.pipeline import Pipeline, refuse_unknown
from service.runtime.scheduler import Cancelled
from service.runtime.upload import FILE_SCHEMA, FILES_SCHEMA, described, until_disconnected
from service.settings import Settings

_BODY = described(
    "Images, each as a file of the form's field; or a zip of images, as the form's only file or as the raw body.",
    FILES_SCHEMA,
    DenoiseParams,
    MEDIA_TYPE,
)
_ZIP = {
    "description": "The denoised images in the order of the upload, under their names with the new suffix. For "
    "an image that failed, NAME.error.json has the problem that POST /denoise would answer. The comment of an "
    "image has the headers that POST /denoise would send. A zip that is cut short lacks images.",
    "content": {MEDIA_TYPE: {"schema": FILE_SCHEMA}},
}
_ERRORS = describe_problems(
    {
        400: "A form or a zip that is broken or empty.",
        404: "No such model.",
        413: "Too many bytes, packed or unpacked, or too many files.",
        415: "An unsupported compression of the body.",
        422: "A form without the field, or an unknown or invalid parameter.",
        503: BUSY_ERRORS[503],
        507: "The disk for temporary files is full.",
    }
)

router = APIRouter(tags=["images"])


class _ZipResponse(StreamingResponse):
    """Streams a zip while it is made. The work ends when the response ends, for whatever reason."""

    def __init__(self, results: AsyncGenerator[ZipMember, None]) -> None:
        self._pieces = write_zip(results)
        headers = {"Content-Disposition": f'attachment; filename="{NAME}"'}
        super().__init__(self._pieces, media_type=MEDIA_TYPE, headers=headers)

    async def stream_response(self, send: Send) -> None:
        """Send the zip. If the client disconnects, stop without an error."""
        async with aclosing(self._pieces):
            with suppress(Cancelled):
                await super().stream_response(send)


async def _upload_file() -> AsyncIterator[IO[bytes]]:
    """A temporary file without a name, so the system removes it even if the process is killed."""
    with TemporaryFile() as file:
        yield file


@router.post(
    "/denoise/batch",
    operation_id="denoise_batch",
    summary="Denoise many images into a zip",
    response_class=Response,
    responses={200: _ZIP, **_ERRORS},
    openapi_extra=_BODY,
)
async def post_batch(
    request: Request,
    params: Annotated[DenoiseParams, Query()],
    file: Annotated[IO[bytes], Depends(_upload_file)],
) -> Response:
    """Denoise many images. The answer is a zip, to which each image is added as soon as it is done.

    The parameters apply to all images. Without `format` they become PNG: the Accept header applies to the zip.
    """
    # All images of a batch get the same weights, even if new ones are loaded meanwhile.
    pipeline: Pipeline = request.state.pipeline.for_one_request()
    settings: Settings = request.state.settings
    refuse_unknown(params, pipeline.models())
    request.state.scheduler.refuse_if_full()
    stored = await store_upload(request, file, settings)
    params = with_fields(params, request, stored.fields)
    refuse_unknown(params, pipeline.models())
    batch = await to_thread.run_sync(read_entries, file, stored.parts, settings)
    charge = request.state.api_keys.charger(owner(request))
    return _ZipResponse(denoise_batch(pipeline, batch, params, partial(until_disconnected, request), charge))
