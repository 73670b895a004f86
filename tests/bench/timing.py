"""Interleaved timing: every round runs each program once, so a drift in speed affects all alike."""

import math
import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

Work = Callable[[], object]
K = TypeVar("K", bound=Hashable)

# Shorter work is repeated until it takes this long, in seconds.
LEAST = 0.02
# Pause between two programs, in seconds, in which the threads of the first stop spinning.
REST = 0.01


def interleaved(
    works: Mapping[K, Work],
    rounds: int,
    least: float = LEAST,
    rest: float = REST,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[K, list[float]]:
    """Seconds that each work takes, one number a round. A round runs all of them in the given order.

    Before the first round, each runs once or twice. This warms up and finds how often to repeat it.
    """
    counts = {name: _repeats(work, least, clock) for name, work in works.items()}
    seconds: dict[K, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            time.sleep(rest)
            seconds[name].append(_seconds(work, counts[name], clock))
    return seconds


def ratio(ours: Sequence[float], peer: Sequence[float]) -> float:
    """The median over all rounds of the peer's seconds divided by ours. Above 1, ours is faster."""
    return statistics.median(b / a for a, b in zip(ours, peer, strict=True))


def fastest(works: Mapping[K, Work], rounds: int = 2) -> K:
    """The fastest of several programs. A few rounds are enough, because near ties do not matter."""
    if len(works) == 1:
        return next(iter(works))
    seconds = interleaved(works, rounds)
    return min(seconds, key=lambda name: min(seconds[name]))


def _repeats(work: Work, least: float, clock: Callable[[], float]) -> int:
    once = _seconds(work, 1, clock)
    # The first run is also slow for other reasons, so work that may be short is timed once more.
    if once < 10 * least:
        once = _seconds(work, 1, clock)
    return max(1, math.ceil(least / once)) if once else 1


def _seconds(work: Work, count: int, clock: Callable[[], float]) -> float:
    start = clock()
    for _ in range(count):
        work()
    return (clock() - start) / count
