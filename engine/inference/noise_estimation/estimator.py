"""Noise estimator: level, correlation and noise level function of an image's noise, from that image alone.

Photographs have parts without detail, and what varies there is noise. These parts are the small blocks that vary
least at low frequencies. White noise is the same at all frequencies, so it is measured at the highest ones, which
hold least of the image and had no part in the choice. Correlated noise is measured from differences of pixels so
far apart that their noise is independent.
Sources: Ponomarenko et al., "An automatic approach to lossy compression of AVIRIS images", IGARSS 2007, and Colom
& Buades, "Analysis and extension of the Ponomarenko et al. method", IPOL 2013 (blocks in the order of their low
frequencies, noise from the high ones, bins of brightness); Colom, Lebrun, Buades & Morel, "A non-parametric
approach for the estimation of intensity-frequency dependent noise", ICIP 2014 (correlated noise).
"""

import math

import torch
from torch import Tensor

from engine.imageio.image import to_pixels
from engine.inference.noise_estimation.blocks import LARGE_BLOCK, blocks_of, tiles_of
from engine.inference.noise_estimation.config import DEFAULT_CONFIG, EstimatorConfig
from engine.inference.noise_estimation.correlation import correlation_of, whiteness_of
from engine.inference.noise_estimation.estimate import Component, NoiseEstimate
from engine.inference.noise_estimation.graphics import is_computer_drawn
from engine.inference.noise_estimation.jpeg_grid import has_jpeg_grid
from engine.inference.noise_estimation.noise_level_function import noise_level_function


def estimate_noise(image: Tensor, config: EstimatorConfig = DEFAULT_CONFIG) -> NoiseEstimate:
    """Estimate an image's noise. Equal images give equal estimates.

    image: (H, W, C) of any size, C 1 or 3: float32 on [0, 1], where noise may reach beyond; or uint8 or uint16.
    Three equal channels count as one grey image. At most a megapixel is looked at, spread over the image.
    Raises ValueError for another shape, and for NaN or infinite values among what is looked at.
    """
    tiles = _checked_tiles(image, config)
    if min(tiles.shape[1:3]) < LARGE_BLOCK:
        return NoiseEstimate()
    jpeg_blocks = has_jpeg_grid(tiles, config)
    small, large = blocks_of(tiles, config)
    if not len(small.index) or not len(large.index):
        return NoiseEstimate(jpeg_blocks=jpeg_blocks)
    whiteness, correlated = whiteness_of(small, config)
    blocks = large if correlated else small
    levels, variance = noise_level_function(blocks, correlated, config)
    sigma = [255 * v**0.5 for v in variance.tolist()]
    parts = zip(sigma[-len(whiteness) :], correlation_of(large, config), whiteness, strict=True)
    luma, *chroma = (Component(*part) for part in parts)
    channels = tuple(sigma[:3]) if chroma else (sigma[0],) * image.shape[2]
    if is_computer_drawn(image, config):
        return _drawing(len(channels), bool(chroma), blocks.flat_share(), jpeg_blocks)
    return NoiseEstimate(
        channels, luma, chroma[0] if chroma else None, levels, correlated, blocks.flat_share(), jpeg_blocks
    )


def _checked_tiles(image: Tensor, config: EstimatorConfig) -> Tensor:
    """(T, h, w, C): what is looked at, as float32 pixels; C is 1 for grey. Raises ValueError."""
    if image.dim() != 3 or image.shape[2] not in (1, 3) or not image.numel():
        raise ValueError(f"an image is (H, W, 1) or (H, W, 3); got {tuple(image.shape)}")
    tiles = tiles_of(image, config)
    if not tiles.is_floating_point():
        tiles = to_pixels(tiles.flatten(0, 1)).view(*tiles.shape[:3], -1)
    lowest, highest = (float(x) for x in tiles.aminmax())
    if not math.isfinite(highest - lowest):
        raise ValueError("the image has values that are NaN or infinite")
    if torch.equal(tiles, tiles[..., :1].expand_as(tiles)):
        tiles = tiles[..., :1].contiguous()
    return tiles


def _drawing(channels: int, has_chroma: bool, flat: float, jpeg_blocks: bool) -> NoiseEstimate:
    """The estimate for a computer drawing."""
    none = Component(0.0, (0.0, 0.0, 0.0), 1.0)
    chroma = none if has_chroma else None
    return NoiseEstimate((0.0,) * channels, none, chroma, correlated=False, flat=flat, jpeg_blocks=jpeg_blocks)
