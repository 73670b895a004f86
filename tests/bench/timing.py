"""Works timed in turns, so that a machine whose speed drifts treats all of them alike."""

import math
import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

Work = Callable[[], object]
K = TypeVar("K", bound=Hashable)

# A work shorter than LEAST seconds is timed many times over; between two works, REST seconds for the threads of
# the one before to stop waiting actively for more.
LEAST, REST = 0.02, 0.01


def interleaved(
    works: Mapping[K, Work],
    rounds: int,
    least: float = LEAST,
    rest: float = REST,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[K, list[float]]:
    """Seconds that each work takes, one number a round: in every round each has its turn, in the order given.

    Before the first round each runs once or twice, to warm up and to find how often it has to be repeated.
    """
    counts = {name: _repeats(work, least, clock) for name, work in works.items()}
    seconds: dict[K, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            time.sleep(rest)
            seconds[name].append(_seconds(work, counts[name], clock))
    return seconds


def ratio(ours: Sequence[float], peer: Sequence[float]) -> float:
    """The median over the rounds of the peer's seconds over ours: above 1, ours is the faster."""
    return statistics.median(b / a for a, b in zip(ours, peer, strict=True))


def fastest(works: Mapping[K, Work], rounds: int = 2) -> K:
    """Which of several ways to do the same takes least; a few rounds tell, since near ties do not matter."""
    if len(works) == 1:
        return next(iter(works))
    seconds = interleaved(works, rounds)
    return min(seconds, key=lambda name: min(seconds[name]))


def _repeats(work: Work, least: float, clock: Callable[[], float]) -> int:
    once = _seconds(work, 1, clock)
    # The first time is slow for other reasons too, so what may be short is timed once more.
    if once < 10 * least:
        once = _seconds(work, 1, clock)
    return max(1, math.ceil(least / once)) if once else 1


def _seconds(work: Work, count: int, clock: Callable[[], float]) -> float:
    start = clock()
    for _ in range(count):
        work()
    return (clock() - start) / count
