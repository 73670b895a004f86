"""Batch: denoises many files, a few at a time, and gives them back in the order in which they came."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from posixpath import splitext
from threading import Lock

from anyio import CancelScope

from engine.imageio.formats import suffix_of
from engine.imageio.sandbox.shared_file import SharedFile
from engine.system.file_names import name_key
from service.archives.zip_reader import Entry, refuse_bad_name, safe_name
from service.archives.zip_writer import ZipMember
from service.auth.rate_limit import Charge
from service.params import DenoiseParams
from service.problems import problem_of
from service.runtime.pipeline import Pipeline
from service.runtime.scheduler import Cancelled, Disconnected
from service.runtime.ticket import MemoryShare
from service.runtime.upload import ImageSource
from service.telemetry.logs import log

ERROR_SUFFIX = ".error.json"
# One file is decoded or encoded while the other is in the network, or one is sent while the other is denoised.
FILES_AT_ONCE = 2


async def denoise_batch(
    pipeline: Pipeline,
    entries: Sequence[Entry],
    params: DenoiseParams,
    disconnected: Disconnected,
    charge: Charge,
    on_progress: Callable[[float], None] = lambda share: None,
) -> AsyncGenerator[ZipMember, None]:
    """Each file denoised, or the problem that it has; in order, under names that differ.

    Entries are opened one at a time. disconnected, charge: as Pipeline.denoise. on_progress: called with the
    share of files that the reader has taken, up to 1. Close this generator if you leave it before its end: that
    stops all work. Raises Cancelled once the client is gone.
    """
    left = asyncio.Event()
    work = _Work(pipeline, params, left, charge, Lock())
    watching = asyncio.create_task(_set_when(disconnected, left))
    waiting = iter(entries)
    ahead = deque[_Ahead]()
    names = _Names()
    taken = 0
    try:
        while True:
            while len(ahead) < FILES_AT_ONCE and (entry := next(waiting, None)):
                ahead.append(work.begin(entry))
            if not ahead:
                return
            first = ahead[0]
            # Not `await first.task`: a cancellation would reach the task before it has seen that its client left.
            await asyncio.wait([first.task])
            # The file's memory counts until the reader asks for the next one.
            with first.memory:
                yield names.member(first.task.result())
            ahead.popleft()
            taken += 1
            on_progress(taken / len(entries))
    finally:
        left.set()
        watching.cancel()
        with CancelScope(shield=True):
            await asyncio.gather(*(each.task for each in ahead), return_exceptions=True)
        for each in ahead:
            each.memory.release()


async def _set_when(disconnected: Disconnected, left: asyncio.Event) -> None:
    await disconnected()
    left.set()


@dataclass(frozen=True)
class _File:
    """A file of the answer, before it has its final name."""

    stem: str
    suffix: str
    data: bytes
    comment: str = ""


@dataclass(frozen=True)
class _Ahead:
    """A file that is being denoised, and the share that will hold its bytes."""

    task: asyncio.Task[_File]
    memory: MemoryShare


class _Names:
    """Gives a number to a file whose name is taken."""

    def __init__(self) -> None:
        self._taken = Counter[str]()

    def member(self, file: _File) -> ZipMember:
        """The file under a name that no other has."""
        stem, first = file.stem, name_key(f"{file.stem}{file.suffix}")
        while self._taken[name_key(f"{stem}{file.suffix}")]:
            self._taken[first] += 1
            stem = f"{file.stem}-{self._taken[first]}"
        self._taken[name_key(f"{stem}{file.suffix}")] += 1
        return ZipMember(f"{stem}{file.suffix}", file.data, file.comment)


@dataclass(frozen=True)
class _Work:
    """How each file of a batch is denoised. left: set when the client is gone. opening: held to open an entry."""

    pipeline: Pipeline
    params: DenoiseParams
    left: asyncio.Event
    charge: Charge
    opening: Lock

    def begin(self, entry: Entry) -> _Ahead:
        """Starts to denoise a file."""
        memory = MemoryShare()
        return _Ahead(asyncio.create_task(self._denoise(entry, memory)), memory)

    async def _denoise(self, entry: Entry, memory: MemoryShare) -> _File:
        """Raises Cancelled. Any other error, even a bug, becomes the answer for this file alone."""
        name = safe_name(entry.name)
        source = ImageSource(partial(self._open, entry), entry.source.memory)
        try:
            refuse_bad_name(entry.name)
            denoised = await self.pipeline.denoise(source, self.params, memory, self.left.wait, self.charge)
        except Cancelled:
            raise
        except Exception as error:
            problem = problem_of(error)
            if problem.status_code == 500:
                log.exception("image of a batch failed")
            return _File(name, ERROR_SUFFIX, bytes(problem.body))
        stem, suffix = splitext(name)
        kind = denoised.written.kind
        suffix = suffix if suffix.lower() in kind.suffixes else suffix_of(kind)
        comment = "\n".join(f"{header}: {value}" for header, value in denoised.headers.items())
        return _File(stem, suffix, denoised.written.data, comment)

    @contextmanager
    def _open(self, entry: Entry) -> Iterator[SharedFile]:
        with ExitStack() as stack:
            with self.opening:
                file = stack.enter_context(entry.source.open())
            yield file
