"""What a benchmark gives: rows, how they are printed, and what may be asked for."""

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
# How far two right results may be apart, as a part of the results' root mean square: over all numbers, and for
# a single one.
TOLERANCES = {"float32": (1e-4, 5e-3), "bfloat16": (3e-2, 0.6)}


class Differs(Exception):
    """Two sides of a row give different results: there is nothing to compare the speed of."""


class LeftOut(Exception):
    """A peer is not installed, or cannot do what the row asks for; says which and why."""


@dataclass(frozen=True)
class Options:
    """What is asked for.

    only: text that a case must hold; images: folder of clean ones, count: how many; largest: in megapixels;
    device: that networks run on, "cpu" or "cuda".
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
        """Whether a case is to be measured."""
        return self.only in case


@dataclass(frozen=True)
class Row:
    """One comparison. ours, peer: in `unit`, None where there is no peer; ratio: above 1, ours is the faster."""

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
        """As it stands in the JSON."""
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
    """The row for two sides' seconds, one number a round, that each did `amount` units of work in."""
    speeds = (amount / statistics.median(seconds) for seconds in (ours, peer))
    return Row(group, case, precision, next(speeds), next(speeds), peer_name, unit, ratio(ours, peer), more)


def check_equal(what: str, ours: Tensor, peer: Tensor, precision: str, slack: float = 1.0) -> None:
    """Raises Differs if two results are not the same up to the rounding of the precision, times slack."""
    if ours.shape != peer.shape:
        raise Differs(f"{what}: the results have the shapes {tuple(ours.shape)} and {tuple(peer.shape)}")
    ours, peer = ours.detach().float(), peer.detach().float()
    size = float(peer.square().mean().sqrt())
    error = (ours - peer).abs()
    mean, largest = float(error.square().mean().sqrt()), float(error.max())
    allowed, allowed_once = (slack * size * tolerance for tolerance in TOLERANCES[precision])
    # So written that what is no number is a difference.
    if not (mean <= allowed and largest <= allowed_once):
        raise Differs(
            f"{what}, {precision}: the results differ, by {mean:.3g} in the mean and {largest:.3g} at most;"
            f" allowed are {allowed:.3g} and {allowed_once:.3g}"
        )


def leave_out(case: str, peer: str, why: object) -> None:
    """Tell that a row is missing, and why."""
    print(f"left out: {case}, {peer}: {why}", file=sys.stderr, flush=True)


def table(rows: Iterator[Row]) -> Iterator[str]:
    """The lines of a markdown table, each as soon as its row is there."""
    for place, row in enumerate(rows):
        if not place:
            names = ["case", "precision", "ours", "peer", "its name", "unit", "ratio", *row.more]
            yield f"| {' | '.join(names)} |"
            yield f"|{' --- |' * len(names)}"
        values = [row.case, row.precision, row.ours, row.peer, row.peer_name, row.unit, row.ratio]
        yield f"| {' | '.join(_text(value) for value in (*values, *row.more.values()))} |"


def rounded(value: Any) -> Any:
    """Numbers to four digits: more was not measured."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _text(value: Any) -> str:
    return "" if value is None else f"{rounded(value):g}" if isinstance(value, float) else str(value)
