"""Computer graphics: images that a computer drew, so that they have no noise at all.

Such an image has areas of exactly equal pixels, edges, and gradients, which rise or fall by rounded steps. Noise
makes pixels flip: a pixel lies above or below both its neighbours by a small amount. A photograph has many flips
wherever it is not clipped, however little noise it has; a drawing has them only beside the edges of its letters.
Small means two hundredths of the range, or one level if the image has few levels, as counts of photons and
coarsely rounded images have.

An image in two values far apart has no noise either: line art, fax pages, halftones. Impulses on a blank page
have two values, too. They count as two-valued, since nothing tells them from a drawing in dots.
"""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from engine.imageio.image import WHITE
from engine.inference.noise_estimation.blocks import LARGE_BLOCK, tiles_of
from engine.inference.noise_estimation.config import DEFAULT_CONFIG, EstimatorConfig
from engine.inference.noise_estimation.windows import block_means

GraphicsKind = Literal["two-valued", "palette", "computer-drawn"]

# Pixels that are looked at, in tiles of so many pixels a side.
MAX_PIXELS = 2**18
TILE_SIDE = 128
# Rows that are compared at a time.
STRIP_ROWS = 256
# Colours that a palette has at most.
MAX_PALETTE = 256


def is_computer_drawn(samples: Tensor, config: EstimatorConfig = DEFAULT_CONFIG) -> bool:
    """Whether a computer drew the image; see `graphics_kind`."""
    return graphics_kind(samples, config) is not None


def graphics_kind(samples: Tensor, config: EstimatorConfig = DEFAULT_CONFIG) -> GraphicsKind | None:
    """The kind of a computer-drawn image, None for all others and for images under 16 pixels a side.

    samples: (H, W, C), C 1 or 3, uint8, uint16 or float32 of any range.
    "two-valued": all pixels have one of two colours that lie far apart. "palette": drawn in few colours.
    "computer-drawn": drawn in many, such as screens with text and gradients.
    """
    if min(samples.shape[:2]) < LARGE_BLOCK:
        return None
    tiles = tiles_of(samples, replace(config, max_pixels=MAX_PIXELS, tile_side=TILE_SIDE))
    colours = _colours(tiles)
    if colours is not None and len(colours) == 2 and _is_two_valued(samples, colours, config):
        return "two-valued"
    if not _has_no_noise(tiles.float(), config):
        return None
    return "palette" if colours is not None else "computer-drawn"


def _colours(tiles: Tensor) -> Tensor | None:
    """(N, C) the different colours, None if they are too many for a palette."""
    pixels = tiles.flatten(0, 2)
    # Most images have too many in a small part already.
    for step in (64, 1):
        colours = _different(pixels[::step])
        if len(colours) > MAX_PALETTE:
            return None
    return colours


def _different(pixels: Tensor) -> Tensor:
    """(K, C) -> (N, C): each colour once."""
    if pixels.is_floating_point() or pixels.shape[1] > 1:
        values = pixels if pixels.is_floating_point() else pixels.int()
        colours: Tensor = torch.unique(values, dim=0)
        return colours
    # A hundred times as fast.
    return pixels.flatten().int().bincount().nonzero()


def _is_two_valued(samples: Tensor, colours: Tensor, config: EstimatorConfig) -> bool:
    """Whether all pixels have one of these two colours, and these lie far apart."""
    first, second = colours.float()
    if float((first - second).abs().max()) < config.min_two_valued_contrast * WHITE[samples.dtype]:
        return False
    for top in range(0, len(samples), STRIP_ROWS):
        strip = samples[top : top + STRIP_ROWS].float()
        if not bool(((strip == first).all(2) | (strip == second).all(2)).all()):
            return False
    return True


def _has_no_noise(tiles: Tensor, config: EstimatorConfig) -> bool:
    """tiles: float32 (T, h, w, C)."""
    lowest, highest = tiles.aminmax()
    step = max(_step_of_few_levels(tiles[..., c]) for c in range(tiles.shape[3]))
    small = max(config.max_flip * float(highest - lowest), 1.01 * step)
    across, down = tiles[:, :, 1:] - tiles[:, :, :-1], tiles[:, 1:] - tiles[:, :-1]
    equal = float(((across[:, 1:] == 0) & (down[:, :, 1:] == 0)).all(3).float().mean())
    flips = _flips(across[:, 1:-1, :-1], across[:, 1:-1, 1:], small)
    flips |= _flips(down[:, :-1, 1:-1], down[:, 1:, 1:-1], small)
    share = float(flips.float().mean())
    if share <= config.max_drawing_flips:
        return True
    side = min(LARGE_BLOCK, *flips.shape[1:])
    blocks = block_means(flips.float(), side, side)
    noisy = float((blocks > config.max_block_flips).float().mean())
    most = config.max_flips_in_flat if equal >= config.min_flat_drawing else config.max_flips
    return equal >= config.min_equal_share and share <= most * (1 - equal) and noisy <= config.max_noisy_blocks


def _flips(before: Tensor, after: Tensor, small: float) -> Tensor:
    """(T, h, w): pixels above or below both neighbours, and near to one of them, in any channel."""
    opposite = before * after < 0
    return (opposite & (torch.minimum(before.abs(), after.abs()) <= small)).any(3)


def _step_of_few_levels(channel: Tensor) -> float:
    """The least difference between levels, if there are few; otherwise 0."""
    values = channel.flatten()
    levels: Tensor = torch.unique(values[:: max(len(values) // 2**14, 1)])
    return float((levels[1:] - levels[:-1]).min()) if 1 < len(levels) <= 64 else 0.0
