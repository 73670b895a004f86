"""Banding: offsets that a sensor adds to whole rows or whole columns.

An offset is the same over the whole length of its row, and the offsets of different rows have nothing to do with
each other. Objects are not so: their edges and stripes end, or they continue from row to row. So banding is found
where the differences between neighbouring rows agree in parts of the image that lie far apart, and where these
differences are related to those of the next rows just as differences of independent offsets are.

A row's offset is its robust mean difference from the rows near it, in those columns that are flat there. Slow
changes over many rows are left in the image, because light does the same.
Sources: Tendero, Landeau & Gilles, "Non-uniformity correction of infrared images by midway equalization", IPOL
2012 (statistics of whole columns, compared with those of near columns only); Boracchi & Foi, "Multiframe raw-data
denoising based on block-matching and 3-D filtering for low-light imaging and stabilization", 2008 (row offsets as
a noise component of their own, estimated before all others).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.inference.noise_estimation.config import DEFAULT_CONFIG, EstimatorConfig

# Rows that are looked at to find banding, and rows that are corrected at a time.
MAX_ROWS = 2048
STRIP_ROWS = 256
# Parts of the width whose differences must agree.
PARTS = 16
# Of many more differences than this, one of STEP is looked at for the unit of the noise.
MIN_KNOWN = 2**15
STEP = 7
# Columns that are looked at to measure each row's offset.
MAX_COLUMNS = 1024


@dataclass(frozen=True)
class _Difference:
    """Taps of a difference between rows, and what it makes of independent offsets.

    variance: of the result, for offsets of variance 1. correlations: at distances of 1, 2 and 3 rows.
    """

    taps: tuple[float, ...]
    variance: float
    correlations: tuple[float, float, float]


# The second removes more of what changes slowly, and the first is measured more closely. One must agree.
DIFFERENCES = (
    _Difference((1.0, -1.0), 2.0, (-0.5, 0.0, 0.0)),
    _Difference((-1 / 3, 1.0, -1.0, 1 / 3), 20 / 9, (-0.75, 0.3, -0.05)),
)
# Distances, in rows, at which correlations are looked at.
MAX_LAG = 16
# Rows above and below with which a row may be compared to measure its offset.
REACHES = (4, 7, 12, 20)
# Share of the columns whose pieces of this length are taken to be flat.
FLAT_SHARE = 0.2


@dataclass(frozen=True)
class Banding:
    """Standard deviations of the rows' and the columns' offsets, in the unit of the samples; 0 if there are none.

    Within 11 % of the truth where they are found, on 16 images with row offsets of 1 to 8 of 255 in white
    noise of 2 to 20. They are found in most images from half the noise on.
    limits: the lowest and the highest value, where many samples have them: these are clipped and carry no offset.
    """

    rows: float = 0.0
    columns: float = 0.0
    limits: tuple[float, float] = (-torch.inf, torch.inf)

    @property
    def confident(self) -> bool:
        """Whether there is banding. If not, `remove_banding` changes nothing."""
        return self.rows > 0 or self.columns > 0


NO_BANDING = Banding()


def estimate_banding(samples: Tensor, config: EstimatorConfig = DEFAULT_CONFIG) -> Banding:
    """Estimate the banding of an image. Equal images give equal estimates.

    samples: (H, W, C), C 1 or 3, uint8, uint16 or float32 of any range. About a megapixel is looked at for each
    direction.
    """
    limits = _limits(samples, config)
    rows, columns = (_spread(each, limits, config) for each in (samples, samples.transpose(0, 1)))
    # Less than rounding makes by itself.
    least = 0.0 if samples.is_floating_point() else config.min_banding_steps
    rows, columns = (spread if spread >= least else 0.0 for spread in (rows, columns))
    return Banding(rows, columns, limits)


def remove_banding(samples: Tensor, banding: Banding, config: EstimatorConfig = DEFAULT_CONFIG) -> Tensor:
    """The samples without the rows' and columns' offsets, clipped and rounded for integers.

    If there is no banding the samples themselves are returned. Each channel has its own offsets.
    """
    if not banding.confident:
        return samples
    height, width, channels = samples.shape
    of_rows, of_columns = torch.zeros(height, 1, channels), torch.zeros(1, width, channels)
    for c in range(channels):
        plane = samples[..., c]
        if banding.rows:
            of_rows[:, 0, c] = _best_offsets(plane, banding.rows, banding.limits)
        if banding.columns:
            of_columns[0, :, c] = _best_offsets(plane.T, banding.columns, banding.limits)
    result = torch.empty_like(samples)
    for top in range(0, height, STRIP_ROWS):
        strip = samples[top : top + STRIP_ROWS]
        values = strip.float()
        inside = _inside(values, banding.limits)
        values = values - of_rows[top : top + STRIP_ROWS] - of_columns
        if not samples.is_floating_point():
            values = values.round_().clamp_(0, torch.iinfo(samples.dtype).max)
        result[top : top + STRIP_ROWS] = strip.where(~inside, values.to(samples.dtype))
    return result


def _limits(samples: Tensor, config: EstimatorConfig) -> tuple[float, float]:
    step = max(int((samples.shape[0] * samples.shape[1] / 2**18) ** 0.5), 1)
    looked_at = samples[::step, ::step].float()
    low, high = (float(x) for x in looked_at.aminmax())
    clipped = [float((looked_at == end).float().mean()) > config.min_clipped_share for end in (low, high)]
    return low if clipped[0] else -torch.inf, high if clipped[1] else torch.inf


def _inside(values: Tensor, limits: tuple[float, float]) -> Tensor:
    return (values > limits[0]) & (values < limits[1])


# Finding


def _spread(samples: Tensor, limits: tuple[float, float], config: EstimatorConfig) -> float:
    """Standard deviation of the rows' offsets, 0 if there are none for certain."""
    parts = _parts(samples, limits)
    if parts is None:
        return 0.0
    pixels, inside = parts
    return max(_spread_by(kind, pixels, inside, config) for kind in DIFFERENCES)


def _spread_by(kind: _Difference, pixels: Tensor, inside: Tensor, config: EstimatorConfig) -> float:
    """The same, by one kind of difference."""
    profile = _differences(kind, pixels, inside)
    if profile is None:
        return 0.0
    differences, unit = profile
    rows = len(differences)
    differences = differences - differences.mean(0)
    most = 4 * 1.4826 * float(differences.abs().median())
    differences = differences.clamp(-most, most)
    number = torch.arange(PARTS)
    apart = ((number.unsqueeze(1) - number).abs() >= 2).float()
    others = differences @ apart / apart.sum(1)

    def shared(distance: int) -> Tensor:
        """(rows,): products of differences at this distance, in parts that lie apart."""
        return (others[distance:] * differences[: rows - distance]).mean(1)

    products = shared(0)
    variance = float(products.mean())
    if variance <= 0 or variance < config.min_banding_deviations * float(products.std()) / rows**0.5:
        return 0.0
    agreeing = float(((differences * others).mean(0) > variance / 2).float().mean())
    correlations = torch.tensor([float(shared(lag).mean()) / variance for lag in range(1, MAX_LAG + 1)])
    correlations[:3] -= torch.tensor(kind.correlations)
    # A correlation measured over so many rows is off by about this.
    error = 2 / rows**0.5
    mean = differences.mean(1)
    peak = float(mean.pow(4).mean() / mean.square().mean() ** 2)
    found = (
        agreeing >= config.min_agreeing_parts
        and float(correlations[:2].abs().max()) < config.max_banding_correlation + error
        and float(correlations[2:].square().mean().sqrt()) < config.max_banding_correlation + error / 8
        and peak < config.max_banding_kurtosis
        and (variance / kind.variance) ** 0.5 > config.min_banding_ratio
    )
    return unit * (variance / kind.variance) ** 0.5 if found else 0.0


def _parts(samples: Tensor, limits: tuple[float, float]) -> tuple[Tensor, Tensor] | None:
    """(rows, PARTS, columns): means of the channels in the parts that are looked at, and whether none is clipped.

    None if the image is too small.
    """
    height, width, channels = samples.shape
    rows = min(height, MAX_ROWS)
    columns = min(width // PARTS, max(2**20 // (rows * PARTS), 1))
    if rows < 64 or columns < 4:
        return None
    first = torch.arange(PARTS) * (width - columns) // (PARTS - 1)
    at = (first.unsqueeze(1) + torch.arange(columns)).flatten()
    top = (height - rows) // 2
    pixels, inside = torch.zeros(rows, len(at)), torch.ones(rows, len(at), dtype=torch.bool)
    for c in range(channels):
        # All columns of a narrow image: to choose them would be slower.
        plane = samples[top : top + rows, :, c].float()
        plane = plane[:, at] if len(at) < width else plane
        pixels += plane
        inside &= _inside(plane, limits)
    return (pixels / channels).view(rows, PARTS, columns), inside.view(rows, PARTS, columns)


def _differences(kind: _Difference, pixels: Tensor, inside: Tensor) -> tuple[Tensor, float] | None:
    """(rows - taps + 1, PARTS) robust mean differences between rows, in units of the noise, and that unit.

    None if most of the image is clipped or has no noise.
    """
    count = len(pixels) - len(kind.taps) + 1
    difference = torch.zeros_like(pixels[:count])
    usable = torch.ones_like(inside[:count])
    for i, tap in enumerate(kind.taps):
        difference.add_(pixels[i : i + count], alpha=tap)
        usable &= inside[i : i + count]
    if float(usable.float().mean()) < 1 / 4:
        return None
    # A prime number of pixels apart, not to look at the same columns in all rows.
    step = STEP if difference.numel() > STEP * MIN_KNOWN else 1
    known = difference.flatten()[::step][usable.flatten()[::step]]
    if not len(known):
        return None
    scale = 1.4826 * float(known.abs().median()) or float(known.std())
    if not scale > 0:
        return None
    return _robust_mean(difference, usable, scale) * (kind.variance**0.5 / scale), scale / kind.variance**0.5


def _robust_mean(x: Tensor, usable: Tensor, scale: float) -> Tensor:
    """Over the last axis: the mean of usable values, those far from it drawn nearer."""
    weight = usable.float()
    weight = weight / weight.sum(-1, keepdim=True).clamp(min=1)
    mean = (x.clamp(-3 * scale, 3 * scale) * weight).sum(-1, keepdim=True)
    for _ in range(2):
        mean = mean + ((x - mean).clamp(-2 * scale, 2 * scale) * weight).sum(-1, keepdim=True)
    return mean.squeeze(-1)


# Offsets


def _best_offsets(plane: Tensor, spread: float, limits: tuple[float, float]) -> Tensor:
    """(H, W) -> (H,): the offsets of the rows, where their standard deviation is `spread`.

    Few rows to compare with leave more of the offsets in, many take more of the image for offsets, which
    shows in offsets that are larger than they should be.
    """
    candidates = [_offsets(plane, spread, limits, reach) for reach in REACHES]
    left = []
    for offsets, reach in zip(candidates, REACHES, strict=True):
        kept = 1 / (2 * reach + 1)
        excess = float(offsets.square().mean()) / spread**2 - (1 - kept)
        left.append(kept + max(excess, 0.0))
    return candidates[left.index(min(left))]


def _offsets(plane: Tensor, spread: float, limits: tuple[float, float], reach: int) -> Tensor:
    """The same, each row compared with so many rows above and below."""
    height, width = plane.shape
    at = torch.arange(min(width, MAX_COLUMNS)) * width // min(width, MAX_COLUMNS)
    parts = []
    for top in range(0, height, STRIP_ROWS):
        first = max(top - 2 * reach, 0)
        rows = plane[first : top + STRIP_ROWS + 2 * reach][:, at].float()
        parts.append(_strip_offsets(rows, spread, limits, reach)[top - first :][:STRIP_ROWS])
    return torch.cat(parts)


def _strip_offsets(rows: Tensor, spread: float, limits: tuple[float, float], reach: int) -> Tensor:
    """(h, columns) -> (h,): how far each row lies from the mean of the rows near it, in flat columns."""
    inside = _inside(rows, limits)
    deviation = rows - _near_mean(rows, reach)
    # Of the other rows: with its own, columns would be chosen where noise hides the offset.
    activity = _near_mean(deviation.square(), reach) - deviation.square() / (2 * reach + 1)
    usable = inside & (_near_mean(inside.float(), reach) > 0.999)
    known = activity[usable]
    if not len(known):
        return torch.zeros(len(rows))
    # The activity of flat columns is that of noise and offsets. The others have edges or texture, too.
    flat = float(known[:: max(len(known) // 2**14, 1)].quantile(FLAT_SHARE)) + 1e-12
    weight = usable / (1 + ((activity / flat - 1).clamp(min=0) / 0.5).square()).square()
    total = weight.sum(1, keepdim=True).clamp(min=1e-6)
    scale = flat**0.5
    mean = (deviation.clamp(-3 * scale, 3 * scale) * weight).sum(1, keepdim=True) / total
    for _ in range(2):
        rest = (deviation - mean).clamp(-2 * scale, 2 * scale) * weight
        mean = mean + rest.sum(1, keepdim=True) / total
    variance = (rest.square().sum(1) / total.squeeze(1).square()).clamp(min=1e-12)
    # As much as is more likely an offset than chance.
    return (mean.squeeze(1) * spread**2 / (spread**2 + variance)).clamp(-4 * spread, 4 * spread)


def _near_mean(x: Tensor, reach: int) -> Tensor:
    """(h, w): means over the rows within reach."""
    height = len(x)
    sums = torch.cat((x.new_zeros(1, x.shape[1]), x.cumsum(0)))
    rows = torch.arange(height)
    first, last = (rows - reach).clamp(min=0), (rows + reach + 1).clamp(max=height)
    return (sums[last] - sums[first]) / (last - first).unsqueeze(1)
