"""Noise of each of two shots of a scene, apart: the mean of many shots has less than one shot.

At fine scales, what both shots share is the scene, and what each has besides is its noise.
"""

from dataclasses import dataclass

from torch import Tensor

from engine.data.registration import block_sums

# Of the two variances, the lesser is that of a mean of many shots if it is smaller by this factor.
MAX_RATIO = 0.4
# Pixels along the borders that are left out.
BORDER = 8


@dataclass(frozen=True)
class NoiseLevels:
    """Variances of the noise of two shots at a fine scale, in units of the first shot's brightness.

    error: standard error of either.
    """

    first: float
    second: float
    error: float

    @property
    def ratio(self) -> float:
        """The variance of the second over that of the first, as far as it is known; infinite if that has none."""
        return max(self.second, 0.0) / self.first if self.first > 0 else float("inf")

    @property
    def second_is_mean(self) -> bool:
        """Whether the second certainly has far less noise, as the mean of many shots."""
        return self.first > 4 * self.error and self.second + 3 * self.error < MAX_RATIO * self.first

    @property
    def first_is_mean(self) -> bool:
        """The same for the first."""
        return self.second > 4 * self.error and self.first + 3 * self.error < MAX_RATIO * self.second


def noise_levels(first: Tensor, second: Tensor) -> NoiseLevels:
    """first, second: float64 (H, W), which lie on each other and are equally bright."""
    inside = (slice(BORDER, -BORDER), slice(BORDER, -BORDER))
    a, b = (_detail(plane)[inside] for plane in (first, second))
    shared = a * b
    of_first, error_first = _mean(a.square() - shared)
    of_second, error_second = _mean(b.square() - shared)
    return NoiseLevels(of_first, of_second, max(error_first, error_second))


def _detail(plane: Tensor) -> Tensor:
    """What differs from pixel to pixel in both directions, with the variance of white noise.

    Source: Immerkaer, "Fast noise variance estimation", Computer Vision and Image Understanding 1996 (the
    filter).
    """
    down = plane[2:] - 2 * plane[1:-1] + plane[:-2]
    detail: Tensor = (down[:, 2:] - 2 * down[:, 1:-1] + down[:, :-2]) / 6
    return detail


def _mean(values: Tensor) -> tuple[float, float]:
    """The mean and its standard error."""
    sums = block_sums(values.unsqueeze(2))[:, 0] / values.numel()
    return float(sums.sum()), float((sums - sums.mean()).square().sum().sqrt())
