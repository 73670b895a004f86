"""Fit of the noise law: a line through variance by brightness, and from the third cumulant the pedestal.

Texture adds to a bin's variance and never takes from it, so the fit is robust on one side: bins far above the
line are left out, bins below it are believed.
Source: Foi, Trimeche, Katkovnik & Egiazarian, "Practical Poissonian-Gaussian noise modeling and fitting for
single-image raw-data", IEEE Transactions on Image Processing 2008 (the line through local variance by local
mean).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.inference.noise_estimation.law_bins import (
    CELL,
    HIGH_BAND,
    MIDDLE_BAND,
    TINY,
    LawBins,
    band_size,
)

# Relative error of a bin's variance that does not shrink with the number of its cells.
LEAST_ERROR = 0.015
# Texture has about this share of its middle frequencies' variance at high frequencies.
TEXTURE_AT_HIGH = 0.3
# Error of that share.
TEXTURE_ERROR = 0.2
# Standard errors by which the middle frequencies' variance must be larger before it counts as texture.
MIN_TEXTURE_DEVIATIONS = 0.5
# Squared deviations, in standard errors, count up to these where a line is chosen. Texture adds to the variance
# and never takes from it, so a bin below the line speaks louder than one above.
MAX_COST_BELOW = 40.0
MAX_COST_ABOVE = 9.0
# Standard errors above the line from which a bin counts as textured and is left out.
MAX_ABOVE = 2.0
# Of leaving out bins and fitting again.
ROUNDS = 8
# A bin shows noise alone up to these: the relative difference of its variances at middle and at high frequencies;
# its distance from the line, in standard errors; the relative variance of its cells' variances, over that of
# noise. Chance widens the first and the third.
MAX_EXCESS = 0.2
MAX_DEVIATION = 2.5
MAX_SPREAD = 1.5


@dataclass(frozen=True)
class Line:
    """Variance = slope * x + intercept, where x is brightness less the bins' centre.

    covariance: (2, 2), of slope and intercept. used: (bins,) bool. deviations: (bins,) in standard errors.
    variance: (bins,) without texture. error: (bins,) its standard error.
    """

    slope: float
    intercept: float
    covariance: Tensor
    used: Tensor
    deviations: Tensor
    variance: Tensor
    error: Tensor

    def at(self, x: float) -> float:
        return self.slope * x + self.intercept

    def error_at(self, x: float) -> float:
        """Standard error of the line there."""
        place = torch.tensor([x, 1.0], dtype=torch.float64)
        return math.sqrt(max(float(place @ self.covariance @ place), 0.0))


def excess(bins: LawBins) -> tuple[Tensor, Tensor]:
    """(bins,): variance at middle frequencies over that at high ones, less 1; and its standard error for white
    noise.
    """
    chance = ((2 / band_size(MIDDLE_BAND) + 2 / band_size(HIGH_BAND)) / bins.counts).sqrt()
    return bins.middle / bins.high.clamp(min=TINY) - 1, chance


def fit_line(bins: LawBins, usable: Tensor) -> Line | None:
    """The line that most bins lie on. usable: (bins,) bool. None if it cannot be determined."""
    surplus, surplus_chance = excess(bins)
    at_high = _texture_at_high(surplus, surplus_chance)
    x = bins.mean
    # The surplus may be negative: cut off at 0, it would take too much where there is no texture.
    y = bins.high * (1 - at_high * surplus.clamp(min=-0.3)).clamp(min=0.05)
    surplus = (surplus - MIN_TEXTURE_DEVIATIONS * surplus_chance).clamp(min=0)
    of_bands = 2 * (1 + at_high) ** 2 / band_size(HIGH_BAND) + 2 * at_high**2 / band_size(MIDDLE_BAND)
    floor = 1e-6 * float(y.max())
    if floor <= 0 or int(usable.sum()) < 2:
        return None

    def errors(slope: Tensor, expected: Tensor) -> Tensor:
        # Photons' excess kurtosis is slope**2 / variance.
        kurtosis = slope.clamp(min=0).square() / expected
        chance = (of_bands + kurtosis / CELL**2) / bins.counts
        return expected * (chance + LEAST_ERROR**2 + (TEXTURE_ERROR * surplus).square()).sqrt()

    slope, intercept = _best_candidate(x, y, usable, errors)
    design = torch.stack((x, torch.ones_like(x)), 1)
    covariance = torch.full((2, 2), math.inf, dtype=torch.float64)
    deviations, used, error = torch.zeros_like(x), usable, torch.ones_like(x)
    for _ in range(ROUNDS):
        expected = (slope * x + intercept).clamp(min=floor)
        error = errors(slope, expected)
        deviations = (y - expected) / error
        used = usable & (deviations < MAX_ABOVE)
        if int(used.sum()) < 2:
            return None
        weights = used.double() / error.square()
        scale = torch.stack((x.abs().max().clamp(min=1e-30), torch.ones((), dtype=torch.float64)))
        scaled = design / scale
        inverse, failed = torch.linalg.inv_ex(scaled.T @ (weights.unsqueeze(1) * scaled))
        if int(failed):
            return None
        covariance = inverse / torch.outer(scale, scale)
        slope, intercept = covariance @ (design.T @ (weights * y))
    return Line(float(slope), float(intercept), covariance, used, deviations, y, error)


def _texture_at_high(surplus: Tensor, chance: Tensor) -> float:
    """The share of the surplus that is taken off: nothing where all bins together show no texture."""
    weights = 1 / chance.square()
    common = float((weights * surplus.clamp(max=0.5)).sum() / weights.sum())
    chance_of_common = 4 / float(weights.sum())
    return TEXTURE_AT_HIGH * max(common, 0.0) ** 2 / (common**2 + chance_of_common)


def _best_candidate(
    x: Tensor, y: Tensor, usable: Tensor, errors: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Of the level lines through one bin and the rising lines through two, the one that costs least."""
    px, py = x[usable], y[usable]
    i, j = torch.triu_indices(len(px), len(px), 1)
    slopes = (py[j] - py[i]) / (px[j] - px[i])
    rising = (slopes > 0) & slopes.isfinite()
    slopes, first = slopes[rising], i[rising]
    slope = torch.cat((torch.zeros_like(py), slopes))
    intercept = torch.cat((py, py[first] - slopes * px[first]))
    expected = (slope.unsqueeze(1) * x + intercept.unsqueeze(1)).clamp(min=1e-3 * float(y.max()))
    deviations = (y - expected) / errors(slope.unsqueeze(1), expected)
    squares = deviations.square()
    cost = torch.where(deviations < 0, squares.clamp(max=MAX_COST_BELOW), squares.clamp(max=MAX_COST_ABOVE))
    best = int((cost * usable).sum(1).argmin())
    return slope[best], intercept[best]


def pedestal_by_third_cumulant(bins: LawBins, line: Line, alone: Tensor) -> tuple[float, float]:
    """The brightness of no light, and its standard error, both less the bins' centre. For a slope above 0.

    Photons' third cumulant is slope**2 * (x - pedestal); that of read noise is 0.
    """
    slope, chosen = line.slope, alone if bool(alone.any()) else line.used
    variance = (slope * bins.mean + line.intercept).clamp(min=line.variance.max() * 1e-6)
    # The third cumulant's variance for each pixel, in units of 6.
    weights = chosen * bins.counts / (variance**3 * (1 + 3 * slope**2 / variance))
    weights = weights / weights.sum()
    pedestal = float(weights @ (bins.mean - bins.third / slope**2))
    if not bool(bins.third_error.isfinite().all()):
        return pedestal, math.inf
    of_slope = 2 * (float(weights @ bins.mean) - pedestal) * math.sqrt(float(line.covariance[0, 0])) / slope
    chance = float((weights * bins.third_error).square().sum().sqrt()) / slope**2
    # Texture is skewed: its third cumulant is about its variance, raised to 1.5.
    surplus = float(weights @ excess(bins)[0])
    of_texture = max(surplus, 0.0) ** 1.5 * float(weights @ variance**1.5) / slope**2
    return pedestal, math.sqrt(chance**2 + of_slope**2 + of_texture**2)


def noise_alone(bins: LawBins, line: Line) -> Tensor:
    """(bins,) bool: whether a bin shows noise of this law and nothing else.

    Its variance is on the line, the same at middle and at high frequencies, and the same in all of its cells.
    Where there is texture or a drawing, some cells vary far more than others; where noise is correlated or went
    through JPEG, high frequencies have less.
    """
    expected = (line.slope * bins.mean + line.intercept).clamp(min=1e-6 * float(bins.high.max()))
    surplus, chance = excess(bins)
    is_white = surplus.abs() <= MAX_EXCESS + 2 * chance
    kurtosis = max(line.slope, 0.0) ** 2 / expected
    spread = bins.spread / (2 / band_size(HIGH_BAND) + kurtosis / CELL**2)
    is_even = spread <= MAX_SPREAD + 2 * (4 / bins.counts).sqrt()
    return line.used & (line.deviations.abs() < MAX_DEVIATION) & is_white & is_even
