"""Inference queue: the network's thread, which picks the next window and the windows that share its batch.

Each request has an equal share of the network. The next window is the one that would be finished first if all
were worked on at once, each at its share of the speed. So a small image passes the windows of large ones, but
cannot hold them up for ever. Waiting windows of the same network and shape go with it, as many as the memory
budget holds; the result of each is what it would be alone, and none waits for a batch to fill. There is one
thread, because the engine keeps every core busy with one batch: two at once would be no faster, and would take
twice the memory.

Source: Demers, Keshav & Shenker, "Analysis and simulation of a fair queueing algorithm", SIGCOMM 1989.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from math import prod
from threading import Lock
from typing import Self

from engine.inference.tiling import Window, run_batch
from engine.layers import Arena
from engine.system.runtime import lower_priority, use_cores


@dataclass(eq=False)
class Flow:
    """One request's windows.

    share: of the network, where others have 1. stopped: makes the error for which no more windows are run; a new
    one each time, because an error keeps the frames that it has passed through. due: when its last window would
    be finished, in pixels that a flow of share 1 is given until then.
    """

    share: float = 1.0
    stopped: Callable[[], Exception] | None = None
    due: float = 0.0

    def check(self) -> None:
        """Raises the error that stopped it."""
        if self.stopped:
            raise self.stopped()


@dataclass(eq=False)
class _Request:
    flow: Flow
    window: Window
    due: float
    done: "Future[float]" = field(default_factory=Future)

    def begin(self) -> bool:
        """Whether somebody still waits for the result. From here on it cannot be cancelled."""
        return self.done.set_running_or_notify_cancel()

    def resolve(self, error: Exception | None, seconds: float) -> None:
        """Gives the result to whoever waits for it."""
        if error:
            self.done.set_exception(error)
        else:
            self.done.set_result(seconds)

    def fits(self, other: "_Request") -> bool:
        """Whether both may be in one batch."""
        return self.window.net is other.window.net and self.window.shape == other.window.shape


class InferenceQueue:
    """Runs windows, a batch at a time."""

    def __init__(self, cores: int) -> None:
        """cores: how many torch may keep busy."""
        self._thread = ThreadPoolExecutor(1, "network", begin, (cores,))
        self._lock = Lock()
        self._waiting: list[_Request] = []
        self._arena = Arena()
        # The pixels that a flow of share 1 would have been given if it had never paused.
        self._clock = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Waits until all requests are finished."""
        self._thread.shutdown()

    def ask(self, flow: Flow, window: Window) -> "Future[float]":
        """Runs a window when it is due. The result is its part of the batch's seconds, or the error.

        Ask for a flow's next window only when this one is finished.
        """
        with self._lock:
            flow.due = max(flow.due, self._clock) + prod(window.shape) / flow.share
            request = _Request(flow, window, flow.due)
            self._waiting.append(request)
        # One call for each window. A call whose window went with another's finds nothing, or takes the next.
        self._thread.submit(self._run_next)
        return request.done

    def rest(self) -> None:
        """Frees the memory of past windows, which the service may not need again for hours."""
        self._thread.submit(self._arena.clear)

    def _run_next(self) -> None:
        with self._arena.used():
            _run(self._take())

    def _take(self) -> list[_Request]:
        """The windows to run next, in one batch. Drops those that nobody waits for any more."""
        with self._lock:
            for request in list(self._waiting):
                if stopped := request.flow.stopped:
                    self._waiting.remove(request)
                    if request.begin():
                        request.done.set_exception(stopped())
            if not self._waiting:
                return []
            shares = sum(request.flow.share for request in self._waiting)
            first = min(self._waiting, key=lambda request: request.due)
            batch = sorted(filter(first.fits, self._waiting), key=lambda request: request.due)[
                : first.window.fits
            ]
            for request in batch:
                self._waiting.remove(request)
            self._clock += len(batch) * prod(first.window.shape) / shares
        return [request for request in batch if request.begin()]


def _run(batch: list[_Request]) -> None:
    """Runs a batch, and empties the list: an error that a caller keeps also keeps this frame, and so the list."""
    start = time.perf_counter()
    error = _attempt([request.window for request in batch])
    seconds = (time.perf_counter() - start) / max(1, len(batch))
    if error and len(batch) > 1:
        # One window's error should not fail the others: each runs alone.
        error = None
        while batch:
            _run([batch.pop(0)])
    while batch:
        batch.pop().resolve(error, seconds)
    del error


def _attempt(windows: list[Window]) -> Exception | None:
    """Runs the windows. Returns the error, if there was one."""
    if not windows:
        return None
    try:
        run_batch(windows)
    except Exception as error:
        return error
    return None


def begin(cores: int) -> None:
    """Prepares a thread that computes: it gets a lower priority, and torch may use this many cores in it."""
    lower_priority()
    use_cores(cores)
