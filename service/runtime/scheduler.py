"""Scheduler: admits images to work, lets others wait, and refuses those that there is no room for.

Large and small images wait in separate lines. Each line has its own places and its own part of the memory. The
first image of a line is admitted as soon as there is room for all the memory that it will take. A full line
refuses images at once, and says when there should be room, by the recent pace. Admitted images share the network
(see inference_queue.py). They stop within one window when their client disconnects or their deadline passes.
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

from service.problems import LimitExceeded, ProblemError, limit_note
from service.runtime.inference_queue import InferenceQueue, begin
from service.runtime.ticket import Load, Ticket
from service.settings import FOR_SMALL, SMALL, Settings

# Returns when the client has disconnected.
Disconnected = Callable[[], Awaitable[object]]

# Large images in work: one is decoded, one denoised, one encoded. More would take memory and gain nothing.
LARGE_AT_ONCE = 3
# Small images in work: several share a batch in the network.
SMALL_AT_ONCE = 12
# Threads that decode and encode small images. Each large image has its own.
SMALL_THREADS = 4
# How many later images may overtake low-priority work before it is admitted.
MAX_OVERTAKING = 8  # images
# The pace that is assumed before one is measured, in pixels a second.
FIRST_PACE = 1_000_000


class Cancelled(ProblemError):
    """The client has disconnected. This is no bug and needs no traceback; nobody reads its text."""

    def __init__(self) -> None:
        super().__init__("The connection was closed before the image was done.")


class QueueFull(ProblemError):
    """More images than may wait, or more bytes than may be in memory."""

    status = 503

    def __init__(self, fault: str, seconds: int) -> None:
        super().__init__(f"{fault} There should be room in {seconds} s.")
        self.headers = {"Retry-After": str(seconds)}


class OutOfTime(ProblemError):
    """An image that was not finished by its deadline."""

    status = 504

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"The image took more than {seconds:g} seconds, the limit, which includes waiting. Try again later. "
            + limit_note("deadline")
        )


class TooMuchMemory(LimitExceeded):
    """An image that needs more memory than the whole budget, even with nothing else in work."""


class Scheduler:
    """Admits images. Use it in the event loop only."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._network = InferenceQueue(torch.get_num_threads())
        for_small = int(settings.image_memory * FOR_SMALL)
        self._large = _Line("large", LARGE_AT_ONCE, LARGE_AT_ONCE, settings.image_memory - for_small)
        self._small = _Line("small", SMALL_AT_ONCE, SMALL_THREADS, for_small)
        self._lines = (self._large, self._small)
        self._pace = _Pace()
        # Bytes of the request bodies that are in memory.
        self.body_bytes = 0

    def __enter__(self) -> Self:
        self._network.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        """Waits until the threads are idle."""
        for line in self._lines:
            line.threads.shutdown()
        self._network.__exit__(*error)

    @property
    def in_work(self) -> int:
        """Images that are being decoded, denoised or encoded."""
        return sum(len(line.in_work) for line in self._lines)

    @property
    def waiting(self) -> int:
        """Images that wait for admission."""
        return sum(len(line.waiting) for line in self._lines)

    @property
    def pixels_in_work(self) -> int:
        """Pixels of the images in work that have not been denoised yet."""
        return sum(ticket.left for line in self._lines for ticket in line.in_work)

    @property
    def pixels_waiting(self) -> int:
        """Pixels of the images that wait for admission."""
        return sum(ticket.left for line in self._lines for ticket in line.waiting)

    @property
    def memory(self) -> int:
        """Bytes that images in work may take, and that responses take until they are sent."""
        return sum(line.held for line in self._lines)

    def refuse_if_full(self) -> None:
        """Raises QueueFull if no image may wait, whatever its size. Call it before a body is read."""
        most = max(1, self._settings.max_waiting)
        if all(len(line.waiting_at_normal_priority) >= most for line in self._lines):
            raise QueueFull(f"{self.waiting} images are waiting, the limit.", self._seconds_to_room(1))

    @contextmanager
    def arriving(self, announced: int) -> Iterator[Callable[[int], None]]:
        """Counts a request body's bytes until the block ends. Call the result with the size of each chunk.

        announced: the body's size, if known. Room for it is reserved, so that an accepted body can arrive whole.
        Raises QueueFull.
        """
        reserved = received = 0

        def reserve(more: int) -> None:
            nonlocal reserved
            self._refuse_body(reserved + more, more)
            reserved += more
            self.body_bytes += more

        def arrived(more: int) -> None:
            nonlocal received
            received += more
            if received > reserved:
                reserve(received - reserved)

        try:
            reserve(announced)
            yield arrived
        finally:
            self.body_bytes -= reserved

    def rest_network(self) -> None:
        """Frees the network's memory, if no image in work has windows left."""
        # Not between two windows: the system clears memory that is allocated again, which takes time.
        if not self.pixels_in_work:
            self._network.rest()

    @asynccontextmanager
    async def admit(
        self, disconnected: Disconnected, load: Load, accepted: bool = False, low_priority: bool = False
    ) -> AsyncIterator[Ticket]:
        """Waits for admission. The image's memory counts until the block ends; see Ticket.keep.

        disconnected: returns when the client has disconnected. accepted: never refuse the image for lack of room,
        because it belongs to a request that was accepted. low_priority: long work, which has no deadline and lets
        others go first, though not for ever.
        Raises QueueFull, TooMuchMemory, OutOfTime, Cancelled, and MemoryError if a library lacks memory.
        """
        line = self._line(load, low_priority)
        ticket = Ticket(load, self._network, line.threads, line.free, low_priority)
        if not accepted and not low_priority:
            self._refuse_if_full(line, ticket)
        with _stopping(ticket, disconnected, None if low_priority else self._settings.deadline):
            line.enter(ticket)
            try:
                await ticket.admitted
                with self._pace.of(ticket), _lacking_memory():
                    yield ticket
            finally:
                line.leave(ticket)
                self.rest_network()

    def _line(self, load: Load, low_priority: bool) -> "_Line":
        """Low-priority work waits in the large images' line, whatever its size."""
        if load.memory > self._large.memory:
            raise TooMuchMemory(
                f"The image needs {load.memory} bytes of memory; at most {self._large.memory} are available.",
                "image_memory",
            )
        is_small = not low_priority and load.memory <= self._settings.image_memory * SMALL
        return self._small if is_small else self._large

    def _refuse_if_full(self, line: "_Line", ticket: Ticket) -> None:
        most, most_pixels = self._settings.max_waiting, self._settings.waiting_pixels
        waiting = [other.left for other in line.waiting_at_normal_priority]
        if not waiting and line.has_room(ticket):
            return
        if len(waiting) >= most:
            raise QueueFull(f"{len(waiting)} images are waiting; at most {most} may.", self._seconds_to_room(1))
        over = sum(waiting) + ticket.left - most_pixels
        # One image may wait, whatever its size.
        if waiting and over > 0:
            fault = (
                f"{sum(waiting)} pixels are waiting; with this image's {ticket.left}, at most {most_pixels} may."
            )
            raise QueueFull(fault, self._seconds_to_room(over))

    def _refuse_body(self, size: int, more: int) -> None:
        """size: of the body. more: how many of its bytes are not counted yet."""
        most = self._settings.body_memory
        limit = most if size <= most * SMALL else int(most * (1 - FOR_SMALL))
        if self.body_bytes + more > limit:
            fault = f"Images of {self.body_bytes} bytes are arriving, waiting or in work; at most {limit} may."
            raise QueueFull(fault, self._seconds_to_room(1))

    def _seconds_to_room(self, pixels: int) -> int:
        """How long it takes to denoise what is in work and this many pixels more."""
        return max(1, math.ceil((self.pixels_in_work + pixels) / self._pace.now))


class _Line:
    """A line of waiting images, and those admitted from it.

    held: bytes taken by the admitted images, and by responses that are not sent yet.
    """

    def __init__(self, name: str, places: int, threads: int, memory: int) -> None:
        # Each of these threads uses one core: helper threads of torch for each would be too many.
        self.threads = ThreadPoolExecutor(threads, name, begin, (1,))
        self.places = places
        self.memory = memory
        self.held = 0
        self.waiting: list[Ticket] = []
        self.in_work: set[Ticket] = set()

    @property
    def waiting_at_normal_priority(self) -> list[Ticket]:
        """The waiting images, without low-priority work."""
        return [ticket for ticket in self.waiting if not ticket.low_priority]

    def has_room(self, ticket: Ticket) -> bool:
        """Whether the image could be admitted. The last place is not for low-priority work."""
        places = self.places - ticket.low_priority
        return len(self.in_work) < places and self.held + ticket.load.memory <= self.memory

    def enter(self, ticket: Ticket) -> None:
        """Adds an image, and admits it if there is room."""
        self.waiting.append(ticket)
        self._admit()

    def leave(self, ticket: Ticket) -> None:
        """Removes an image that is finished or given up, perhaps before it was admitted."""
        if ticket in self.in_work:
            self.in_work.remove(ticket)
            self.held -= ticket.load.memory - ticket.kept
        else:
            self.waiting.remove(ticket)
        self._admit()

    def free(self, size: int) -> None:
        """Gives back memory that a response took."""
        self.held -= size
        self._admit()

    def _admit(self) -> None:
        while (ticket := self._first()) and self.has_room(ticket):
            self.waiting.remove(ticket)
            self.in_work.add(ticket)
            self.held += ticket.load.memory
            ticket.admitted.set_result(None)
            for other in self.waiting:
                other.passed += not ticket.low_priority

    def _first(self) -> Ticket | None:
        """The next image. Low-priority work is next if nothing else waits, or once enough have passed it."""
        waiting = (ticket for ticket in self.waiting if not ticket.admitted.done())
        return min(
            waiting, key=lambda ticket: ticket.low_priority and ticket.passed < MAX_OVERTAKING, default=None
        )


class _Pace:
    """The recent pace: pixels denoised, and seconds in which something was in work. Old ones count less."""

    def __init__(self) -> None:
        self._pixels, self._seconds = float(FIRST_PACE), 1.0
        self._in_work = 0
        self._last = 0.0

    @property
    def now(self) -> float:
        """Pixels a second."""
        return self._pixels / self._seconds

    @contextmanager
    def of(self, ticket: Ticket) -> Iterator[None]:
        """Measures an image. If it ends early, only what was denoised counts."""
        if not self._in_work:
            self._last = time.perf_counter()
        self._in_work += 1
        try:
            yield
            ticket.done = ticket.load.pixels
        finally:
            self._in_work -= 1
            now = time.perf_counter()
            self._pixels = 0.9 * self._pixels + ticket.done
            self._seconds = 0.9 * self._seconds + now - self._last
            self._last = now


@contextmanager
def _stopping(ticket: Ticket, disconnected: Disconnected, deadline: float | None) -> Iterator[None]:
    """Stops the image when its client disconnects, or after `deadline` seconds; 0 or None means no deadline."""

    async def watch() -> None:
        await disconnected()
        ticket.stop(Cancelled)

    watching: list[asyncio.Task[None] | asyncio.TimerHandle] = [asyncio.create_task(watch())]
    if deadline:
        loop, late = asyncio.get_running_loop(), partial(OutOfTime, deadline)
        watching.append(loop.call_later(deadline, ticket.stop, late))
    try:
        yield
    finally:
        for each in watching:
            each.cancel()


@contextmanager
def _lacking_memory() -> Iterator[None]:
    """Turns torch's errors for lack of memory, plain RuntimeErrors on a CPU, into MemoryError."""
    try:
        yield
    except RuntimeError as error:
        # OutOfMemoryError is a GPU's. Untried.
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            raise MemoryError(str(error)) from error
        raise
