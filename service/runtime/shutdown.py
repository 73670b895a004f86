"""Graceful shutdown: the service stops being ready, then refuses new work, then finishes accepted work."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class GracefulShutdown:
    """How far the shutdown is, and how many requests are still being answered.

    draining: the service is no longer ready, but still accepts requests, until load balancers have turned away.
    begun: new requests are refused.
    """

    def __init__(self) -> None:
        self.draining = False
        self.begun = False
        self.working = 0
        self._beginning = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def ready(self) -> bool:
        """Whether load balancers should send requests here."""
        return not (self.draining or self.begun)

    def drain(self) -> None:
        """Begins the shutdown: the service is no longer ready. A signal handler may call this."""
        self.draining = True
        self._beginning.set()

    def begin(self) -> None:
        """Refuses new requests from now on."""
        self.drain()
        self.begun = True

    async def beginning(self) -> None:
        """Returns when the shutdown begins, with the draining. Work that is not a request stops then."""
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
