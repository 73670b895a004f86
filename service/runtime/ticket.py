"""Tickets: an image that waits for admission or is in work, and the memory that it holds."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, Future
from contextvars import copy_context
from dataclasses import dataclass
from typing import Self, TypeVar

from anyio import CancelScope

from engine.inference.tiling import Window
from service.runtime.inference_queue import Flow, InferenceQueue

T = TypeVar("T")

# Low-priority work's share of the network, where other images have 1.
LOW_PRIORITY_SHARE = 1 / 8


@dataclass(frozen=True)
class Load:
    """What an image needs. pixels: of all its pages. memory: that it takes in work, in bytes."""

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


async def response_memory() -> AsyncIterator[MemoryShare]:
    """Dependency: a share for the encoded image. FastAPI ends this block once the response is sent or fails."""
    with MemoryShare() as share:
        yield share


class Ticket:
    """An image that waits for admission, or is in work. Use it in the event loop only.

    admitted: done when the image is admitted. seconds: how long it was worked on, without waits for the network.
    passed: how many later images were admitted before it. done: pixels that have been denoised. kept: bytes that
    stay counted after it has left.
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
        self.load = load
        self.low_priority = low_priority
        self.admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.flow = Flow(LOW_PRIORITY_SHARE if low_priority else 1.0)
        self.seconds = 0.0
        self.passed = self.done = self.kept = 0
        self._network = network
        self._threads = threads
        self._free = free

    @property
    def left(self) -> int:
        """Pixels that have not been denoised yet."""
        return max(0, self.load.pixels - self.done)

    def stop(self, why: Callable[[], Exception]) -> None:
        """Ends the image before its next window, or at once if it waits for admission. why: makes the error."""
        self.flow.stopped = self.flow.stopped or why
        if not self.admitted.done():
            self.admitted.set_exception(why())

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Does work in a thread: it would hold up the event loop. Raises the error that stopped the image."""
        self.flow.check()

        def timed() -> T:
            start = time.perf_counter()
            try:
                return work()
            finally:
                self.seconds += time.perf_counter() - start

        return await _thread_done(self._threads.submit(copy_context().run, timed))

    async def in_network(self, window: Window) -> None:
        """Runs a window when it is due, perhaps in a batch. Raises the error that stopped the image."""
        self.seconds += await _thread_done(self._network.ask(self.flow, window))
        self.done += window.pixels

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
