"""Blob response: a result in the blob store, sent while it is read."""

import re
from collections.abc import AsyncIterator, Mapping
from urllib.parse import quote

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from service.jobs.store import StoredBlob

# How much is read and sent at once, in bytes. Each response holds this much in memory.
CHUNK = 2**18
# One range. Others are ignored, which RFC 9110 allows: then the whole result is sent.
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


async def blob_response(
    request: Request, blob: StoredBlob, headers: Mapping[str, str], media_type: str | None, name: str
) -> Response:
    """The answer with a result, or with the requested Range of it. headers: with an ETag.

    Its first bytes are read before the answer begins. Raises FileNotFoundError and StorageAway.
    """
    start, end = 0, blob.size
    headers = {**headers, "Accept-Ranges": "bytes", "Content-Disposition": _disposition(name)}
    status = 200
    if wanted := _requested(request, headers["ETag"]):
        start, end = _bounds(*wanted, blob.size)
        if start >= end:
            return Response(status_code=416, headers={"Content-Range": f"bytes */{blob.size}"})
        status = 206
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{blob.size}"
    headers["Content-Length"] = str(end - start)
    first = await blob.read(start, min(CHUNK, end - start))
    return StreamingResponse(_chunks(blob, first, start, end), status, headers, media_type)


async def _chunks(blob: StoredBlob, first: bytes, start: int, end: int) -> AsyncIterator[bytes]:
    """The bytes from `start` to `end`. If the store fails, this raises, and the client sees a broken answer."""
    yield first
    for at in range(start + len(first), end, CHUNK):
        yield await blob.read(at, min(CHUNK, end - at))


def _requested(request: Request, tag: str) -> tuple[str, str] | None:
    """The first and the last byte of a Range that applies to this result, as texts; None for all of it."""
    if request.headers.get("if-range", tag) != tag:
        return None
    parts = _RANGE.fullmatch(request.headers.get("range", ""))
    return (parts[1], parts[2]) if parts and (parts[1] or parts[2]) else None


def _bounds(first: str, last: str, size: int) -> tuple[int, int]:
    """Where a Range begins and ends. Without a first byte, it counts from the end."""
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(int(last) + 1, size) if last else size


def _disposition(name: str) -> str:
    quoted = quote(name)
    return f'attachment; filename="{name}"' if quoted == name else f"attachment; filename*=utf-8''{quoted}"
