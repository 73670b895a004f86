"""The end of the service: new work is refused, accepted work is waited for."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class GracefulShutdown:
    """Whether the end has begun, and how much is still being answered."""

    def __init__(self) -> None:
        self.begun = False
        self.working = 0
        self._beginning, self._idle = asyncio.Event(), asyncio.Event()
        self._idle.set()

    def begin(self) -> None:
        """From now on the service is not ready. May be called by a signal handler."""
        self.begun = True
        self._beginning.set()

    async def beginning(self) -> None:
        """Return once the end begins."""
        await self._beginning.wait()

    @contextmanager
    def work(self) -> Iterator[None]:
        """Something that the service does not end without, unless it takes longer than the grace time."""
        self.working += 1
        self._idle.clear()
        try:
            yield
        finally:
            self.working -= 1
            if not self.working:
                self._idle.set()

    async def idle(self) -> None:
        """Return once nothing is worked on."""
        await self._idle.wait()
