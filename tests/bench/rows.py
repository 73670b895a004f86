"""Rows of results: how they are compared, checked and printed. Options of the benchmark."""

import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .timing import ratio

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Largest difference of two correct results, as a share of their root mean square: the root mean square of all
# differences, and a single difference.
TOLERANCES = {"float32": (1e-4, 5e-3), "bfloat16": (3e-2, 0.6)}


class ResultsDiffer(Exception):
    """Two programs give different results, so their speeds cannot be compared."""


class Unavailable(Exception):
    """A program is not installed, or cannot run this case."""


@dataclass(frozen=True)
class Options:
    """Options of the benchmark.

    only: text that a case must contain. images: folder of clean images. count: how many of them. largest: in
    megapixels. device: where networks run, "cpu" or "cuda".
    """

    rounds: int = 7
    threads: int = 2
    precisions: tuple[str, ...] = ("float32",)
    only: str = ""
    images: Path | None = None
    count: int = 4
    largest: float = 24.0
    device: str = "cpu"

    def wants(self, case: str) -> bool:
        """Whether to measure this case."""
        return self.only in case


@dataclass(frozen=True)
class Row:
    """One comparison. ours, peer: speeds in `unit`; peer is None without one. ratio: above 1, ours is faster."""

    group: str
    case: str
    precision: str
    ours: float
    peer: float | None
    peer_name: str | None
    unit: str
    ratio: float | None
    more: Mapping[str, float | str | None] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The row for JSON."""
        values = {name: value for name, value in vars(self).items() if name != "more"}
        return {name: rounded(value) for name, value in (values | dict(self.more)).items()}


Group = Callable[[Options], Iterator[Row]]


def compared(
    group: str,
    case: str,
    precision: str,
    amount: float,
    unit: str,
    ours: Sequence[float],
    peer: Sequence[float],
    peer_name: str,
    **more: float | str | None,
) -> Row:
    """The row for two programs. ours, peer: seconds in each round for `amount` units of work."""
    speeds = (amount / statistics.median(seconds) for seconds in (ours, peer))
    return Row(group, case, precision, next(speeds), next(speeds), peer_name, unit, ratio(ours, peer), more)


def check_equal(what: str, ours: Tensor, peer: Tensor, precision: str, slack: float = 1.0) -> None:
    """Raises ResultsDiffer if two results differ by more than the precision's tolerance, times slack."""
    if ours.shape != peer.shape:
        raise ResultsDiffer(f"{what}: the results have the shapes {tuple(ours.shape)} and {tuple(peer.shape)}")
    ours, peer = ours.detach().float(), peer.detach().float()
    size = float(peer.square().mean().sqrt())
    error = (ours - peer).abs()
    mean, largest = float(error.square().mean().sqrt()), float(error.max())
    allowed, allowed_once = (slack * size * tolerance for tolerance in TOLERANCES[precision])
    # NaN must count as a difference, so this is no test for `>`.
    if not (mean <= allowed and largest <= allowed_once):
        raise ResultsDiffer(
            f"{what}, {precision}: the results differ, by {mean:.3g} on average and {largest:.3g} at most;"
            f" allowed are {allowed:.3g} and {allowed_once:.3g}"
        )


def report_skipped(case: str, peer: str, why: object) -> None:
    """Prints that a row is missing, and why."""
    print(f"skipped: {case}, {peer}: {why}", file=sys.stderr, flush=True)


def table(rows: Iterator[Row]) -> Iterator[str]:
    """The lines of a Markdown table, each as soon as its row is measured."""
    for index, row in enumerate(rows):
        if not index:
            names = ["case", "precision", "ours", "peer", "its name", "unit", "ratio", *row.more]
            yield f"| {' | '.join(names)} |"
            yield f"|{' --- |' * len(names)}"
        values = [row.case, row.precision, row.ours, row.peer, row.peer_name, row.unit, row.ratio]
        yield f"| {' | '.join(_text(value) for value in (*values, *row.more.values()))} |"


def rounded(value: Any) -> Any:
    """Rounds a number to four significant digits."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _text(value: Any) -> str:
    return "" if value is None else f"{rounded(value):g}" if isinstance(value, float) else str(value)
