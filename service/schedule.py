"""Fair, bounded work: a few pictures at once, which take turns in the network window by window."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from anyio import CapacityLimiter, to_thread
from starlette.types import Receive

from engine.picture import Piece
from service.errors import ClientError
from service.network import Flow, Network

T = TypeVar("T")

# One is decoded, one is in the network, one is encoded: more would take memory and bring nothing.
PICTURES_AT_ONCE = 3


class Cancelled(ClientError):
    """The client is gone. Nobody reads what this says: it is no bug, and needs no traceback."""

    def __init__(self) -> None:
        super().__init__("The connection was closed before the picture was done.")


class Schedule:
    """Whose turn it is. Others wait in the order in which they came."""

    def __init__(self, network: Network) -> None:
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
            turn.flow.stopped = Cancelled

        watching = asyncio.create_task(watch())
        try:
            async with self._pictures:
                yield turn
        finally:
            watching.cancel()


class Turn:
    """One picture's way through. seconds: how long it was worked on, without its waits for the network."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self.flow = Flow()
        self.seconds = 0.0

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Do the work in a thread: it is arithmetic, and the event loop answers others. Raises Cancelled."""
        self.flow.check()

        def timed() -> T:
            start = time.perf_counter()
            try:
                return work()
            finally:
                self.seconds += time.perf_counter() - start

        return await to_thread.run_sync(timed)

    async def in_network(self, piece: Piece) -> None:
        """Have the window done in its turn, perhaps in one batch with others'. Raises Cancelled."""
        self.seconds += await asyncio.wrap_future(self._network.ask(self.flow, piece))
