"""Many images in, one zip out, which is sent while it is made."""

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
from service.archives.multipart import read_entries, store_upload
from service.archives.zip_writer import MEDIA_TYPE, NAME, ZipMember, write_zip
from service.auth.dependencies import owner
from service.params import DenoiseParams
from service.problems import BUSY, documented
from service.runtime.pipeline import Pipeline, refuse_unknown
from service.runtime.scheduler import Cancelled
from service.runtime.upload import FILE_SCHEMA, FILES_SCHEMA, described, until_disconnected
from service.settings import Settings

_BODY = described(
    "Images, as POST /denoise takes them, each as a file of the form's field; or a zip of them, as the form's "
    "only file or as it is.",
    FILES_SCHEMA,
    MEDIA_TYPE,
)
_ZIP = {
    "description": "The images without their noise, under their names with the new suffix, in the order in "
    "which they came. In place of one that could not be denoised NAME.error.json says why, as POST /denoise "
    "would. An image's comment has what POST /denoise tells in headers. A zip that is cut short lacks images.",
    "content": {MEDIA_TYPE: {"schema": FILE_SCHEMA}},
}
_ERRORS = documented(
    {
        400: "A form or a zip that is broken or empty.",
        404: "No such model.",
        413: "Too many bytes, as they come or unpacked, or too many files.",
        422: "A form without the field, or a parameter out of its range.",
        503: BUSY[503],
        507: "No room on the disk where batches are kept until they are answered.",
    }
)

router = APIRouter()


class _Streamed(StreamingResponse):
    """A zip that is sent while it is made. Whatever ends it ends the work for it."""

    def __init__(self, results: AsyncGenerator[ZipMember, None]) -> None:
        self._pieces = write_zip(results)
        headers = {"Content-Disposition": f'attachment; filename="{NAME}"'}
        super().__init__(self._pieces, media_type=MEDIA_TYPE, headers=headers)

    async def stream_response(self, send: Send) -> None:
        """As it is sent; nobody is told that the client is gone."""
        async with aclosing(self._pieces):
            with suppress(Cancelled):
                await super().stream_response(send)


async def _spool() -> AsyncIterator[IO[bytes]]:
    """A file that is gone when the answer is sent, or cannot be, or the process is killed."""
    with TemporaryFile() as spool:
        yield spool


@router.post("/denoise/batch", response_class=Response, responses={200: _ZIP, **_ERRORS}, openapi_extra=_BODY)
async def post_batch(
    request: Request, params: Annotated[DenoiseParams, Query()], spool: Annotated[IO[bytes], Depends(_spool)]
) -> Response:
    """Return a zip of many images without their noise, each as soon as it is done. The parameters are for all.

    Without format they come as PNG: the Accept header is about the zip.
    """
    # Images of one batch get the same weights, whatever is put in service meanwhile.
    pipeline: Pipeline = request.state.pipeline.for_one_request()
    settings: Settings = request.state.settings
    refuse_unknown(params, pipeline.models())
    request.state.scheduler.refuse_if_full()
    parts = await store_upload(request, spool, settings)
    batch = await to_thread.run_sync(read_entries, spool, parts, settings)
    charge = request.state.keys.charging(owner(request))
    return _Streamed(denoise_batch(pipeline, batch, params, partial(until_disconnected, request), charge))
