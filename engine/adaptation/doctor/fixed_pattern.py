"""Fixed pattern: what the detector adds in the same place to every scene.

Other scenes have nothing in common at the finest scale but the detector. So the fine structure of the scenes'
mean shots is correlated between scenes. Structure that several images of one field share, as in its colour
channels, is coarser: it is weaker at the finest scale than at the next, and a pattern from pixel to pixel is not.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.adaptation.doctor.planes import clipped_deviation
from engine.data.registration import block_sums

# The finest scale and the next, each the difference of a pixel and those around it at that distance.
FINE = 1
COARSE = 2
# At the next scale, a pattern from pixel to pixel has at most so many times the covariance that it has at the
# finest.
MAX_COARSE_RATIO = 1.7
# Values beyond so many standard deviations are edges, and are cut to that.
CUT = 3.0
# Scenes that are compared at most.
MAX_SCENES = 40


@dataclass(frozen=True)
class FixedPattern:
    """deviation: of the pattern, in the file's units. deviations: standard errors from none."""

    deviation: float
    deviations: float


def find_fixed_pattern(means: Sequence[Tensor]) -> FixedPattern | None:
    """means: float64 (H, W) of one size, the mean of the shots of each scene. None if fewer than two are
    given."""
    if len(means) < 2:
        return None
    means = means[:MAX_SCENES]
    fine, error = _covariance([_detail(mean, FINE) for mean in means])
    coarse, _ = _covariance([_detail(mean, COARSE) for mean in means])
    if fine <= 0 or coarse > MAX_COARSE_RATIO * fine:
        return FixedPattern(0.0, 0.0)
    return FixedPattern(math.sqrt(fine), fine / max(error, 1e-300))


def _detail(plane: Tensor, distance: int) -> Tensor:
    """What differs from the four pixels at that distance, with the variance of white noise, without edges."""
    padded = torch.cat((plane[:distance].flip(0), plane, plane[-distance:].flip(0)))
    padded = torch.cat((padded[:, :distance].flip(1), padded, padded[:, -distance:].flip(1)), 1)
    height, width = plane.shape
    around = [
        padded[down : down + height, across : across + width]
        for down, across in ((0, distance), (2 * distance, distance), (distance, 0), (distance, 2 * distance))
    ]
    # A pixel and a quarter of each of four: the variance of white noise times 1 + 4 / 16.
    detail = (plane - sum(around) / 4) / math.sqrt(1.25)
    deviation = clipped_deviation(detail)
    return detail.clamp(-CUT * deviation, CUT * deviation)


def _covariance(details: Sequence[Tensor]) -> tuple[float, float]:
    """The mean covariance of different scenes, and its standard error."""
    total, squares = torch.zeros_like(details[0]), torch.zeros_like(details[0])
    for detail in details:
        total += detail
        squares += detail.square()
    count = len(details) * (len(details) - 1)
    # The sum over all pairs of different scenes.
    products = (total.square() - squares) / count
    sums = block_sums(torch.stack((products, torch.ones_like(products)), 2))
    means = sums[:, 0] / sums[:, 1]
    return float(products.mean()), float(means.std()) / math.sqrt(len(means))
