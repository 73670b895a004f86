"""One image's way through the service's threads."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextvars import copy_context
from dataclasses import dataclass
from typing import Self, TypeVar

from anyio import CancelScope

from engine.inference.denoise import Piece
from service.runtime.inference_queue import Flow, InferenceQueue

T = TypeVar("T")

# What long work has of the network where others have 1.
PATIENT_SHARE = 1 / 8


@dataclass(frozen=True)
class Load:
    """What an image asks for. pixels: of all its pages. memory: in work, in bytes."""

    pixels: int
    memory: int


class MemoryShare:
    """Bytes of a memory budget that an encoded image holds until they are released. For the event loop only.

    Use it in a `with` block, which ends when the image has been sent, or cannot be sent.
    """

    def __init__(self) -> None:
        self.size = 0
        self._free: Callable[[int], None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def hold(self, size: int, free: Callable[[int], None]) -> None:
        """Holds bytes that are already counted. free: called once with `size`, by `release`."""
        self.release()
        self.size, self._free = size, free

    def release(self) -> None:
        """Gives the bytes back to their budget. Releasing twice is the same as once."""
        free, self._free = self._free, None
        size, self.size = self.size, 0
        if free:
            free(size)


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
        """free: gives back `kept` bytes, when the share that holds them is released."""
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

        return await _thread_done(self._threads.submit(copy_context().run, timed))

    async def in_network(self, piece: Piece) -> None:
        """Have the window done in its turn, perhaps in one batch with others'. Raises what stopped it."""
        self.seconds += await _thread_done(self._network.ask(self.flow, piece))
        self.done += piece.pixels

    def keep(self, share: MemoryShare, size: int) -> None:
        """Moves bytes of the image's memory to `share`: they stay counted after the image has left."""
        self.kept = min(size, self.load.memory)
        share.hold(self.kept, self._free)


async def until_done(future: asyncio.Future[T], cancel: Callable[[], object] = lambda: None) -> T:
    """The result of what a thread does. A caller that is cancelled waits all the same until the thread is done:
    the thread still uses the caller's memory and files.

    cancel: called at the end; it drops work that no thread has begun.
    """
    try:
        return await asyncio.shield(future)
    finally:
        cancel()
        with CancelScope(shield=True):
            await asyncio.wait([future])
        # A future keeps its error, and the error's traceback keeps this frame and those above, with their images.
        # Without this line all of them would stay in memory until the garbage collector finds the cycle.
        del future, cancel


async def _thread_done(future: "Future[T]") -> T:
    try:
        return await until_done(asyncio.wrap_future(future), future.cancel)
    finally:
        del future
