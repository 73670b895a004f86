"""Bins of brightness for the noise law: how bright the flattest cells of each bin are, and how much they vary.

The image is cut into cells of 4 x 4 pixels. Whether a cell is dark or bright, flat or rough, is judged by its
four neighbours alone; its own pixels are only measured. So the choice of cells favours no noise: means, variances
and third cumulants are unbiased for every kind of noise that is independent from pixel to pixel. Chosen by their
own pixels, dark cells would be those that caught few photons, and flat ones those that caught few and even ones:
at six photons a pixel, this made the gain 4 % too large, and the pedestal 3 counts too high where 100 was right.
Source: Liu, Tanaka & Okutomi, "Single-image noise level estimation for blind denoising", IEEE Transactions on
Image Processing 2013 (noise is measured in the patches that have least texture).
"""

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

# Pixels a side.
CELL = 4
# Sums of a coefficient's two frequencies, each 0 to 3, in the cosine transform of a cell: the middle frequencies
# tell flat cells from rough ones, the high ones measure the noise.
MIDDLE_BAND = (2, 3)
HIGH_BAND = (4, 6)
# Bins, evenly spaced in the square root of brightness.
MAX_BINS = 20
# The least number of cells that are measured in a bin. A bin with fewer is joined with the next.
MIN_CELLS = 128
# The largest number. Of more, some are left out evenly: chance is then below one part in a hundred.
MAX_CELLS = 4096
# The darkest and the brightest cells do not set the range of the bins: a hot pixel is no brightness of the scene.
OUTLIERS = 32
# The flattest share of a bin's cells. More are measured, up to these shares, while they look as flat.
FLATTEST_SHARE = 0.1
LARGER_SHARES = (0.2, 0.4, 0.7, 1.0)
# Weight of the variance of the four neighbours' means in the roughness of a cell.
LEVEL_WEIGHT = 0.8
# Keeps divisions finite.
TINY = 1e-300


@dataclass(frozen=True)
class LawBins:
    """What was measured in each bin, darkest first: float64 tensors of one length. Brightness is less `centre`.

    top: the image's largest value, less `centre`.
    sizes, counts: cells, and those of them that were measured. mean: brightness. high, middle: variance at high
    and middle frequencies; equal for white noise without texture. third, third_error: third cumulant of a pixel,
    and its standard error. at_low, at_high: share of samples at the least and at the largest value of the image.
    near_low, near_high: share of samples within half a standard deviation of them.
    spread: relative variance of the cells' variances at high frequencies.
    """

    centre: float
    top: float
    sizes: Tensor
    counts: Tensor
    mean: Tensor
    high: Tensor
    middle: Tensor
    third: Tensor
    third_error: Tensor
    at_low: Tensor
    near_low: Tensor
    at_high: Tensor
    near_high: Tensor
    spread: Tensor

    def __len__(self) -> int:
        return len(self.counts)


@dataclass(frozen=True)
class Residual:
    """Noise of the image, measured otherwise: from other frames of a stack.

    samples: (T, h, w), with the noise's variance. third_scale: the noise's third cumulant over that of the
    samples; 0 if it cannot be had from them.
    """

    samples: Tensor
    third_scale: float


@cache
def _band(lowest: int, highest: int) -> Tensor:
    """(16, n): cosine transform of a cell, for frequencies whose sum is from lowest to highest."""
    step = torch.arange(CELL)
    basis = (math.pi / CELL * step.unsqueeze(1) * (step + 0.5)).cos() * (2 / CELL) ** 0.5
    basis[0] /= 2**0.5
    total = (step.unsqueeze(1) + step).flatten()
    return torch.kron(basis, basis)[(total >= lowest) & (total <= highest)].T.contiguous()


def band_size(band: tuple[int, int]) -> int:
    """Coefficients of a cell in that band."""
    return _band(*band).shape[1]


@cache
def _mean_of_bands() -> Tensor:
    """(n, 2): turns squares of the middle and high coefficients into the means of each band."""
    kept = _band(MIDDLE_BAND[0], HIGH_BAND[1])
    bands = (((kept.T @ _band(*band)).square().sum(1) > 0.5).float() for band in (MIDDLE_BAND, HIGH_BAND))
    return torch.stack([band / band.sum() for band in bands], 1)


@cache
def _third_power_gain() -> float:
    """Third cumulant that is left of a pixel's after the slope of its cell was removed, as a share."""
    kept = _band(MIDDLE_BAND[0], HIGH_BAND[1])
    return float((kept @ kept.T).pow(3).sum()) / CELL**2


def law_bins(channel: Tensor, residual: Residual | None = None) -> LawBins | None:
    """channel: (T, h, w) tiles, in any unit. None if there are too few cells, or all are equally bright."""
    tiles, height, width = channel.shape
    if tiles * (height // CELL - 2) * (width // CELL - 2) < MIN_CELLS or min(height, width) < 3 * CELL:
        return None
    centre = float(channel.mean(dtype=torch.float64))
    # Squares of values far from 0 would cost float32 the digits that count.
    cells = _cells(channel - centre)
    noise = cells if residual is None else _cells(residual.samples)
    mean = cells.mean(3)
    energies = (noise @ _band(MIDDLE_BAND[0], HIGH_BAND[1])).square_()
    middle, high = (energies @ _mean_of_bands()).unbind(3)
    brightness, roughness = _around(mean), _around(middle)
    if residual is None:
        roughness += LEVEL_WEIGHT * (_around(mean.square()) - brightness.square())
    low, top = (float(limit) for limit in cells.aminmax())
    members = _binned(brightness.flatten(), roughness.flatten())
    cells, noise = (x[:, 1:-1, 1:-1].flatten(0, 2) for x in (cells, noise))
    mean, middle, high = (x[:, 1:-1, 1:-1].flatten() for x in (mean, middle, high))
    measured = []
    for ranked in members:
        chosen = _flat(ranked, middle, high)
        size, count = len(ranked), len(chosen)
        variances = tuple(float(x[chosen].mean(dtype=torch.float64)) for x in (mean, high, middle))
        spread = float(high[chosen].double().var()) / max(variances[1] ** 2, TINY)
        third = _third_cumulant(noise[chosen], residual.third_scale if residual else 1.0)
        shares = _shares_at_limits(cells[chosen], low, top, math.sqrt(variances[1]) / 2)
        measured.append((size, count, *variances, *third, *shares, spread))
    if len(measured) < 2:
        return None
    return LawBins(centre, top, *torch.tensor(measured, dtype=torch.float64).unbind(1))


def overall_variance(channel: Tensor) -> float:
    """Variance at high frequencies, the mean of all cells. channel: (T, h, w) tiles; 0 if they hold no cell."""
    if min(channel.shape[1:]) < CELL:
        return 0.0
    return float((_cells(channel) @ _band(*HIGH_BAND)).square().mean(dtype=torch.float64))


def _cells(x: Tensor) -> Tensor:
    """(T, h, w) -> (T, rows, columns, 16)."""
    tiles, height, width = x.shape
    rows, columns = height // CELL, width // CELL
    x = x[:, : rows * CELL, : columns * CELL].reshape(tiles, rows, CELL, columns, CELL)
    return x.transpose(2, 3).reshape(tiles, rows, columns, CELL**2)


def _around(x: Tensor) -> Tensor:
    """(T, rows, columns) -> (T, rows - 2, columns - 2): mean of the four neighbours."""
    return (x[:, :-2, 1:-1] + x[:, 2:, 1:-1] + x[:, 1:-1, :-2] + x[:, 1:-1, 2:]) / 4


def _binned(brightness: Tensor, roughness: Tensor) -> list[Tensor]:
    """The cells of each bin, darkest bin first; in a bin, the flattest cell first."""
    ranked, order = brightness.sort()
    low, high = ranked[OUTLIERS], ranked[-1 - OUTLIERS]
    if not high > low:
        return []
    limits = low + (high - low) * torch.linspace(0, 1, MAX_BINS + 1)[1:-1].square()
    ends = torch.searchsorted(ranked, limits).tolist()
    bins, start = [], 0
    for end in (*ends, len(order)):
        if end - start >= MIN_CELLS:
            bins.append(order[start:end])
            start = end
    return [members[roughness[members].argsort()] for members in bins]


def _flat(ranked: Tensor, middle: Tensor, high: Tensor) -> Tensor:
    """The flattest cells of a bin: as many as look as flat as the flattest of them."""
    size = len(ranked)
    count = max(MIN_CELLS, int(FLATTEST_SHARE * size))
    middle, high = (x[ranked].cumsum(0, dtype=torch.float64) for x in (middle, high))
    flattest = float(high[count - 1]) / count
    variances = [2 / band_size(band) for band in (MIDDLE_BAND, HIGH_BAND)]
    for share in LARGER_SHARES:
        more = int(share * size)
        if more <= count:
            continue
        is_rough = float(middle[more - 1]) > float(high[more - 1]) * (1 + math.sqrt(sum(variances) / more))
        if is_rough or float(high[more - 1]) / more > flattest * (1 + math.sqrt(variances[1] / count)):
            break
        count = more
    return ranked[: count : math.ceil(count / MAX_CELLS)]


def _third_cumulant(cells: Tensor, scale: float) -> tuple[float, float]:
    """(K, 16) -> a pixel's third cumulant and its standard error."""
    if not scale:
        return 0.0, math.inf
    kept = _band(MIDDLE_BAND[0], HIGH_BAND[1])
    third = ((cells @ kept) @ kept.T).double().pow(3).mean(1) * (scale / _third_power_gain())
    return float(third.mean()), float(third.std()) / math.sqrt(len(cells))


def _shares_at_limits(cells: Tensor, low: float, top: float, reach: float) -> tuple[float, ...]:
    """Of samples: at the least value, close to it, at the largest value, close to it."""
    shares = (
        cells <= low,
        (cells > low) & (cells <= low + reach),
        cells >= top,
        (cells < top) & (cells >= top - reach),
    )
    return tuple(float(share.float().mean()) for share in shares)
