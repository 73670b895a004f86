"""Brightness: gain and offset between two noisy shots of one scene, without the bias of plain regression.

The noise of the shot that is regressed on would make the gain too small. So the surroundings of each pixel, whose
noise is independent of the pixel's, are the instrument.

Source: Durbin, "Errors in variables", Review of the International Statistical Institute 1954.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.adaptation.doctor.planes import box_mean
from engine.data.jackknife import jackknife_errors, student_factor
from engine.data.registration import block_index, block_sums

# The surroundings are the square of the larger radius without that of the smaller, in pixels. Noise that
# neighbours share does not reach so far.
OUTER = 5
INNER = 3
# Blocks whose mean differs by more than so many of their standard deviations hold something that moved.
MAX_BLOCK_DEVIATIONS = 4.0
# Blocks that the mean difference needs.
MIN_BLOCKS = 4
# Keeps divisions finite.
TINY = 1e-12
# The gain is known well enough to be corrected, rather than the offset alone.
MAX_GAIN_ERROR = 0.05


@dataclass(frozen=True)
class Brightness:
    """A channel of a shot is gain * reference + offset.

    level: by how much the shot is brighter on average, in the file's units. Each with its standard error.
    """

    gain: float
    gain_error: float
    offset: float
    level: float
    level_error: float

    @property
    def deviations(self) -> float:
        """Standard errors of the gain or the level from those of equal shots: the larger."""
        of_gain = abs(self.gain - 1) / self.gain_error if 0 < self.gain_error < math.inf else 0.0
        of_level = abs(self.level) / self.level_error if 0 < self.level_error < math.inf else 0.0
        return max(of_gain, of_level)


NO_CHANGE = Brightness(1.0, 0.0, 0.0, 0.0, 0.0)


def fit_brightness(shot: Tensor, reference: Tensor) -> Brightness:
    """shot, reference: float (H, W), which lie on each other. If the scene is flat, the gain is 1."""
    first, second = reference.double(), shot.double()
    level, level_error, usual = _level(second - first)
    around = _surroundings((first + second) / 2)
    instrument = (around - around.mean()) * usual
    centred = first - first.mean()
    strength = float((instrument * centred).sum())
    signal = float(instrument.square().sum())
    if signal <= 0 or strength <= 0:
        return Brightness(1.0, math.inf, level, level, level_error)
    gain = float((instrument * (second - second.mean())).sum()) / strength
    offset = float(second.mean()) - gain * float(first.mean())
    residual = second - gain * first - offset
    sums = block_sums(torch.stack((instrument * residual, instrument * centred), 2))
    scores = sums[:, :1] - sums[:, :1].mean()
    error = float(jackknife_errors(scores, sums[:, 1:].unsqueeze(2)))
    if not 0 < error <= MAX_GAIN_ERROR * max(abs(gain), 1e-9):
        # The gain is not known: only the level is.
        return Brightness(1.0, max(error, TINY), level, level, level_error)
    return Brightness(gain, error, offset, level, level_error)


def _surroundings(plane: Tensor) -> Tensor:
    outer, inner = (2 * OUTER + 1) ** 2, (2 * INNER + 1) ** 2
    ring: Tensor = (outer * box_mean(plane, OUTER) - inner * box_mean(plane, INNER)) / (outer - inner)
    return ring


def _level(difference: Tensor) -> tuple[float, float, Tensor]:
    """The mean difference, its standard error, and 1 for the pixels (H, W) of blocks where nothing moved."""
    sums = block_sums(torch.stack((difference, torch.ones_like(difference)), 2))
    means = sums[:, 0] / sums[:, 1]
    middle = means.median()
    spread = 1.4826 * (means - middle).abs().median()
    usual = (means - middle).abs() <= MAX_BLOCK_DEVIATIONS * spread
    kept = means[usual]
    pixels = usual.double()[block_index(*difference.shape)]
    if len(kept) < MIN_BLOCKS:
        return float(middle), math.inf, pixels
    deviations = (kept - kept.mean()).square()
    count = deviations.sum().square() / deviations.square().sum().clamp(min=TINY)
    error = float(kept.std() / math.sqrt(len(kept)) * student_factor(count))
    return float(kept.mean()), max(error, TINY), pixels


def apply(shot: Tensor, fits: tuple[Brightness, ...]) -> Tensor:
    """The shot (H, W, C) in the brightness of the reference. fits: one for each channel."""
    gains = torch.tensor([fit.gain for fit in fits], dtype=shot.dtype)
    offsets = torch.tensor([fit.offset for fit in fits], dtype=shot.dtype)
    return (shot - offsets) / gains
