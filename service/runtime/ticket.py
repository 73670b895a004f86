"""One image's way through the service's threads."""

import asyncio
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from anyio import CancelScope

from engine.inference.tiling import Window
from service.runtime.inference_queue import Flow, InferenceQueue

T = TypeVar("T")

# What long work has of the network where others have 1.
PATIENT_SHARE = 1 / 8


@dataclass(frozen=True)
class Load:
    """What an image asks for. pixels: of all its pages. memory: in work, in bytes."""

    pixels: int
    memory: int


class Ticket:
    """An image that waits to be let in, or is in work. All is to be called in the event loop.

    admitted: done when it is let in. seconds: how long it was worked on, without its waits for the network.
    passed: how many were let in before it that came later. kept: bytes of its answer.
    """

    def __init__(
        self,
        load: Load,
        network: InferenceQueue,
        threads: Executor,
        free: Callable[[int], None],
        low_priority: bool,
    ) -> None:
        """free: called in the event loop with `kept`, once nobody has the answer."""
        self.load, self.low_priority = load, low_priority
        self.admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.flow = Flow(PATIENT_SHARE if low_priority else 1.0)
        self.seconds = 0.0
        self.passed = self.done = self.kept = 0
        self._network, self._threads, self._free = network, threads, free

    @property
    def left(self) -> int:
        """Pixels that are not through the network yet."""
        return max(0, self.load.pixels - self.done)

    def stop(self, why: Callable[[], Exception]) -> None:
        """Have it end before its next window, or at once while it waits to be let in."""
        self.flow.stopped = self.flow.stopped or why
        if not self.admitted.done():
            self.admitted.set_exception(why())

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Do the work in a thread: it is arithmetic, and others are to be answered. Raises what stopped it."""
        self.flow.check()

        def timed() -> T:
            start = time.perf_counter()
            try:
                return work()
            finally:
                self.seconds += time.perf_counter() - start

        return await _done(self._threads.submit(copy_context().run, timed))

    async def in_network(self, window: Window) -> None:
        """Have the window done in its turn, perhaps in one batch with others'. Raises what stopped it."""
        self.seconds += await _done(self._network.ask(self.flow, window))
        self.done += window.pixels

    def keep(self, answer: object, size: int) -> None:
        """Count so many bytes, instead of the image's memory, from its end until nobody has the answer."""
        self.kept = min(size, self.load.memory)
        loop = asyncio.get_running_loop()
        weakref.finalize(answer, _in_loop, loop, partial(self._free, self.kept)).atexit = False


async def _done(asked: "Future[T]") -> T:
    """What a thread was asked for. Who is cancelled meanwhile goes on only once no thread works on it: what that
    takes of the memory would be forgotten.
    """
    done = asyncio.wrap_future(asked)
    try:
        return await asyncio.shield(done)
    finally:
        asked.cancel()
        with CancelScope(shield=True):
            await asyncio.wait([done])
        # They keep an error, which keeps what has a name on its way: a circle.
        del asked, done


def _in_loop(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    """From whatever thread."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(call)
