"""Rows of the load test's table: what was required, what was measured, whether that is enough."""

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Row:
    """met: None if nothing is required. timed: whether the measurement depends on other work on the machine."""

    name: str
    required: str
    measured: str
    met: bool | None = None
    timed: bool = False

    def as_dict(self) -> dict[str, object]:
        """The row for JSON."""
        return asdict(self)


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Lines of a Markdown table."""
    yield "| | required | measured | |"
    yield "| --- | --- | --- | --- |"
    for row in rows:
        verdict = {None: "", True: "yes", False: "NO"}[row.met]
        yield f"| {row.name} | {row.required} | {row.measured} | {verdict} |"


def percentile(sorted_values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed. NaN if there are none."""
    if not sorted_values:
        return math.nan
    return sorted_values[max(0, math.ceil(share * len(sorted_values)) - 1)]


def milliseconds(sorted_seconds: Sequence[float]) -> str:
    """The median, the 99th percentile and the maximum as text."""
    shown = (f"{percentile(sorted_seconds, share) * 1000:.1f}" for share in (0.5, 0.99, 1))
    return "{} / {} / {} ms".format(*shown) + f" of {len(sorted_seconds)}"


def none_of(name: str, found: Sequence[str]) -> Row:
    """A row that requires nothing to be found. Prints the first 20 of what was found to standard error."""
    for each in found[:20]:
        print(f"{name}: {each}", file=sys.stderr)
    return Row(name, "0", str(len(found)), not found)
