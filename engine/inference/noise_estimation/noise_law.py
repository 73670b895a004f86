"""Noise law: how the variance of noise grows with brightness, measured from the image alone.

variance = gain * (x - pedestal) + read_variance, with an interval for each value.

The line through variance by brightness gives the gain, and read_variance - gain * pedestal. It cannot part the
last two: the third cumulant does (photons are skewed, read noise is not), and bounds do (the pedestal is no
brighter than the darkest part, and the read variance is not negative).
Rounding to whole numbers adds 1/12 to the variance. It counts as read noise.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.data.noise.anscombe import NoiseLaw
from engine.inference.noise_estimation.law_bins import CELL, LawBins, law_bins
from engine.inference.noise_estimation.law_fit import (
    Line,
    fit_line,
    noise_alone,
    pedestal_by_third_cumulant,
)

# Standard errors to either side that hold the truth in 95 % of cases. Measured, see the tests.
SPREAD = 3.1
# The more bins show texture, the wider: by this much, relative, if all do.
TEXTURE_SPREAD = 1.0
# Share of samples at the image's least or largest value from which a bin may be clipped, and the part of it that
# must lie within half a standard deviation of that value. Photon counts have many zeros and nothing close to
# them.
MIN_CLIPPED_SHARE = 0.02
MIN_NEAR_SHARE = 0.1
# Standard deviation at the brightest measured brightness over that at the darkest.
MIN_GROWTH = 1.25
# Bins that show noise alone.
MIN_BINS = 3
# Standard deviation at the bright end, as a share of the image's range of brightness. Less is not worth a
# transform.
MIN_NOISE = 0.012


@dataclass(frozen=True)
class Interval:
    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class LawPoint:
    """What one bin of brightness measured, in the units of the input."""

    brightness: float
    sigma: float
    standard_error: float


@dataclass(frozen=True)
class LawEstimate:
    """A measured noise law, in the units of the input.

    gain, read_noise, pedestal: intervals that hold the truth in 95 % of cases. read_noise is a standard
    deviation. growth: standard deviation at the brightest measured brightness over that at the darkest.
    clipped: whether samples are clipped at the dark and at the bright end.
    whiteness: variance at high frequencies over that at middle ones, where the image is flattest; 1 is white.
    confident: the variance grows with brightness for certain, the line fits, and the noise is white.
    """

    law: NoiseLaw
    gain: Interval
    read_noise: Interval
    pedestal: Interval
    growth: float
    clipped: tuple[bool, bool]
    whiteness: float
    points: tuple[LawPoint, ...]
    confident: bool


def estimate_law(tiles: Tensor) -> tuple[LawEstimate | None, ...]:
    """tiles: (T, h, w, C) float32, in any unit. One estimate for each channel, None if it cannot be measured."""
    return tuple(_estimate_channel(channel) for channel in tiles.unbind(3))


def _estimate_channel(channel: Tensor) -> LawEstimate | None:
    bins = law_bins(channel)
    if bins is None:
        return None
    dark = (bins.at_low > MIN_CLIPPED_SHARE) & (bins.near_low > MIN_NEAR_SHARE * bins.at_low)
    bright = (bins.at_high > MIN_CLIPPED_SHARE) & (bins.near_high > MIN_NEAR_SHARE * bins.at_high)
    usable = ~(dark | bright)
    line = fit_line(bins, usable if int(usable.sum()) >= 2 else torch.ones_like(usable))
    if line is None:
        return None
    return _estimate(bins, line, noise_alone(bins, line) & usable, (bool(dark.any()), bool(bright.any())))


def _estimate(bins: LawBins, line: Line, alone: Tensor, clipped: tuple[bool, bool]) -> LawEstimate:
    measured = bins.mean[alone if int(alone.sum()) >= 2 else line.used]
    darkest, brightest = float(measured.min()), float(measured.max())
    slope = max(line.slope, 0.0)
    spread = SPREAD * (1 + TEXTURE_SPREAD * (1 - float(alone.double().mean())) ** 2)
    slope_error = spread * math.sqrt(float(line.covariance[0, 0]))
    gain = Interval(max(line.slope - slope_error, 0.0), max(line.slope + slope_error, 0.0))
    pedestal, pedestals = _pedestal(bins, line, alone, spread)
    variance = max(line.at(pedestal), 0.0) if slope > 0 else max(line.at((darkest + brightest) / 2), 0.0)
    lows = [
        _variance_bounds(line, edge, spread) for edge in (pedestals.low, pedestals.high) if math.isfinite(edge)
    ]
    read_noise = Interval(
        math.sqrt(min((low for low, _ in lows), default=0.0)),
        math.sqrt(max((high for _, high in lows), default=variance)),
    )
    high = max(line.at(brightest), 1e-30)
    low = max(line.at(darkest), 1e-6 * high)
    weights = line.used / line.error.square()
    whiteness = float((weights * bins.high).sum() / (weights * bins.middle).sum().clamp(min=1e-300))
    growth = math.sqrt(high / low) if slope > 0 else 1.0
    span = float(bins.mean[-1] - bins.mean[0])
    confident = (
        gain.low > 0
        and growth >= MIN_GROWTH
        and int(alone.sum()) >= MIN_BINS
        and math.sqrt(high) >= MIN_NOISE * span
    )
    sigmas = line.variance.sqrt()
    points = zip(
        (bins.mean + bins.centre).tolist(), sigmas.tolist(), (line.error / (2 * sigmas)).tolist(), strict=True
    )
    return LawEstimate(
        law=NoiseLaw(slope, pedestal + bins.centre, variance),
        gain=gain,
        read_noise=read_noise,
        pedestal=Interval(pedestals.low + bins.centre, pedestals.high + bins.centre),
        growth=growth,
        clipped=clipped,
        whiteness=whiteness,
        points=tuple(LawPoint(*point) for point in points),
        confident=confident,
    )


def _pedestal(bins: LawBins, line: Line, alone: Tensor, spread: float) -> tuple[float, Interval]:
    """The brightness of no light and its interval, both less the bins' centre."""
    darkest = float(bins.mean[0])
    if line.slope <= 0:
        return darkest, Interval(-math.inf, math.inf)
    # Where the line has no variance, and the darkest measured brightness.
    least = -line.intercept / line.slope
    x = torch.tensor([least, 1.0], dtype=torch.float64)
    least_error = spread * math.sqrt(float(x @ line.covariance @ x)) / line.slope
    most = max(darkest, least)
    most_error = spread * math.sqrt(float(bins.high[0]) / (float(bins.counts[0]) * CELL**2))
    value, error = pedestal_by_third_cumulant(bins, line, alone)
    error *= spread
    low, high = max(value - error, least - least_error), min(value + error, most + most_error)
    if low > high:
        low, high = least - least_error, most + most_error
    # The usual pedestal is 0: where the image allows it, it is taken.
    value = -bins.centre if low <= -bins.centre <= high else min(max(value, low, least), high, most)
    return value, Interval(low, high)


def _variance_bounds(line: Line, x: float, spread: float) -> tuple[float, float]:
    place = torch.tensor([x, 1.0], dtype=torch.float64)
    error = spread * math.sqrt(max(float(place @ line.covariance @ place), 0.0))
    return max(line.at(x) - error, 0.0), max(line.at(x) + error, 0.0)
