"""What was asked for, what was measured, and whether that is enough."""

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Row:
    """good: None where it is only told. timed: whether it depends on who else has the processor."""

    what: str
    asked: str
    measured: str
    good: bool | None = None
    timed: bool = False

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def table(rows: Sequence[Row]) -> Iterator[str]:
    """As Markdown."""
    yield "| | asked | measured | |"
    yield "| --- | --- | --- | --- |"
    for row in rows:
        verdict = {None: "", True: "yes", False: "NO"}[row.good]
        yield f"| {row.what} | {row.asked} | {row.measured} | {verdict} |"


def percentile(sorted_values: Sequence[float], part: float) -> float:
    """The least of the values that so large a part of them does not exceed. NaN of none."""
    if not sorted_values:
        return math.nan
    return sorted_values[max(0, math.ceil(part * len(sorted_values)) - 1)]


def milliseconds(sorted_seconds: Sequence[float]) -> str:
    """The median, the 99th percentile and the largest, in words."""
    shown = (f"{percentile(sorted_seconds, part) * 1000:.1f}" for part in (0.5, 0.99, 1))
    return "{} / {} / {} ms".format(*shown) + f" of {len(sorted_seconds)}"


def none_of(what: str, things: Sequence[str]) -> Row:
    """A row for what there should be none of; the things themselves go to stderr."""
    for thing in things[:20]:
        print(f"{what}: {thing}", file=sys.stderr)
    return Row(what, "0", str(len(things)), not things)
