"""The network's thread: whose window is next, and which windows share a batch.

Each request has an equal share of the network: the next window is the one that would be done first if all were
worked on at once, each at its share of the speed, so that a small image passes the windows of large ones and
yet cannot hold them up for ever. With it go the windows that wait of the same network and shape, as many as the
memory budget holds: each gets what it gets alone, and none waits for a batch to fill. There is one thread, for
the engine keeps every core busy with one batch: two at once would be no faster, and take twice the memory.

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

    share: of the network, where others have 1. stopped: makes the error that says why no more is to be done. An
    error made once would keep all it passed on its way up. due: when its last window would be done, in pixels
    that a flow of share 1 is given until then.
    """

    share: float = 1.0
    stopped: Callable[[], Exception] | None = None
    due: float = 0.0

    def check(self) -> None:
        """Raises what stopped it."""
        if self.stopped:
            raise self.stopped()


@dataclass(eq=False)
class _Asked:
    flow: Flow
    window: Window
    due: float
    done: "Future[float]" = field(default_factory=Future)

    def begin(self) -> bool:
        """Whether somebody still waits for it. From here on it cannot be cancelled."""
        return self.done.set_running_or_notify_cancel()

    def tell(self, error: Exception | None, seconds: float) -> None:
        """Whoever asked."""
        if error:
            self.done.set_exception(error)
        else:
            self.done.set_result(seconds)

    def fits(self, other: "_Asked") -> bool:
        """Whether both may be in one batch."""
        return self.window.net is other.window.net and self.window.shape == other.window.shape


class InferenceQueue:
    """Runs windows, a batch at a time."""

    def __init__(self, cores: int) -> None:
        """cores: that torch's helpers may keep busy."""
        self._thread = ThreadPoolExecutor(1, "network", begin, (cores,))
        self._lock = Lock()
        self._waiting: list[_Asked] = []
        self._arena = Arena()
        # What a flow of share 1 that never paused would have been given, in pixels.
        self._clock = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Waits until what was asked for is done."""
        self._thread.shutdown()

    def ask(self, flow: Flow, window: Window) -> "Future[float]":
        """Have a window done in its turn, and its part of the batch's seconds told; or what went wrong with it.

        A flow's next window is to be asked for when this one is done.
        """
        with self._lock:
            flow.due = max(flow.due, self._clock) + prod(window.shape) / flow.share
            asked = _Asked(flow, window, flow.due)
            self._waiting.append(asked)
        # So many calls as windows: those whose window went with another's find nothing, or the next.
        self._thread.submit(self._run_next)
        return asked.done

    def rest(self) -> None:
        """Give back the memory that windows were in: the service holds none that it may not need for hours."""
        self._thread.submit(self._arena.clear)

    def _run_next(self) -> None:
        with self._arena.used():
            _run(self._take())

    def _take(self) -> list[_Asked]:
        """The windows to be run next, in one batch. Those that nobody wants any more are dropped."""
        with self._lock:
            for asked in list(self._waiting):
                if stopped := asked.flow.stopped:
                    self._waiting.remove(asked)
                    if asked.begin():
                        asked.done.set_exception(stopped())
            if not self._waiting:
                return []
            shares = sum(asked.flow.share for asked in self._waiting)
            first = min(self._waiting, key=lambda asked: asked.due)
            batch = sorted(filter(first.fits, self._waiting), key=lambda asked: asked.due)[: first.window.fits]
            for asked in batch:
                self._waiting.remove(asked)
            self._clock += len(batch) * prod(first.window.shape) / shares
        return [asked for asked in batch if asked.begin()]


def _run(batch: list[_Asked]) -> None:
    """Empties the list: an error keeps whatever has a name where it came by, and who asked keeps the error."""
    start = time.perf_counter()
    error = _attempt([asked.window for asked in batch])
    seconds = (time.perf_counter() - start) / max(1, len(batch))
    if error and len(batch) > 1:
        # What one of them cannot do the others need not suffer from.
        error = None
        while batch:
            _run([batch.pop(0)])
    while batch:
        batch.pop().tell(error, seconds)
    del error


def _attempt(windows: list[Window]) -> Exception | None:
    """What went wrong, if anything did."""
    if not windows:
        return None
    try:
        run_batch(windows)
    except Exception as error:
        return error
    return None


def begin(cores: int) -> None:
    """For a thread that computes: a lower priority, and how many cores it may keep busy."""
    lower_priority()
    use_cores(cores)
