"""Graceful shutdown: new work is refused, accepted work is finished."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class GracefulShutdown:
    """Whether the shutdown has begun, and how many requests are still being answered."""

    def __init__(self) -> None:
        self.begun = False
        self.working = 0
        self._beginning = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def begin(self) -> None:
        """Begins the shutdown. A signal handler may call this."""
        self.begun = True
        self._beginning.set()

    async def beginning(self) -> None:
        """Returns when the shutdown begins."""
        await self._beginning.wait()

    @contextmanager
    def work(self) -> Iterator[None]:
        """Work that the shutdown waits for, at most for the grace time."""
        self.working += 1
        self._idle.clear()
        try:
            yield
        finally:
            self.working -= 1
            if not self.working:
                self._idle.set()

    async def idle(self) -> None:
        """Returns when no work is left."""
        await self._idle.wait()
