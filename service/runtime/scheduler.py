"""Fair, bounded work: who is let in, who waits, and who is to come again later.

Large and small images wait in lines of their own, each with its places and its part of the memory, so that
neither can take the other's; the first of a line is let in as soon as there is room for all that it will take. A
line that is full turns away at once, and says when there should be room, by the pace of late. Those let in share
the network (inference_queue.py), and stop within one window when their client goes or their time is up.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Self

import torch

from service.problems import ClientError
from service.runtime.inference_queue import InferenceQueue, begin
from service.runtime.ticket import Load, Ticket
from service.settings import FOR_SMALL, SMALL, Settings

# Returns once whoever asked is gone.
Disconnected = Callable[[], Awaitable[object]]

# Of large images one is decoded, one in the network, one encoded: more would take memory and bring nothing.
LARGE_AT_ONCE = 3
# Of small ones several share a batch in the network.
SMALL_AT_ONCE = 12
# Threads that decode and encode small images. Each large one has its own.
SMALL_THREADS = 4
# How many long work lets pass before it goes in.
PATIENCE = 8
# Pixels a second, until there is something to measure.
FIRST_PACE = 1_000_000


class Cancelled(ClientError):
    """The client is gone. Nobody reads what this says: it is no bug, and needs no traceback."""

    def __init__(self) -> None:
        super().__init__("The connection was closed before the image was done.")


class QueueFull(ClientError):
    """More than may wait."""

    status = 503

    def __init__(self, fault: str, seconds: int) -> None:
        super().__init__(f"{fault} There should be room in {seconds} s.")
        self.headers = {"Retry-After": str(seconds)}


class OutOfTime(ClientError):
    """An image that was not done by its deadline."""

    status = 504

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"The image was not done in the {seconds:g} seconds that one is given, its wait included."
        )


class TooMuchMemory(ClientError):
    """An image that would not fit the memory even if it were alone."""

    status = 413


class Scheduler:
    """Whose turn it is. All is to be called in the event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._network = InferenceQueue(torch.get_num_threads())
        for_small = int(settings.image_memory * FOR_SMALL)
        self._large = _Line("large", LARGE_AT_ONCE, LARGE_AT_ONCE, settings.image_memory - for_small)
        self._small = _Line("small", SMALL_AT_ONCE, SMALL_THREADS, for_small)
        self._lines = (self._large, self._small)
        self._pace = _Pace()
        # Of the bodies that are in memory.
        self.body_bytes = 0

    def __enter__(self) -> Self:
        self._network.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        """Waits for what the threads are at."""
        for line in self._lines:
            line.threads.shutdown()
        self._network.__exit__(*error)

    @property
    def in_work(self) -> int:
        """Images that are being decoded, denoised or encoded."""
        return sum(len(line.in_work) for line in self._lines)

    @property
    def waiting(self) -> int:
        """Images that are not begun."""
        return sum(len(line.waiting) for line in self._lines)

    @property
    def pixels_in_work(self) -> int:
        """Of the images in work, what is not through the network yet."""
        return sum(turn.left for line in self._lines for turn in line.in_work)

    @property
    def pixels_waiting(self) -> int:
        """Of the images that are not begun."""
        return sum(turn.left for line in self._lines for turn in line.waiting)

    @property
    def memory(self) -> int:
        """Bytes that images in work take at most, and answers that are not sent yet."""
        return sum(line.held for line in self._lines)

    def refuse_if_full(self) -> None:
        """Raises QueueFull if no image may wait, whatever its size: to be asked before a body is read."""
        most = max(1, self._settings.max_waiting)
        if all(line.urgent >= most for line in self._lines):
            raise QueueFull(f"{self.waiting} images wait; no more may.", self._seconds_to_room(1))

    @contextmanager
    def arriving(self, announced: int) -> Iterator[Callable[[int], None]]:
        """For a body that is read into memory, until it is done with: to be called with the bytes of each part.

        announced: all of its bytes, if known: room is kept for them, so that who is let in can send all of it.
        Raises QueueFull.
        """
        mine = received = 0

        def take(more: int) -> None:
            nonlocal mine
            self._refuse_body(mine + more, more)
            mine += more
            self.body_bytes += more

        def arrived(more: int) -> None:
            nonlocal received
            received += more
            if received > mine:
                take(received - mine)

        try:
            take(announced)
            yield arrived
        finally:
            self.body_bytes -= mine

    def rest_network(self) -> None:
        """Have the network hold no memory, if nothing in work has windows left."""
        # Not between two windows: memory that is taken anew has to be cleared.
        if not self.pixels_in_work:
            self._network.rest()

    @asynccontextmanager
    async def admit(
        self, disconnected: Disconnected, load: Load, accepted: bool = False, low_priority: bool = False
    ) -> AsyncIterator[Ticket]:
        """Wait to be let in. disconnected: returns once nobody wants it any more.

        accepted: not to be turned away, for it is part of what was taken before. low_priority: long work, which
        has no deadline and lets others go first, though not for ever. Raises QueueFull, TooMuchMemory, OutOfTime,
        Cancelled, and MemoryError for whatever a library says that lacks memory.
        """
        line = self._line(load, low_priority)
        turn = Ticket(load, self._network, line.threads, line.free, low_priority)
        if not accepted and not low_priority:
            self._refuse_if_full(line, turn)
        with _stopping(turn, disconnected, None if low_priority else self._settings.deadline):
            line.enter(turn)
            try:
                await turn.admitted
                with self._pace.of(turn), _lacking_memory():
                    yield turn
            finally:
                line.leave(turn)
                self.rest_network()

    def _line(self, load: Load, low_priority: bool) -> "_Line":
        """Long work counts as large, whatever its size, and leaves the places of small images to others."""
        if load.memory > self._large.memory:
            raise TooMuchMemory(
                f"The image would take {load.memory} bytes of memory; at most {self._large.memory} are given."
            )
        is_small = not low_priority and load.memory <= self._settings.image_memory * SMALL
        return self._small if is_small else self._large

    def _refuse_if_full(self, line: "_Line", turn: Ticket) -> None:
        most, most_pixels = self._settings.max_waiting, self._settings.waiting_pixels
        waiting = [other.left for other in line.waiting if not other.low_priority]
        if not waiting and line.has_room(turn):
            return
        if len(waiting) >= most:
            raise QueueFull(f"{len(waiting)} images wait; at most {most} may.", self._seconds_to_room(1))
        over = sum(waiting) + turn.left - most_pixels
        # One may wait, whatever its size.
        if waiting and over > 0:
            fault = f"{sum(waiting)} pixels wait; with this image's {turn.left}, at most {most_pixels} may."
            raise QueueFull(fault, self._seconds_to_room(over))

    def _refuse_body(self, size: int, more: int) -> None:
        """size: of a body, with so many bytes more than are counted."""
        most = self._settings.body_memory
        may = most if size <= most * SMALL else int(most * (1 - FOR_SMALL))
        if self.body_bytes + more > may:
            fault = f"{self.body_bytes} bytes of images arrive, wait or are in work; at most {may} may."
            raise QueueFull(fault, self._seconds_to_room(1))

    def _seconds_to_room(self, pixels: int) -> int:
        """Until what is in work is done, and so much of what waits."""
        return max(1, math.ceil((self.pixels_in_work + pixels) / self._pace.now))


class _Line:
    """Where images wait, and those let in from there. held: bytes that these take, and their answers."""

    def __init__(self, name: str, places: int, threads: int, memory: int) -> None:
        # One core each: helpers for all of them would be many, and in each other's way.
        self.threads = ThreadPoolExecutor(threads, name, begin, (1,))
        self.places, self.memory, self.held = places, memory, 0
        self.waiting: list[Ticket] = []
        self.in_work: set[Ticket] = set()

    @property
    def urgent(self) -> int:
        """How many wait, without long work."""
        return sum(not turn.low_priority for turn in self.waiting)

    def has_room(self, turn: Ticket) -> bool:
        """Whether it could be let in. The last place is not for long work."""
        places = self.places - turn.low_priority
        return len(self.in_work) < places and self.held + turn.load.memory <= self.memory

    def enter(self, turn: Ticket) -> None:
        """Have it wait, if it must."""
        self.waiting.append(turn)
        self._admit()

    def leave(self, turn: Ticket) -> None:
        """It is done or given up, perhaps before it was let in."""
        if turn in self.in_work:
            self.in_work.remove(turn)
            self.held -= turn.load.memory - turn.kept
        else:
            self.waiting.remove(turn)
        self._admit()

    def free(self, size: int) -> None:
        """An answer is gone."""
        self.held -= size
        self._admit()

    def _admit(self) -> None:
        while (turn := self._first()) and self.has_room(turn):
            self.waiting.remove(turn)
            self.in_work.add(turn)
            self.held += turn.load.memory
            turn.admitted.set_result(None)
            for other in self.waiting:
                other.passed += not turn.low_priority

    def _first(self) -> Ticket | None:
        """The next in line, which long work is when nothing else waits, or once it has let enough others pass."""
        there = (turn for turn in self.waiting if not turn.admitted.done())
        return min(there, key=lambda turn: turn.low_priority and turn.passed < PATIENCE, default=None)


class _Pace:
    """Pixels done, and seconds in which something was in work: the older they are, the less they count."""

    def __init__(self) -> None:
        self._pixels, self._seconds = float(FIRST_PACE), 1.0
        self._in_work = 0
        self._last = 0.0

    @property
    def now(self) -> float:
        """Pixels a second."""
        return self._pixels / self._seconds

    @contextmanager
    def of(self, turn: Ticket) -> Iterator[None]:
        """Measure it. If it ends early, what it has done."""
        if not self._in_work:
            self._last = time.perf_counter()
        self._in_work += 1
        try:
            yield
            turn.done = turn.load.pixels
        finally:
            self._in_work -= 1
            now = time.perf_counter()
            self._pixels = 0.9 * self._pixels + turn.done
            self._seconds = 0.9 * self._seconds + now - self._last
            self._last = now


@contextmanager
def _stopping(turn: Ticket, disconnected: Disconnected, deadline: float | None) -> Iterator[None]:
    """Meanwhile, stop it when nobody wants it any more, or after so many seconds. deadline: none if 0."""

    async def watch() -> None:
        await disconnected()
        turn.stop(Cancelled)

    watching: list[asyncio.Task[None] | asyncio.TimerHandle] = [asyncio.create_task(watch())]
    if deadline:
        loop, late = asyncio.get_running_loop(), partial(OutOfTime, deadline)
        watching.append(loop.call_later(deadline, turn.stop, late))
    try:
        yield
    finally:
        for each in watching:
            each.cancel()


@contextmanager
def _lacking_memory() -> Iterator[None]:
    """Raises MemoryError for what torch says: a RuntimeError, and on a CPU one like any other."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            raise MemoryError(str(error)) from error
        raise
