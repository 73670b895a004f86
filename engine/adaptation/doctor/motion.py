"""Motion: pixels where two shots of a scene differ by more than noise can make them.

The difference is averaged over squares and compared with its own spread at equal brightness, which holds for any
noise, also for noise that neighbours share. Edges are allowed what a small error of the shift makes of them.
"""

import torch
from torch import Tensor

from engine.adaptation.doctor.planes import box_mean, deviation_by_brightness, slope_size

# Radii of the squares, in pixels.
RADII = (2, 4)
# Standard deviations from which on a square has moved.
MIN_DEVIATIONS = 6.5
# An error of the shift that is allowed for, in pixels.
ALLOWED_SHIFT = 0.05
# Keeps divisions finite.
TINY = 1e-12
# Share of the pixels that must have moved for a finding, and from which on the scenes are not the same.
MIN_SHARE = 2e-4
MAX_SHARE = 0.5


def moving_mask(difference: Tensor, brightness: Tensor, border: int) -> Tensor:
    """(H, W) bool: what moved.

    difference, brightness: float64 (H, W), of two shots that lie on each other and are equally bright. The noise
    of `brightness` is independent of that of `difference`. border: pixels along the sides that are not looked at.
    """
    smooth = box_mean(brightness, 1)
    allowed = (ALLOWED_SHIFT * box_mean(slope_size(smooth), 1)).square()
    variance = deviation_by_brightness(difference, smooth, growing=True).square().clamp(min=TINY)
    mask = torch.zeros_like(difference, dtype=torch.bool)
    for radius in RADII:
        # Up to a factor, which is larger where neighbours share noise.
        averaged = box_mean(difference, radius) / box_mean(variance, radius).sqrt()
        of_noise = deviation_by_brightness(averaged, smooth).square()
        of_edges = box_mean(allowed, radius) / box_mean(variance, radius)
        moved = _inside(averaged.square() > MIN_DEVIATIONS**2 * (of_noise + of_edges), border)
        # All pixels of a square that moved.
        mask |= box_mean(moved.double(), radius) > TINY
    return mask


def _inside(mask: Tensor, border: int) -> Tensor:
    if border <= 0:
        return mask
    kept = torch.zeros_like(mask)
    kept[border:-border, border:-border] = mask[border:-border, border:-border]
    return kept
