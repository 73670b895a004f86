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
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from engine.data.noise.anscombe import Anscombe
from engine.imageio.image import WHITE
from engine.inference.noise_estimation.banding import NO_BANDING, estimate_banding, remove_banding
from engine.inference.noise_estimation.blocks import LARGE_BLOCK, blocks_of, tiles_of
from engine.inference.noise_estimation.ceiling import noise_ceiling
from engine.inference.noise_estimation.config import DEFAULT_CONFIG, EstimatorConfig
from engine.inference.noise_estimation.correlation import correlation_of, whiteness_of
from engine.inference.noise_estimation.estimate import (
    Component,
    NoiseEstimate,
    NoiseLevel,
    overall_sigma,
)
from engine.inference.noise_estimation.graphics import GraphicsKind, graphics_kind
from engine.inference.noise_estimation.impulses import NO_IMPULSES, estimate_impulses, replace_impulses
from engine.inference.noise_estimation.jpeg_grid import has_jpeg_grid
from engine.inference.noise_estimation.law_of_channels import laws_of_channels
from engine.inference.noise_estimation.noise_law import LawEstimate, estimate_law
from engine.inference.noise_estimation.noise_level_function import noise_level_function
from engine.inference.noise_estimation.value_range import (
    is_even,
    is_photograph,
    only_channel,
    range_of,
    without_even_channels,
)


def estimate_noise(image: Tensor, config: EstimatorConfig = DEFAULT_CONFIG) -> NoiseEstimate:
    """Estimate an image's noise. Equal images give equal estimates.

    image: (H, W, C) of any size, C 1 or 3: uint8, uint16, or float32, where 1 is white and values may lie
    anywhere. Three equal channels count as one grey image, and so does one channel if the others are the same
    everywhere. At most a megapixel, spread over the image, is read. Raises ValueError for another shape, and for
    NaN or infinite values among what is looked at.
    """
    _check_shape(image)
    channel = only_channel(image)
    found = _estimate_image(without_even_channels(image), config)
    if channel is None or not found.sigma:
        return found
    return replace(found, sigma=tuple(found.sigma[0] if c == channel else 0.0 for c in range(image.shape[2])))


def _estimate_image(image: Tensor, config: EstimatorConfig) -> NoiseEstimate:
    tiles = _checked_tiles(image, config)
    white = WHITE[image.dtype]
    low, high = range_of(tiles)
    drawn = graphics_kind(image, config)
    if drawn:
        return _drawing(image.shape[2], tiles.shape[3] == 3, drawn, white, (low, high))
    impulses, banding = estimate_impulses(image, config), estimate_banding(image, config)
    if impulses.confident or banding.confident:
        # What is left of the noise is measured without them.
        image = remove_banding(replace_impulses(image, impulses, config)[0], banding, config)
        tiles = _checked_tiles(image, config)
        low, high = range_of(tiles)
    if is_photograph(tiles, white, (low, high)):
        found = _estimate(tiles / white, image.shape[2], config)
    else:
        # The thresholds are for photographs.
        span = (high - low) / white
        found = _rescaled(_estimate((tiles - low) / (high - low), image.shape[2], config), low / white, span)
    found = replace(
        found,
        white=white,
        range=(low, high),
        impulses=impulses if impulses.confident else NO_IMPULSES,
        banding=banding if banding.confident else NO_BANDING,
    )
    if not found.jpeg_blocks:
        found = with_laws(found, laws_of_channels(estimate_law(tiles), tiles), tiles, config)
    if found.laws:
        return found
    return replace(found, ceiling=noise_ceiling(image[..., : tiles.shape[3]], config, found.jpeg_blocks))


def _estimate(tiles: Tensor, channels: int, config: EstimatorConfig) -> NoiseEstimate:
    """tiles: (T, h, w, C) on [0, 1], where noise may reach beyond. channels: of the image."""
    if min(tiles.shape[1:3]) < LARGE_BLOCK:
        return NoiseEstimate()
    jpeg_blocks = has_jpeg_grid(tiles, config)
    small, large = blocks_of(tiles, config)
    if not len(small.index) or not len(large.index):
        return NoiseEstimate(jpeg_blocks=jpeg_blocks)
    whiteness, correlated, fine = whiteness_of(small, config)
    blocks = large if correlated else small
    levels, variance = noise_level_function(blocks, correlated, config)
    sigma = [255 * v**0.5 for v in variance.tolist()]
    parts = zip(sigma[-len(whiteness) :], correlation_of(large, config), whiteness, strict=True)
    luma, *chroma = (Component(*part) for part in parts)
    sigmas = tuple(sigma[:3]) if chroma else (sigma[0],) * channels
    return NoiseEstimate(
        sigmas,
        luma,
        chroma[0] if chroma else None,
        levels,
        correlated,
        blocks.flat_share(),
        jpeg_blocks,
        fine_sigma=255 * fine**0.5,
    )


def _rescaled(found: NoiseEstimate, low: float, span: float) -> NoiseEstimate:
    """The estimate of an image whose 0 and 1 were at `low` and `low + span`."""

    def component(part: Component | None) -> Component | None:
        return part and replace(part, sigma=part.sigma * span)

    levels = (
        NoiseLevel(255 * low + each.brightness * span, each.sigma * span) for each in found.noise_level_function
    )
    return replace(
        found,
        sigma=found.sigma and tuple(sigma * span for sigma in found.sigma),
        luma=component(found.luma),
        chroma=component(found.chroma),
        fine_sigma=found.fine_sigma * span,
        noise_level_function=tuple(levels),
    )


def with_laws(
    found: NoiseEstimate, laws: Sequence[LawEstimate], tiles: Tensor, config: EstimatorConfig
) -> NoiseEstimate:
    """The estimate with a law for each channel, if all have one.

    tiles: (T, h, w, C) floats in the samples' units; C is 1 for grey.
    """
    if (
        found.sigma is None
        or not any(found.sigma)
        or found.luma is None
        or not laws
        or len(laws) < tiles.shape[3]
    ):
        return found
    stable = torch.stack([Anscombe(law.law).forward(tiles[..., c]) for c, law in enumerate(laws)], 3)
    lowest, highest = stable.aminmax()
    even = _estimate((stable - lowest) / (highest - lowest), len(found.sigma), config)
    if even.luma is None:
        return found
    scale = 255 / found.white
    planes = zip(laws, tiles.double().unbind(3), strict=True)
    sigma = [
        0.0 if is_even(plane) else scale * float(law.law.variance(plane).mean().sqrt()) for law, plane in planes
    ]
    # A grey image in colour has one law for its three equal channels.
    sigmas = tuple(sigma * (len(found.sigma) // len(sigma)))
    middle = laws[len(laws) // 2]
    return replace(
        found,
        sigma=sigmas,
        luma=replace(even.luma, sigma=found.luma.sigma * overall_sigma(sigmas) / overall_sigma(found.sigma)),
        noise_level_function=tuple(NoiseLevel(scale * p.brightness, scale * p.sigma) for p in middle.points),
        correlated=False,
        ceiling=math.inf,
        laws=tuple(laws),
    )


def _check_shape(image: Tensor) -> None:
    if image.dim() != 3 or image.shape[2] not in (1, 3) or not image.numel():
        raise ValueError(f"an image is (H, W, 1) or (H, W, 3); got {tuple(image.shape)}")


def _checked_tiles(image: Tensor, config: EstimatorConfig) -> Tensor:
    """(T, h, w, C) floats in the samples' units: what is looked at; C is 1 for grey. Raises ValueError."""
    tiles = tiles_of(image, config).float()
    lowest, highest = (float(x) for x in tiles.aminmax())
    if not math.isfinite(highest - lowest):
        raise ValueError("the image has values that are NaN or infinite")
    if torch.equal(tiles, tiles[..., :1].expand_as(tiles)):
        tiles = tiles[..., :1].contiguous()
    return tiles


def _drawing(
    channels: int, has_chroma: bool, drawn: GraphicsKind, white: int, limits: tuple[float, float]
) -> NoiseEstimate:
    """The estimate for a computer drawing."""
    none = Component(0.0, (0.0, 0.0, 0.0), 1.0)
    chroma = none if has_chroma else None
    return NoiseEstimate(
        (0.0,) * channels, none, chroma, correlated=False, ceiling=0.0, drawn=drawn, white=white, range=limits
    )
