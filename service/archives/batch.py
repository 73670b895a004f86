"""What comes of a batch: each file denoised as soon as it can be, in the order in which they came."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from posixpath import splitext
from threading import Lock

from anyio import CancelScope

from engine.imageio.formats import suffix_of
from service.archives.zips import Entry, Result, refuse_tricks, safe
from service.params import DenoiseParams
from service.problems import problem_of
from service.runtime.pipeline import Denoiser
from service.runtime.scheduler import Cancelled, Disconnected
from service.runtime.ticket import MemoryShare
from service.telemetry.logs import log

ERROR_SUFFIX = ".error.json"
# One is decoded or encoded while the other is in the network; or one is sent and one is done ahead.
AT_ONCE = 2


async def denoised(
    denoiser: Denoiser,
    batch: Sequence[Entry],
    params: DenoiseParams,
    disconnected: Disconnected,
    charge: Callable[[int], None],
    on_progress: Callable[[float], None] = lambda share: None,
) -> AsyncGenerator[Result, None]:
    """Each file of a batch denoised, or in its place the problem it has; in order, with names for one folder.

    batch: its entries are read one at a time. on_progress: called with the share of them that is done, up to 1.
    Whatever else: as Denoiser.file. To be closed if it is left before its end: nothing of it works or reads after
    that. Raises Cancelled once the client is gone.
    """
    left, taken, ahead = asyncio.Event(), Counter[str](), deque[_Ahead]()
    work = _Work(denoiser, params, left, charge, Lock())
    watching = asyncio.create_task(_watch(disconnected, left))
    entries, done = iter(batch), 0
    try:
        while True:
            while len(ahead) < AT_ONCE and (entry := next(entries, None)):
                ahead.append(work.begin(entry))
            if not ahead:
                return
            first = ahead[0]
            # Not `await first.task`: a cancellation would reach the task before it has seen that its client left.
            await asyncio.wait([first.task])
            # Its memory counts until the reader asks for the next file.
            with first.memory:
                yield first.task.result().named(taken)
            ahead.popleft()
            done += 1
            on_progress(done / len(batch))
    finally:
        left.set()
        watching.cancel()
        with CancelScope(shield=True):
            await asyncio.gather(*(each.task for each in ahead), return_exceptions=True)
        for each in ahead:
            each.memory.release()


async def _watch(disconnected: Disconnected, left: asyncio.Event) -> None:
    await disconnected()
    left.set()


@dataclass(frozen=True)
class _Made:
    """A file of the answer that has no place among the others yet."""

    stem: str
    suffix: str
    data: bytes
    comment: str = ""

    def named(self, taken: Counter[str]) -> Result:
        """With a number, where its name is taken; names that differ in case alone are one on some systems."""
        stem, first = self.stem, f"{self.stem}{self.suffix}".casefold()
        while taken[f"{stem}{self.suffix}".casefold()]:
            taken[first] += 1
            stem = f"{self.stem}-{taken[first]}"
        taken[f"{stem}{self.suffix}".casefold()] += 1
        return Result(f"{stem}{self.suffix}", self.data, self.comment)


@dataclass(frozen=True)
class _Ahead:
    """A file of the answer on its way. memory: holds the bytes that it has once it is made."""

    task: asyncio.Task[_Made]
    memory: MemoryShare


@dataclass(frozen=True)
class _Work:
    """What is done with each file of a batch. left: set when its client is gone."""

    denoiser: Denoiser
    params: DenoiseParams
    left: asyncio.Event
    charge: Callable[[int], None]
    reading: Lock

    def begin(self, entry: Entry) -> _Ahead:
        """Start work on a file."""
        memory = MemoryShare()
        return _Ahead(asyncio.create_task(self.one(entry, memory)), memory)

    async def one(self, entry: Entry, memory: MemoryShare) -> _Made:
        """Raises Cancelled. A bug costs its own image alone."""
        name = safe(entry.name)
        try:
            refuse_tricks(entry.name)
            read = partial(self._read, entry)
            made = await self.denoiser.file(read, self.params, memory, self.left.wait, self.charge)
        except Cancelled:
            raise
        except Exception as error:
            problem = problem_of(error)
            if problem.status_code == 500:
                log.exception("image of a batch failed")
            return _Made(name, ERROR_SUFFIX, bytes(problem.body))
        stem, suffix = splitext(name)
        kind = made.written.kind
        told = "\n".join(f"{header}: {value}" for header, value in made.headers.items())
        suffix = suffix if suffix.lower() in kind.suffixes else suffix_of(kind)
        return _Made(stem, suffix, made.written.data, told)

    def _read(self, entry: Entry) -> bytes:
        with self.reading:
            return entry.read()
