"""Autocorrelation of the residual: whether denoising removes noise alone, or structure as well.

The residual is noisy less denoised. Each sample is divided by the noise's standard deviation at its brightness.
Each value of white noise's autocorrelation lies within 1.96 / sqrt(N) in 95 % of cases, for N pixels.
Source: Box, Jenkins, Reinsel & Ljung, "Time series analysis", Wiley 2015, section 2.1.6 (the band).
"""

import math
from collections.abc import Sequence
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


@dataclass(frozen=True)
class ResidualCorrelation:
    """values: by distance, from REACH up and left to REACH down and right, 1 in the middle. pixels: N.

    deviation: of the residual over that of the noise by the law; None if no law was measured.
    """

    values: tuple[tuple[float, ...], ...]
    pixels: int
    deviation: float | None

    @property
    def band(self) -> float:
        """The size that white noise exceeds in 5 % of cases."""
        return BAND / math.sqrt(self.pixels)

    def at(self, down: int, across: int) -> float:
        """The correlation of pixels so far apart."""
        return self.values[REACH + down][REACH + across]

    @property
    def share_outside(self) -> float:
        """Of all distances, the share outside the band. Of white noise, 0.05."""
        return sum(abs(self.at(*each)) > self.band for each in DISTANCES) / len(DISTANCES)

    @property
    def has_structure(self) -> bool:
        """Whether a value is too large to be chance, of all those that were looked at."""
        return abs(self.at(*self.largest)) > least_deviations(len(DISTANCES)) / math.sqrt(self.pixels)

    @property
    def largest(self) -> tuple[int, int]:
        """Pixels down and across of the value that is farthest from 0."""
        return max(DISTANCES, key=lambda each: abs(self.at(*each)))


# Each distance once: the opposite one has the same value.
DISTANCES = tuple(
    (down, across) for down in range(REACH + 1) for across in range(-REACH, REACH + 1) if (down, across) > (0, 0)
)


def residual_correlation(shots: Sequence[DenoisedShot]) -> ResidualCorrelation | None:
    """Of all shots together. Of a shot without laws, the residual's own spread is taken in their place.

    None if nothing was removed, or the shots are too small.
    """
    sums: dict[tuple[int, int], float] = dict.fromkeys(((0, 0), *DISTANCES), 0.0)
    counts = dict.fromkeys(sums, 0)
    squares = samples = 0.0
    for shot in map(_middle, shots):
        kept = shot.kept
        if min(kept.shape) <= 2 * REACH or not bool(kept.any()):
            continue
        even = _even_residual(shot)
        squares += float(even[kept].square().sum())
        samples += float(even[kept].numel())
        plane = even.mean(2)
        plane = (plane - plane[kept].mean()).masked_fill(~kept, 0)
        for distance in sums:
            total, count = _products(plane, kept, *distance)
            sums[distance] += total
            counts[distance] += count
    if sums[0, 0] <= 0:
        return None
    variance = sums[0, 0] / counts[0, 0]
    has_laws = all(shot.laws for shot in shots)
    value = {each: sums[each] / max(counts[each], 1) / variance for each in sums}
    steps = range(-REACH, REACH + 1)
    rows = [tuple(value[max((down, across), (-down, -across))] for across in steps) for down in steps]
    return ResidualCorrelation(tuple(rows), counts[0, 0], math.sqrt(squares / samples) if has_laws else None)


def _middle(shot: DenoisedShot) -> DenoisedShot:
    height, width = shot.noisy.shape[:2]
    if max(height, width) <= MAX_SIDE:
        return shot
    top, left = (max(0, (size - MAX_SIDE) // 2) for size in (height, width))
    inside = (slice(top, top + MAX_SIDE), slice(left, left + MAX_SIDE))
    masked = None if shot.masked is None else shot.masked[inside]
    return replace(shot, noisy=shot.noisy[inside], denoised=shot.denoised[inside], masked=masked)


def _even_residual(shot: DenoisedShot) -> Tensor:
    """float64 (H, W, C): the residual over the noise's standard deviation."""
    residual, denoised = shot.residual.double(), shot.denoised.double()
    channels = []
    for number, (values, brightness) in enumerate(zip(residual.unbind(2), denoised.unbind(2), strict=True)):
        if shot.laws:
            variance = shot.laws[number].variance(brightness)
            deviation = variance.clamp(min=max(LEAST_SHARE * float(variance.mean()), TINY)).sqrt()
        else:
            deviation = deviation_by_brightness(values - values.mean(), brightness).clamp(min=TINY)
        channels.append((values / deviation).clamp(-CUT, CUT))
    return torch.stack(channels, 2)


def _products(plane: Tensor, kept: Tensor, down: int, across: int) -> tuple[float, int]:
    """The sum of products of pixels so far apart, and their number. plane: 0 where it is not kept."""
    height, width = plane.shape
    left, right = slice(max(0, -across), width - max(0, across)), slice(max(0, across), width + min(0, across))
    first, second = (slice(0, height - down), left), (slice(down, height), right)
    return float((plane[first] * plane[second]).sum()), int((kept[first] & kept[second]).sum())
