"""Bins of brightness for the noise law: how bright the flattest cells of each bin are, and how much they vary.

The image is cut into cells of 4 x 4 pixels. Whether a cell is dark or bright, flat or rough, is judged by its
four neighbours alone; its own pixels are only measured. So the choice of cells favours no noise: means, variances
and third cumulants are unbiased for every kind of noise that is independent from pixel to pixel. Chosen by their
own pixels, dark cells would be those that caught few photons, and flat ones those that caught few and even ones:
at six photons a pixel, this made the gain 4 % too large, and the pedestal 3 counts too high where 100 was right.
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
# The flattest share of a bin's cells. More are measured, up to these shares, while they look as flat.
FLATTEST_SHARE = 0.1
LARGER_SHARES = (0.2, 0.4, 0.7, 1.0)
# Weight of the variance of the four neighbours' means in the roughness of a cell.
LEVEL_WEIGHT = 0.8


@dataclass(frozen=True)
class LawBins:
    """What was measured in each bin, darkest first: float64 tensors of one length. Brightness is less `centre`.

    sizes, counts: cells, and those of them that were measured. mean: brightness. high, middle: variance at high
    and middle frequencies; equal for white noise without texture. third, third_error: third cumulant of a pixel,
    and its standard error. at_low, at_high: share of samples at the least and at the largest value of the image.
    near_low, near_high: share of samples within half a standard deviation of them.
    spread: relative variance of the cells' variances at high frequencies. equal: share of pixels that equal the
    pixel before them, in a row.
    """

    centre: float
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
    equal: Tensor

    def __len__(self) -> int:
        return len(self.counts)


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
def _third_power_gain() -> float:
    """Third cumulant that is left of a pixel's after the slope of its cell was removed, as a share."""
    kept = _band(MIDDLE_BAND[0], HIGH_BAND[1])
    return float((kept @ kept.T).pow(3).sum()) / CELL**2


def law_bins(channel: Tensor) -> LawBins | None:
    """channel: (T, h, w) tiles, in any unit. None if there are too few cells, or all are equally bright."""
    tiles, height, width = channel.shape
    rows, columns = height // CELL, width // CELL
    if tiles * (rows - 2) * (columns - 2) < MIN_CELLS or min(rows, columns) < 3:
        return None
    centre = float(channel.mean(dtype=torch.float64))
    # Squares of values far from 0 would cost float32 the digits that count.
    centred = channel[:, : rows * CELL, : columns * CELL] - centre
    cells = centred.view(tiles, rows, CELL, columns, CELL).transpose(2, 3).reshape(tiles, rows, columns, -1)
    mean = cells.mean(3)
    middle, high = ((cells @ _band(*band)).square().mean(3) for band in (MIDDLE_BAND, HIGH_BAND))
    brightness = _around(mean)
    roughness = _around(middle) + LEVEL_WEIGHT * (_around(mean.square()) - brightness.square())
    low, top = (float(limit) for limit in centred.aminmax())
    members = _binned(brightness.flatten(), roughness.flatten())
    inner = cells[:, 1:-1, 1:-1].reshape(-1, CELL**2)
    mean, middle, high = (x[:, 1:-1, 1:-1].flatten() for x in (mean, middle, high))
    measured = [
        (len(ranked), *_measured(inner[chosen], mean[chosen], middle[chosen], high[chosen], (low, top)))
        for ranked, chosen in ((ranked, _flat(ranked, middle, high)) for ranked in members)
    ]
    if len(measured) < 2:
        return None
    return LawBins(centre, *torch.tensor(measured, dtype=torch.float64).unbind(1))


def _around(x: Tensor) -> Tensor:
    """(T, rows, columns) -> (T, rows - 2, columns - 2): mean of the four neighbours."""
    return (x[:, :-2, 1:-1] + x[:, 2:, 1:-1] + x[:, 1:-1, :-2] + x[:, 1:-1, 2:]) / 4


def _binned(brightness: Tensor, roughness: Tensor) -> list[Tensor]:
    """The cells of each bin, darkest bin first; in a bin, the flattest cell first."""
    low, high = brightness.aminmax()
    if not high > low:
        return []
    position = ((brightness - low) / (high - low)).sqrt()
    order = position.argsort()
    ends = torch.searchsorted(position[order], torch.linspace(0, 1, MAX_BINS + 1)[1:-1]).tolist()
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
    return ranked[:count]


def _measured(
    cells: Tensor, mean: Tensor, middle: Tensor, high: Tensor, limits: tuple[float, float]
) -> tuple[float, ...]:
    """cells: (K, 16), the others (K,). The values of LawBins for one bin, in its order."""
    count = len(cells)
    variance = float(high.mean(dtype=torch.float64))
    kept = _band(MIDDLE_BAND[0], HIGH_BAND[1])
    third = ((cells @ kept) @ kept.T).double().pow(3).mean(1) / _third_power_gain()
    low, top = limits
    reach = math.sqrt(variance) / 2
    shares = (
        cells <= low,
        (cells > low) & (cells <= low + reach),
        cells >= top,
        (cells < top) & (cells >= top - reach),
    )
    same = cells[:, 1:] == cells[:, :-1]
    return (
        count,
        float(mean.mean(dtype=torch.float64)),
        variance,
        float(middle.mean(dtype=torch.float64)),
        float(third.mean()),
        float(third.std()) / math.sqrt(count),
        *(float(share.float().mean()) for share in shares),
        float(high.double().var()) / max(variance**2, 1e-300),
        float(same.float().mean()),
    )
