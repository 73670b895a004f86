"""Noise law: how the variance of noise grows with brightness, measured from the image alone.

variance = gain * (x - pedestal) + read_variance. Every value comes with an interval that holds the truth in at
least 95 % of cases: measured on Kodak24, CBSD68, dead leaves and microscope-like scenes with 5 to 1000 photons.

The line through variance by brightness gives the gain, and read_variance - gain * pedestal. Three things part the
last two, as far as they can be parted:
- Photons are skewed, and read noise is not: the third cumulant is gain**2 * (x - pedestal).
- The pedestal is no brighter than the darkest part, and the read variance is not negative.
- Where all this allows a pedestal of 0, it is taken: most images have none.
In photographs these three often leave a wide interval for the pedestal, and so for the read noise. The transform
that stabilises the variance needs the line alone.

Where small points are all that is bright, such as stars, the gain is an upper bound: see
`_points_on_even_ground`.

Rounding to whole numbers adds 1/12 to the variance. It counts as read noise.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from engine.data.noise.anscombe import NoiseLaw
from engine.inference.noise_estimation.config import DEFAULT_CONFIG
from engine.inference.noise_estimation.jpeg_grid import has_jpeg_grid
from engine.inference.noise_estimation.law_bins import CELL, HIGH_BAND, LawBins, band_size, law_bins
from engine.inference.noise_estimation.law_fit import (
    Line,
    excess,
    fit_line,
    noise_alone,
    pedestal_by_third_cumulant,
)

# Standard errors to either side that hold the truth in 95 % of cases. Measured, see the tests.
SPREAD = 3.1
# The more bins show texture, the wider: by this much, relative, if all do.
TEXTURE_SPREAD = 1.0
# Share of samples at the image's least or largest value from which a bin may be clipped. Within half a standard
# deviation of that value must lie this part of them, or of all others where these are fewer. Photon counts have
# many zeros and nothing close to them.
MIN_CLIPPED_SHARE = 0.02
MIN_NEAR_SHARE = 0.1
# Standard deviation at the brightest measured brightness over that at the darkest.
MIN_GROWTH = 1.25
# The same with the least gain of the interval.
MIN_CERTAIN_GROWTH = 1.15
# Bins that show noise alone.
MIN_BINS = 3
# Standard deviation at the bright end, as a share of the image's range of brightness. Less is not worth a
# transform.
MIN_NOISE = 0.02
# Keep divisions and roots finite: a variance, and a variance at the dark end over that at the bright end.
MIN_VARIANCE = 1e-30
LEAST_SHARE_OF_VARIANCE = 1e-6
# Points on an even ground: the ground's least share of the cells; the surplus of variance at middle frequencies
# in the ground at most, and in points at least; and in standard deviations of the ground, how far above it points
# begin, and how far the brightest reach. Images of 8 bits do not reach so far.
MIN_GROUND_SHARE = 0.7
GROUND_EXCESS = 0.05
MIN_POINT_EXCESS = 2.0
MIN_POINT_DEVIATIONS = 5.0
MIN_POINT_RANGE = 300.0
# Standard deviation of the ground over the gain, at least. Then the ground's noise stays nearly Gaussian under
# the transform.
MIN_GROUND_DEVIATIONS = 6.0


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

    law: what to stabilise with. Where only points are bright, its gain is an upper bound.
    gain, read_noise, pedestal: intervals that hold the truth in 95 % of cases. read_noise is a standard
    deviation. growth: standard deviation at the brightest measured brightness over that at the darkest.
    clipped: whether samples are clipped at the dark end, and at the bright end.
    points: what was measured, darkest first.
    confident: the variance grows with brightness for certain, the line fits, and the noise is white.
    """

    law: NoiseLaw
    gain: Interval
    read_noise: Interval
    pedestal: Interval
    growth: float
    clipped: tuple[bool, bool]
    points: tuple[LawPoint, ...]
    confident: bool


def estimate_law(tiles: Tensor) -> tuple[LawEstimate | None, ...]:
    """tiles: (T, h, w, C) float32, in any unit. One estimate for each channel, None if it cannot be measured."""
    estimates = [estimate_from_bins(law_bins(channel)) for channel in tiles.unbind(3)]
    if any(estimate and estimate.confident for estimate in estimates) and _was_jpeg(tiles):
        estimates = [estimate and replace(estimate, confident=False) for estimate in estimates]
    return tuple(estimates)


def estimate_from_bins(bins: LawBins | None) -> LawEstimate | None:
    """The law that fits the bins best. None if there is none."""
    if bins is None:
        return None
    points = _points_on_even_ground(bins)
    if points:
        return points
    dark, bright = _is_clipped(bins.at_low, bins.near_low), _is_clipped(bins.at_high, bins.near_high)
    usable = ~(dark | bright)
    line = fit_line(bins, usable if int(usable.sum()) >= 2 else torch.ones_like(usable))
    if line is None:
        return None
    return _estimate(bins, line, noise_alone(bins, line) & usable, (bool(dark.any()), bool(bright.any())))


def _is_clipped(at_end: Tensor, near_end: Tensor) -> Tensor:
    """Which bins may be clipped, by the shares of their samples at one end of the range and near it."""
    # Where most samples are clipped, few are left to lie near.
    return (at_end > MIN_CLIPPED_SHARE) & (near_end > MIN_NEAR_SHARE * torch.minimum(at_end, 1 - at_end))


def _estimate(bins: LawBins, line: Line, alone: Tensor, clipped: tuple[bool, bool]) -> LawEstimate:
    measured = bins.mean[alone if int(alone.sum()) >= 2 else line.used]
    darkest, brightest = float(measured.min()), float(measured.max())
    slope = max(line.slope, 0.0)
    spread = SPREAD * (1 + TEXTURE_SPREAD * (1 - float(alone.double().mean())) ** 2)
    error = spread * math.sqrt(float(line.covariance[0, 0]))
    gain = Interval(max(line.slope - error, 0.0), max(line.slope + error, 0.0))
    pedestal, pedestals = _pedestal(bins, line, alone, spread)
    read_variance = max(line.at(pedestal if slope > 0 else (darkest + brightest) / 2), 0.0)
    high = max(line.at(brightest), MIN_VARIANCE)
    low = max(line.at(darkest), LEAST_SHARE_OF_VARIANCE * high)
    growth = math.sqrt(high / low) if slope > 0 else 1.0
    certain_growth = math.sqrt(1 + gain.low * (brightest - darkest) / low)
    is_visible = math.sqrt(high) >= MIN_NOISE * float(bins.mean[-1] - bins.mean[0])
    return LawEstimate(
        law=NoiseLaw(slope, pedestal + bins.centre, read_variance),
        gain=gain,
        read_noise=_read_noise(line, pedestals, spread, read_variance),
        pedestal=Interval(pedestals.low + bins.centre, pedestals.high + bins.centre),
        growth=growth,
        clipped=clipped,
        points=_points(bins, line.variance, line.error),
        confident=growth >= MIN_GROWTH
        and certain_growth >= MIN_CERTAIN_GROWTH
        and int(alone.sum()) >= MIN_BINS
        and is_visible,
    )


def _points(bins: LawBins, variance: Tensor, error: Tensor) -> tuple[LawPoint, ...]:
    sigma = variance.clamp(min=MIN_VARIANCE).sqrt()
    columns = (bins.mean + bins.centre, sigma, error / (2 * sigma))
    return tuple(LawPoint(*point) for point in zip(*(column.tolist() for column in columns), strict=True))


def _pedestal(bins: LawBins, line: Line, alone: Tensor, spread: float) -> tuple[float, Interval]:
    """The brightness of no light and its interval, both less the bins' centre."""
    darkest = float(bins.mean[0])
    if line.slope <= 0:
        return darkest, Interval(-math.inf, math.inf)
    # Where the line has no variance, and the darkest measured brightness.
    least = -line.intercept / line.slope
    least_error = spread * line.error_at(least) / line.slope
    most = max(darkest, least)
    most_error = spread * math.sqrt(float(bins.high[0]) / (float(bins.counts[0]) * CELL**2))
    value, error = pedestal_by_third_cumulant(bins, line, alone)
    value = value if math.isfinite(error) else (least + most) / 2
    error *= spread
    low, high = max(value - error, least - least_error), min(value + error, most + most_error)
    if low > high:
        low, high = least - least_error, most + most_error
    # The usual pedestal is 0: where the image allows it, it is taken.
    value = -bins.centre if low <= -bins.centre <= high else min(max(value, low, least), high, most)
    return value, Interval(low, high)


def _read_noise(line: Line, pedestals: Interval, spread: float, read_variance: float) -> Interval:
    """Standard deviations that the line allows, anywhere between the pedestal's bounds."""
    edges = [edge for edge in (pedestals.low, pedestals.high) if math.isfinite(edge)]
    if not edges:
        return Interval(0.0, math.sqrt(read_variance))
    errors = [spread * line.error_at(edge) for edge in edges]
    low = min(line.at(edge) - error for edge, error in zip(edges, errors, strict=True))
    high = max(line.at(edge) + error for edge, error in zip(edges, errors, strict=True))
    return Interval(math.sqrt(max(low, 0.0)), math.sqrt(max(high, 0.0)))


def _points_on_even_ground(bins: LawBins) -> LawEstimate | None:
    """For stars and the like: most of the image is even and dark, and all that is brighter is small points.

    Then only the ground's variance can be measured, not how it grows: the gain lies anywhere below
    variance / (brightness - 0), if there is no pedestal and no read noise, or above it, if there is a pedestal.
    Its upper end is what the points' edges would have at most; the law takes it, so it is an upper bound. A gain
    that is too large does no harm here: it compresses the points' range and leaves the ground's noise nearly
    Gaussian.
    """
    surplus, chance = excess(bins)
    ground = int(bins.sizes.argmax())
    sigma = math.sqrt(float(bins.high[ground]))
    brighter = bins.mean > bins.mean[ground] + MIN_POINT_DEVIATIONS * sigma
    is_even = float(surplus[ground].abs()) <= GROUND_EXCESS + 2 * float(chance[ground])
    is_most = float(bins.sizes[ground]) >= MIN_GROUND_SHARE * float(bins.sizes.sum())
    has_points = bool(brighter.any()) and bool((surplus[brighter] > MIN_POINT_EXCESS).all())
    span = bins.top - float(bins.mean[ground])
    if not (is_even and is_most and has_points and span > MIN_POINT_RANGE * sigma > 0):
        return None
    level = float(bins.mean[ground]) + bins.centre
    rise = (bins.high - bins.high[ground]) / (bins.mean - bins.mean[ground])
    gain = min(float(rise[brighter].min()), sigma / MIN_GROUND_DEVIATIONS)
    variance = sigma**2
    error = bins.high * (2 / (band_size(HIGH_BAND) * bins.counts)).sqrt()
    lowest = max(variance - SPREAD * float(error[ground]), 0.0)
    least = min(lowest / level, gain) if level > 0 and lowest > 0 else gain
    return LawEstimate(
        law=NoiseLaw(gain, level - variance / gain, 0.0),
        gain=Interval(least, gain),
        read_noise=Interval(0.0, sigma),
        pedestal=Interval(min(level - variance / least, 0.0), level),
        growth=math.sqrt(1 + gain * span / variance),
        clipped=(False, False),
        points=_points(bins, bins.high, error),
        confident=True,
    )


def _was_jpeg(tiles: Tensor) -> bool:
    """Whether these are 8-bit values that went through JPEG. Its noise may look white, yet it is not."""
    for scaled in (tiles, tiles / 255):
        if scaled.min() >= 0 and scaled.max() <= 1:
            in_steps = scaled * 255
            return bool((in_steps - in_steps.round()).abs().max() < 1e-3) and has_jpeg_grid(
                scaled, DEFAULT_CONFIG
            )
    return False
