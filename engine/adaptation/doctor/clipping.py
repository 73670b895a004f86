"""Clipping: the share of the scene whose shots are cut off at the least or the largest value.

Noise that is cut off has another mean, so a network learns a wrong brightness there. Which pixels are touched is
judged from the mean of the shots, or of a pixel's surroundings if there is one shot: a single noisy sample at the
limit says nothing of its pixel.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.adaptation.doctor.planes import BINS, box_mean
from engine.inference.noise_estimation.noise_law import MIN_CLIPPED_SHARE, MIN_NEAR_SHARE

# A pixel is touched if its mean is closer to the limit than so many standard deviations of its noise.
REACH = 0.5
# Share of the pixels that must be touched for a finding.
MIN_SHARE = 0.002
# Noise is whole where fewer samples than this share are at the limit.
MAX_AT_LIMIT = 0.05
# Radius of the surroundings, in pixels.
RADIUS = 1
SINGLE_RADIUS = 2


@dataclass(frozen=True)
class Clipping:
    """Shares of the pixels that are touched: at the least value `low`, and at the largest value `high`."""

    low: float
    high: float
    share_low: float
    share_high: float

    @property
    def share(self) -> float:
        """Of both together."""
        return self.share_low + self.share_high


def find_clipping(shots: Sequence[Tensor]) -> Clipping:
    """shots: float (H, W) of one scene, which lie on each other."""
    mean = torch.stack([shot.double() for shot in shots]).mean(0)
    smooth = box_mean(mean, RADIUS if len(shots) > 1 else SINGLE_RADIUS)
    low, high = (min(float(shot.min()) for shot in shots), max(float(shot.max()) for shot in shots))
    share_low = _touched(shots, smooth, low, 1)
    share_high = _touched(shots, smooth, high, -1)
    return Clipping(low, high, share_low, share_high)


def _touched(shots: Sequence[Tensor], smooth: Tensor, limit: float, sign: int) -> float:
    """The share of the pixels that is cut off at the limit. sign: 1 for the least value, -1 for the largest."""
    values = torch.stack([shot.double() for shot in shots])
    distance = sign * (smooth - limit)
    touched = distance < REACH * _whole_noise(values, smooth, distance, limit)
    if not bool(touched.any()):
        return 0.0
    near, noise = values[:, touched], float((values - smooth)[:, touched].square().mean().sqrt())
    at_limit = float((near == limit).double().mean())
    beyond = sign * (near - limit)
    near_share = float(((beyond > 0) & (beyond <= noise / 2)).double().mean())
    # Photon counts have many zeros, and nothing close to them: these are not cut off.
    is_cut = at_limit > MIN_CLIPPED_SHARE and near_share > MIN_NEAR_SHARE * min(at_limit, 1 - at_limit)
    return float(touched.double().mean()) if is_cut else 0.0


def _whole_noise(values: Tensor, smooth: Tensor, distance: Tensor, limit: float) -> float:
    """Standard deviation of the noise closest to the limit that is not cut off there itself."""
    of_pixels = (values - smooth).flatten(1)
    at_limit = (values == limit).double().flatten(1)
    noise = 0.0
    for members in distance.flatten().argsort().tensor_split(BINS):
        noise = float(of_pixels[:, members].square().mean().sqrt())
        if float(at_limit[:, members].mean()) < MAX_AT_LIMIT:
            break
    return noise
