"""Likeness of two shots: whether they show one scene, seen through their noise.

Both are reduced until noise is small beside structure, moved onto each other, and correlated. The noise that is
left in each is measured by what the two do not share from one reduced pixel to the next.
"""

import math
from dataclasses import dataclass

from torch import Tensor

from engine.data.registration import Shift, measure_shift, overlap, reduce

# Side to which shots are reduced, in pixels.
SIDE = 64
# Shots show one scene from this correlation of their signals on. Those of other scenes may reach 0.5: one was
# moved to where it fits best.
MIN_LIKENESS = 0.7
# Standard errors by which a correlation must be above or below a limit.
DEVIATIONS = 3.0


@dataclass(frozen=True)
class Likeness:
    """Correlation of the signals of two shots, 1 for one scene, with its standard error.

    error is infinite if the shots have too little structure.
    """

    correlation: float
    error: float

    @property
    def is_certain(self) -> bool:
        """Whether there is structure enough to tell."""
        return self.error < MIN_LIKENESS / DEVIATIONS

    @property
    def differs(self) -> bool:
        """Whether the shots certainly show different scenes."""
        return self.is_certain and self.correlation + DEVIATIONS * self.error < MIN_LIKENESS


def show_one_scene(first: Tensor, second: Tensor) -> bool:
    """Whether both shots, float (H, W, C), certainly show one scene. Not if their sizes differ."""
    if first.shape != second.shape:
        return False
    found = likeness(first, second)
    return found.is_certain and found.correlation > MIN_LIKENESS


def likeness(first: Tensor, second: Tensor) -> Likeness:
    """float (H, W, C) of one size."""
    return likeness_at(first, second, measure_shift(first, second))


def likeness_at(first: Tensor, second: Tensor, shift: Shift | None) -> Likeness:
    """The likeness of two shots whose shift is known, or not to be seen."""
    a, b = (shot.double().mean(2) for shot in (first, second))
    if shift is not None:
        a, b = overlap(a, b, round(shift.rows), round(shift.columns))
    factor = max(1, max(a.shape) // SIDE)
    a, b = (reduce(plane, factor) for plane in (a, b))
    # Noise differs from each reduced pixel to the next; so the covariance of neighbours is the signal's, or less.
    signals = [_signal(plane) for plane in (a, b)]
    count = a.numel()
    if min(signals) <= 0:
        return Likeness(0.0, math.inf)
    scale = math.sqrt(signals[0] * signals[1])
    centred = [plane - plane.mean() for plane in (a, b)]
    product = centred[0] * centred[1]
    correlation = float(product.mean()) / scale
    # Structure spans several reduced pixels, so fewer than all are independent.
    noise = math.sqrt(float(centred[0].square().mean() * centred[1].square().mean())) / scale
    error = noise / math.sqrt(count / 4)
    return Likeness(min(correlation, 1.0), error)


def _signal(plane: Tensor) -> float:
    """Variance of the structure: the covariance of pixels and their neighbours."""
    centred = plane - plane.mean()
    pairs = (centred[1:] * centred[:-1]).mean() + (centred[:, 1:] * centred[:, :-1]).mean()
    return float(pairs) / 2
