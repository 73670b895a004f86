"""Noise ceiling: the most noise that an image can have.

A block that is free of detail varies by its noise, and all others vary more. So the noise is at most what the
calmest blocks of its brightness have. All brightnesses also share a law: variance is an affine function of
brightness, as photon noise and read noise make it. Of all such laws below the calmest blocks, the one that is
highest at the mean brightness is taken. This is the lower convex envelope of the points.

JPEG flattens blocks, and a camera's curve bends the law. So where JPEG's grid is found, more than the calmest
blocks are taken, and no law is assumed. Then detail raises the ceiling of images without noise.
Sources: Foi, Trimeche, Katkovnik & Egiazarian, "Practical Poissonian-Gaussian noise modeling and fitting for
single-image raw-data", IEEE Transactions on Image Processing, 2008 (the law); Liu, Freeman, Szeliski & Kang,
"Noise estimation from a single image", CVPR 2006 (a noise level function as the lower envelope of variances).
"""

import math
from itertools import pairwise

from torch import Tensor

from engine.imageio.image import WHITE
from engine.inference.noise_estimation.blocks import tiles_of
from engine.inference.noise_estimation.config import DEFAULT_CONFIG, EstimatorConfig
from engine.inference.noise_estimation.jpeg_grid import has_jpeg_grid
from engine.inference.noise_estimation.windows import block_means

# Pixels a side.
BLOCK = 16
# Least number of blocks in a bin.
MIN_BLOCKS = 40


def noise_ceiling(
    samples: Tensor, config: EstimatorConfig = DEFAULT_CONFIG, jpeg_blocks: bool | None = None
) -> float:
    """The most noise that the image can have: a standard deviation, root mean square over channels, white is 255.

    samples: (H, W, C), C 1 or 3, uint8, uint16, or float32, where 1 is white. At most a megapixel is looked at.
    jpeg_blocks: whether JPEG's grid was found; None to look for it.
    Infinite if nothing can be told: the image is too small, or all constant or clipped.
    """
    tiles = tiles_of(samples, config)
    if min(tiles.shape[1:3]) < BLOCK:
        return math.inf
    pixels = tiles.float() / WHITE[samples.dtype]
    variance, brightness = _blocks(pixels, 1 / WHITE[samples.dtype], config)
    if not len(variance):
        return math.inf
    jpeg = has_jpeg_grid(pixels, config) if jpeg_blocks is None else jpeg_blocks
    share = config.ceiling_share_jpeg if jpeg else config.ceiling_share
    bins = max(min(config.max_bins, len(variance) // MIN_BLOCKS), 1)
    size = len(variance) // bins
    order = brightness.argsort()[: bins * size].view(bins, size)
    calmest = variance[order].quantile(share, 1)
    if jpeg:
        most = float(calmest.mean())
    else:
        most = _lower_convex_envelope(brightness[order].mean(1), calmest, float(brightness.mean()))
    return 255 * math.sqrt(most) * (config.ceiling_margin_jpeg if jpeg else config.ceiling_margin)


def _blocks(pixels: Tensor, step: float, config: EstimatorConfig) -> tuple[Tensor, Tensor]:
    """(N,) variance, mean over channels, and (N,) brightness of blocks that are not constant or mostly clipped.

    step: of the samples, 1 for floats.
    """
    planes = pixels.permute(0, 3, 1, 2)
    low, high = planes.aminmax()
    clipped = block_means(((planes <= low) | (planes >= high)).float(), BLOCK, BLOCK // 2).mean(1).flatten()
    # Centred on 0: squares of larger values would cost float32 the digits that count.
    middle = planes.mean()
    planes = planes - middle
    mean, square = block_means(planes, BLOCK, BLOCK // 2), block_means(planes.square(), BLOCK, BLOCK // 2)
    variance = (square - mean.square()).mean(1).flatten() * (BLOCK**2 / (BLOCK**2 - 1))
    # See `_left_by_clipping` in blocks.py.
    variance = variance / (1 - 1.7 * clipped + 0.8 * clipped.square())
    least = (config.min_ceiling_steps * step) ** 2 if step < 1 else 1e-10 * float(high - low) ** 2
    usable = (variance > least) & (clipped <= config.max_clipped_share)
    return variance[usable], mean.mean(1).flatten()[usable] + middle


def _lower_convex_envelope(x: Tensor, y: Tensor, at: float) -> float:
    """The lower convex envelope of the points, x rising, at one position."""
    hull: list[tuple[float, float]] = []
    for point in zip(x.tolist(), y.tolist(), strict=True):
        while len(hull) > 1 and not _turns_up(hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    for (left, low), (right, high) in pairwise(hull):
        if left <= at <= right and left < right:
            return low + (high - low) * (at - left) / (right - left)
    return hull[0][1] if at < hull[0][0] else hull[-1][1]


def _turns_up(first: tuple[float, float], second: tuple[float, float], third: tuple[float, float]) -> bool:
    """Whether the slope rises after the second point."""
    return (second[1] - first[1]) * (third[0] - second[0]) < (third[1] - second[1]) * (second[0] - first[0])
