"""Autocorrelation of the residual: whether denoising removes noise alone, or structure as well.

The residual is noisy less denoised. Each sample is divided by the noise's standard deviation at its brightness.

- Expected: 0 for white noise. Where another shot y2 of the scene is known, the residual y1 - f of the best
  denoiser f has the autocorrelation of y1 - y2 less that of f - y2. For then the error of f is independent of f
  itself, so (y1 - f) (f - y2) has the mean 0 at all distances. What a denoiser removes of the scene breaks this.
- Chance: each value of N pixels of white noise lies within 1.96 / sqrt(N) in 95 % of cases. With another shot,
  twice the mean of (y1 - f) (f - y2) has the error of two series that are independent (Bartlett).

Source: Box, Jenkins, Reinsel & Ljung, "Time series analysis", Wiley 2015, section 2.1.6 (chance).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from engine.adaptation.doctor.findings import least_deviations
from engine.adaptation.doctor.planes import deviation_by_brightness
from engine.adaptation.result import DenoisedShot

# Distances that are looked at, down and across, in pixels.
REACH = 8
# Side of a shot's middle that is looked at, in pixels: more takes long and says little more.
MAX_SIDE = 2048
# Standard errors that hold the truth in 95 % of cases.
BAND = 1.96
# Values beyond so many standard deviations are cut to that: a few hot pixels would hide all else.
CUT = 4.0
# Least variance of a pixel, as a share of the mean.
LEAST_SHARE = 1e-3
TINY = 1e-30


Grid = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class ResidualCorrelation:
    """values: by distance, from REACH up and left to REACH down and right, 1 in the middle. pixels: N.

    expected: what the best denoiser would have; None if only one shot is known, and then noise is taken to be
    white. error: of a value by chance, one standard deviation. deviation: of the residual over that of the noise
    by the law; None if no law was measured.
    """

    values: Grid
    expected: Grid | None
    error: float
    pixels: int
    deviation: float | None

    def at(self, down: int, across: int) -> float:
        """The correlation of pixels so far apart."""
        return self.values[REACH + down][REACH + across]

    def expected_at(self, down: int, across: int) -> float:
        """What the best denoiser would have."""
        return self.expected[REACH + down][REACH + across] if self.expected else float(down == across == 0)

    def excess(self, down: int, across: int) -> float:
        """By how much the correlation is above that."""
        return self.at(down, across) - self.expected_at(down, across)

    def is_outside(self, down: int, across: int, deviations: float = BAND) -> bool:
        """Whether the correlation lies outside its band."""
        return abs(self.excess(down, across)) > deviations * self.error

    @property
    def share_outside(self) -> float:
        """Of all distances, the share outside the band. Of white noise, 0.05."""
        return sum(self.is_outside(*each) for each in DISTANCES) / len(DISTANCES)

    @property
    def has_structure(self) -> bool:
        """Whether a value is too far out to be chance, of all those that were looked at."""
        return any(self.is_outside(*each, least_deviations(len(DISTANCES))) for each in DISTANCES)

    @property
    def largest(self) -> tuple[int, int]:
        """Pixels down and across of the value that is farthest from what is expected."""
        return max(DISTANCES, key=lambda each: abs(self.excess(*each)))


# Each distance once: the opposite one has the same value.
DISTANCES = tuple(
    (down, across) for down in range(REACH + 1) for across in range(-REACH, REACH + 1) if (down, across) > (0, 0)
)


def residual_correlation(shots: Sequence[DenoisedShot]) -> ResidualCorrelation | None:
    """Of all shots together. Of a shot without laws, the residual's own spread is taken in their place.

    None if nothing was removed, or the shots are too small.
    """
    large = [shot for shot in map(_middle, shots) if min(shot.kept.shape) > 2 * REACH and bool(shot.kept.any())]
    deviations = [_deviation(shot) for shot in large]
    evens = [_even(shot.residual, size) for shot, size in zip(large, deviations, strict=True)]
    sums, pixels = _sums(large, evens)
    if sums[0, 0] <= 0:
        return None
    kept = torch.cat([even[shot.kept].flatten() for shot, even in zip(large, evens, strict=True)])
    deviation = float(kept.square().mean().sqrt()) if all(shot.laws for shot in large) else None
    others = [shot.other for shot in large if shot.other is not None]
    if len(others) < len(large):
        return ResidualCorrelation(_grid(sums, sums[0, 0]), None, 1 / math.sqrt(pixels), pixels, deviation)
    known = list(zip(large, others, deviations, strict=True))
    noise, _ = _sums(large, [_even(shot.noisy - other, size) for shot, other, size in known])
    errors, _ = _sums(large, [_even(shot.denoised - other, size) for shot, other, size in known])
    expected = {each: noise[each] - errors[each] for each in noise}
    products = [
        a * b
        for rows in zip(_grid(sums, sums[0, 0]), _grid(errors, sums[0, 0]), strict=True)
        for a, b in zip(*rows, strict=True)
    ]
    error = math.sqrt(2 * max(sum(products), 0.0) / pixels)
    return ResidualCorrelation(_grid(sums, sums[0, 0]), _grid(expected, sums[0, 0]), error, pixels, deviation)


def _sums(shots: Sequence[DenoisedShot], evens: Sequence[Tensor]) -> tuple[dict[tuple[int, int], float], int]:
    """The mean product of pixels at each distance, and the number of pixels."""
    sums: dict[tuple[int, int], float] = dict.fromkeys(((0, 0), *DISTANCES), 0.0)
    counts = dict.fromkeys(sums, 0)
    for shot, even in zip(shots, evens, strict=True):
        kept, plane = shot.kept, even.mean(2)
        plane = (plane - plane[kept].mean()).masked_fill(~kept, 0)
        for distance in sums:
            total, count = _products(plane, kept, *distance)
            sums[distance] += total
            counts[distance] += count
    return {each: sums[each] / max(counts[each], 1) for each in sums}, counts[0, 0]


def _grid(sums: Mapping[tuple[int, int], float], variance: float) -> Grid:
    steps = range(-REACH, REACH + 1)
    return tuple(
        tuple(sums[max((down, across), (-down, -across))] / max(variance, TINY) for across in steps)
        for down in steps
    )


def _middle(shot: DenoisedShot) -> DenoisedShot:
    height, width = shot.noisy.shape[:2]
    if max(height, width) <= MAX_SIDE:
        return shot
    top, left = (max(0, (size - MAX_SIDE) // 2) for size in (height, width))
    inside = (slice(top, top + MAX_SIDE), slice(left, left + MAX_SIDE))
    masked = None if shot.masked is None else shot.masked[inside]
    other = None if shot.other is None else shot.other[inside]
    return replace(shot, noisy=shot.noisy[inside], denoised=shot.denoised[inside], masked=masked, other=other)


def _deviation(shot: DenoisedShot) -> Tensor:
    """float64 (H, W, C): the standard deviation of the noise at each sample's brightness."""
    residual, denoised = shot.residual.double(), shot.denoised.double()
    channels = []
    for number, (values, brightness) in enumerate(zip(residual.unbind(2), denoised.unbind(2), strict=True)):
        if shot.laws:
            variance = shot.laws[number].variance(brightness)
            channels.append(variance.clamp(min=max(LEAST_SHARE * float(variance.mean()), TINY)).sqrt())
        else:
            channels.append(deviation_by_brightness(values - values.mean(), brightness).clamp(min=TINY))
    return torch.stack(channels, 2)


def _even(difference: Tensor, deviation: Tensor) -> Tensor:
    """float64 (H, W, C), without the few values that would hide all else."""
    even = difference.double() / deviation
    reach = CUT * float(even.square().mean().sqrt())
    return even.clamp(-reach, reach)


def _products(plane: Tensor, kept: Tensor, down: int, across: int) -> tuple[float, int]:
    """The sum of products of pixels so far apart, and their number. plane: 0 where it is not kept."""
    height, width = plane.shape
    left, right = slice(max(0, -across), width - max(0, across)), slice(max(0, across), width + min(0, across))
    first, second = (slice(0, height - down), left), (slice(down, height), right)
    return float((plane[first] * plane[second]).sum()), int((kept[first] & kept[second]).sum())
