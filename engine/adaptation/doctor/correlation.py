"""Correlation of the noise: between neighbouring pixels, and from shot to shot.

Between pixels it is measured in the difference of two shots, which holds no scene. From shot to shot, the
variance of the difference of two shots is compared with that of shots farther apart in time: noise that lasts
differs less between shots that follow one another.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from engine.adaptation.doctor.planes import box_mean, deviation_by_brightness, slope_size
from engine.data.registration import block_sums

# Pixels down and across by which a pair of neighbours differs.
NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0))
# Correlation from which on it matters, between pixels and between shots.
MIN_CORRELATION = 0.05
MAX_LAG_CORRELATION = 0.05
# Values beyond so many standard deviations are cut to that.
CUT = 4.0
# Pixels where a shift that is not known would add more than this share of the noise are left out.
MAX_SLOPE_SHARE = 0.3
UNKNOWN_SHIFT = 0.05  # pixels
# Pixels that are needed.
MIN_PIXELS = 1000
# A shot's own noise must be this much larger than the difference of shots shows, before it counts: texture may
# have been taken for noise.
MIN_SURPLUS = 1.3
# Shots that are needed to see how long noise lasts.
MIN_SHOTS = 4


@dataclass(frozen=True)
class SpatialCorrelation:
    """Of the noise of pixels that are neighbours: the largest of a few distances.

    neighbour: pixels down and across. error: standard error.
    """

    value: float
    neighbour: tuple[int, int]
    error: float


def spatial_correlation(difference: Tensor, brightness: Tensor, mask: Tensor) -> SpatialCorrelation | None:
    """difference, brightness: float64 (H, W), of two shots that lie on each other, with independent noise.

    mask: pixels to leave out. None if too few pixels are left.
    """
    smooth = box_mean(brightness, 1)
    deviation = deviation_by_brightness(difference, smooth, growing=True)
    steep = UNKNOWN_SHIFT * slope_size(smooth) > MAX_SLOPE_SHARE * deviation
    kept = ~(mask | steep | (deviation <= 0))
    if int(kept.sum()) < MIN_PIXELS:
        return None
    even = (difference / deviation.clamp(min=1e-30)).clamp(-CUT, CUT).masked_fill(~kept, 0)
    variance = float(even.square().sum() / kept.sum())
    found = [(*_mean_product(even, kept, *shift), shift) for shift in NEIGHBOURS]
    value, error, neighbour = max(found, key=lambda each: abs(each[0]))
    return SpatialCorrelation(value / variance, neighbour, error / variance)


def _mean_product(values: Tensor, kept: Tensor, rows: int, columns: int) -> tuple[float, float]:
    """Of each pixel and its neighbour, with its standard error."""
    height, width = values.shape
    both = kept[rows:, columns:] & kept[: height - rows, : width - columns]
    products = values[rows:, columns:] * values[: height - rows, : width - columns] * both
    count = max(int(both.sum()), 1)
    sums = block_sums(products.unsqueeze(2))[:, 0]
    return float(sums.sum()) / count, float((sums - sums.mean()).square().sum().sqrt()) / count


@dataclass(frozen=True)
class LagCorrelation:
    """Of the noise of shots by how many shots they are apart: of 1, 2 and so on.

    first: the least distance at which it is below MAX_LAG_CORRELATION; None if it is at none. error: standard
    error of a value.
    """

    values: tuple[float, ...]
    first: int | None
    error: float


def lag_correlation(shots: Sequence[Tensor], mask: Tensor, variance: float = 0.0) -> LagCorrelation | None:
    """shots: float64 (H, W), which lie on each other and are equally bright, in order of time.

    mask: pixels to leave out. variance: of the noise of one shot, if it is known from a shot alone. None if there
    are too few shots.
    """
    if len(shots) < MIN_SHOTS or int((~mask).sum()) < MIN_PIXELS:
        return None
    lags = range(1, len(shots))
    by_lag = [_half_mean_square(shots, lag, ~mask) for lag in lags]
    # The longest distances have few pairs: the largest of the means from each distance on.
    tails = [sum(by_lag[start:]) / len(by_lag[start:]) for start in range(max(1, len(by_lag) // 2))]
    sill = max(tails)
    grows = by_lag[0] < (1 - MAX_LAG_CORRELATION) * sill
    if grows and variance > MIN_SURPLUS * sill:
        # Noise lasts longer than all these shots.
        sill = variance
    if sill <= 0:
        return None
    values = tuple(1 - each / sill for each in by_lag)
    first = next((lag for lag, value in zip(lags, values, strict=True) if value < MAX_LAG_CORRELATION), None)
    # A mean square of n values has a relative error of sqrt(2 / n).
    return LagCorrelation(values, first, math.sqrt(2 / (int((~mask).sum()) * (len(shots) - 1))))


def _half_mean_square(shots: Sequence[Tensor], lag: int, kept: Tensor) -> float:
    """Half the mean square of the difference of shots that are so far apart."""
    total = 0.0
    for first, second in zip(shots, shots[lag:], strict=False):
        difference = (second - first)[kept]
        total += float((difference - difference.mean()).square().mean()) / 2
    return total / (len(shots) - lag)
