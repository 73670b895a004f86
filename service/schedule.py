"""Fair, bounded work: a few pictures at once, and one window of them at a time in the network.

The engine keeps every core busy with one window: two at once would be no faster, and take twice the memory. But
pictures are decoded and encoded beside it; and because they take turns window by window, a small picture need not
wait until a large one is done.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from threading import Event
from typing import TypeVar

from anyio import CapacityLimiter, to_thread
from starlette.types import Receive

T = TypeVar("T")

# One is decoded, one is in the network, one is encoded: more would take memory and bring nothing.
PICTURES_AT_ONCE = 3


class Schedule:
    """Whose turn it is. Others wait in the order in which they came."""

    def __init__(self, network: ThreadPoolExecutor) -> None:
        """network: of one thread, so that its helpers and its memory for work are there once."""
        self._network = network
        self._pictures = CapacityLimiter(PICTURES_AT_ONCE)

    @property
    def in_work(self) -> int:
        """Pictures that are being decoded, denoised or encoded."""
        return self._pictures.borrowed_tokens

    @property
    def waiting(self) -> int:
        """Pictures that are not begun."""
        return self._pictures.statistics().tasks_waiting

    @asynccontextmanager
    async def turn(self, receive: Receive) -> AsyncIterator["Turn"]:
        """Wait to be one of the few in work. receive: tells, the body being read, when the client goes away."""
        turn = Turn(self._network)

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            turn.gone.set()

        watching = asyncio.create_task(watch())
        try:
            async with self._pictures:
                yield turn
        finally:
            watching.cancel()


class Turn:
    """One picture's way through. seconds: how long it was worked on, without its waits for the network."""

    def __init__(self, network: ThreadPoolExecutor) -> None:
        self._network = network
        self.gone = Event()
        self.seconds = 0.0

    def wanted(self) -> bool:
        """Whether the client is still there."""
        return not self.gone.is_set()

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Do the work in a thread: it is arithmetic, and the event loop has to answer others."""

        def timed() -> T:
            start = time.perf_counter()
            try:
                return work()
            finally:
                self.seconds += time.perf_counter() - start

        return await to_thread.run_sync(timed)

    def in_network(self, work: Callable[[], None]) -> None:
        """Do the work once that of those who asked before is done. To be called in the picture's thread."""
        asked = time.perf_counter()

        def begin() -> None:
            self.seconds -= time.perf_counter() - asked
            work()

        self._network.submit(begin).result()
