"""Many pictures in, one zip out: each goes into it as soon as it is denoised, in the order in which they came."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from functools import partial
from posixpath import splitext
from tempfile import TemporaryFile
from threading import Lock
from typing import IO, Annotated

from anyio import CancelScope, to_thread
from fastapi import APIRouter, Depends, Query, Request, Response
from starlette.responses import StreamingResponse
from starlette.types import Send

from engine.formats import suffix_of
from service.body import PICTURE, PICTURES, described, until_gone
from service.denoising import Denoised, Denoiser
from service.errors import BUSY, documented, problem_of
from service.keys import owner
from service.logs import log
from service.schedule import Cancelled, Gone
from service.upload import entries, spooled
from service.wishes import Wishes
from service.zips import MEDIA_TYPE, Entry, Result, packed, refuse_tricks, safe

ERROR_SUFFIX = ".error.json"
# What the zip is called.
NAME = "denoised.zip"
# One is decoded or encoded while the other is in the network; or one is sent and one is done ahead.
AT_ONCE = 2

_BODY = described(
    "Pictures, as POST /denoise takes them, each as a file of the form's field; or a zip of them, as the form's "
    "only file or as it is.",
    PICTURES,
    MEDIA_TYPE,
)
_ZIP = {
    "description": "The pictures without their noise, under their names with the new suffix, in the order in "
    "which they came. In place of one that could not be denoised NAME.error.json says why, as POST /denoise "
    "would. A picture's comment has what POST /denoise tells in headers. A zip that is cut short lacks pictures.",
    "content": {MEDIA_TYPE: {"schema": PICTURE}},
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


async def denoised(
    denoiser: Denoiser, batch: Iterable[Entry], wishes: Wishes, gone: Gone, spend: Callable[[int], None]
) -> AsyncGenerator[Result, None]:
    """Each file of a batch denoised, or in its place the problem it has; in order, with names for one folder.

    batch: is asked for the next when there is room; its entries are read one at a time. Whatever else: as
    Denoiser.file. To be closed if it is left before its end: nothing of it works or reads after that. Raises
    Cancelled once the client is gone.
    """
    left, taken, ahead = asyncio.Event(), Counter[str](), deque[asyncio.Task[_Made]]()
    work = _Work(denoiser, wishes, left, spend, Lock())
    watching = asyncio.create_task(_watch(gone, left))
    try:
        for entry in batch:
            ahead.append(asyncio.create_task(work.one(entry)))
            if len(ahead) == AT_ONCE:
                made = await _first(ahead)
                yield made.named(taken)
                # Its memory may be what the next waits for.
                del made
        while ahead:
            made = await _first(ahead)
            yield made.named(taken)
            del made
    finally:
        left.set()
        watching.cancel()
        with CancelScope(shield=True):
            await asyncio.gather(*ahead, return_exceptions=True)


async def _watch(gone: Gone, left: asyncio.Event) -> None:
    await gone()
    left.set()


async def _first(ahead: deque[asyncio.Task["_Made"]]) -> "_Made":
    # To await the task itself would end it, when this is ended, before it has noticed that nobody waits for it.
    await asyncio.wait([ahead[0]])
    return ahead.popleft().result()


@dataclass(frozen=True)
class _Made:
    """A file of the answer that has no place among the others yet. made: while it is there its memory counts."""

    stem: str
    suffix: str
    data: bytes
    comment: str = ""
    made: Denoised | None = None

    def named(self, taken: Counter[str]) -> Result:
        """With a number, where its name is taken; names that differ in case alone are one on some systems."""
        stem, first = self.stem, f"{self.stem}{self.suffix}".casefold()
        while taken[f"{stem}{self.suffix}".casefold()]:
            taken[first] += 1
            stem = f"{self.stem}-{taken[first]}"
        taken[f"{stem}{self.suffix}".casefold()] += 1
        return Result(f"{stem}{self.suffix}", self.data, self.comment)


@dataclass(frozen=True)
class _Work:
    """What is done with each file of a batch. left: set when its client is gone."""

    denoiser: Denoiser
    wishes: Wishes
    left: asyncio.Event
    spend: Callable[[int], None]
    reading: Lock

    async def one(self, entry: Entry) -> _Made:
        """Raises Cancelled. A bug costs its own picture alone."""
        name = safe(entry.name)
        try:
            refuse_tricks(entry.name)
            read = partial(self._read, entry)
            made = await self.denoiser.file(read, self.wishes, self.left.wait, self.spend)
        except Cancelled:
            raise
        except Exception as error:
            problem = problem_of(error)
            if problem.status_code == 500:
                log.exception("picture of a batch failed")
            return _Made(name, ERROR_SUFFIX, bytes(problem.body))
        stem, suffix = splitext(name)
        kind = made.written.kind
        told = "\n".join(f"{header}: {value}" for header, value in made.headers.items())
        suffix = suffix if suffix.lower() in kind.suffixes else suffix_of(kind)
        return _Made(stem, suffix, made.written.data, told, made)

    def _read(self, entry: Entry) -> bytes:
        with self.reading:
            return entry.read()


class _Streamed(StreamingResponse):
    """A zip that is sent while it is made. Whatever ends it ends the work for it."""

    def __init__(self, results: AsyncGenerator[Result, None]) -> None:
        self._pieces = packed(results)
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
    request: Request, wishes: Annotated[Wishes, Query()], spool: Annotated[IO[bytes], Depends(_spool)]
) -> Response:
    """Return a zip of many pictures without their noise, each as soon as it is done. The wishes are for all.

    Without format they come as PNG: the Accept header is about the zip.
    """
    # Pictures of one batch get the same weights, whatever is put in service meanwhile.
    denoiser: Denoiser = request.state.denoiser.settled()
    denoiser.refuse_unknown(wishes)
    denoiser.schedule.refuse_if_full()
    parts = await spooled(request, spool, denoiser.settings)
    batch = await to_thread.run_sync(entries, spool, parts, denoiser.settings)
    spend = request.state.keys.spending(owner(request))
    return _Streamed(denoised(denoiser, batch, wishes, partial(until_gone, request), spend))
