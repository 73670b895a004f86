"""Noise level function: the noise at each brightness, and from it the variance over the whole image."""

import math

import torch
from torch import Tensor

from engine.inference.noise_estimation.blocks import Blocks, luma_and_chroma
from engine.inference.noise_estimation.config import EstimatorConfig
from engine.inference.noise_estimation.estimate import NoiseLevel
from engine.inference.noise_estimation.variance import correlated_variance, white_variance


def noise_level_function(
    blocks: Blocks, correlated: bool, config: EstimatorConfig
) -> tuple[tuple[NoiseLevel, ...], Tensor]:
    """The function, and the variances over the image: of the channels, of luma, and of chroma for colour.

    Bins of brightness without flat parts are taken to have the noise of the bin nearest in brightness that has
    them.
    """
    bins = min(max(int(config.flattest_share * len(blocks.index)) // config.min_blocks, 1), config.max_bins)
    which, flat = blocks.flattest(config.correlated_share if correlated else config.white_share, bins)
    x, left = blocks.planes(which.flatten())
    variance = correlated_variance(x, config) if correlated else white_variance(x, config)
    variance, left = (y.view(*which.shape, -1) for y in (variance, left))
    of_channels = variance[..., :3].mean(2)
    median = of_channels.where(flat, math.nan).nanmedian(1, keepdim=True).values
    usual = (flat & (of_channels <= config.max_variance_ratio * median)).float()

    def mean(of_blocks: Tensor) -> Tensor:
        """Of the usual blocks in each bin."""
        return torch.einsum("bk,bk...->b...", usual / usual.sum(1, keepdim=True), of_blocks)

    usual_variance = mean(of_channels).clamp(min=config.min_variance)
    spread = mean((of_channels - mean(of_channels).unsqueeze(1)).square()) / usual_variance.square()
    roughness = mean(blocks.roughness[which]) / usual_variance
    has_flat = _even(spread, config) if correlated else _even_and_white(spread, roughness, config)
    brightness, variance = mean(blocks.brightness[which]), mean(variance) / mean(left)
    nearest = (brightness.unsqueeze(1) - brightness[has_flat]).abs().argmin(1)
    over_image = variance[has_flat][nearest].mean(0)
    sigma = variance[has_flat, :3].mean(1).sqrt()
    levels = zip((255 * brightness[has_flat]).tolist(), (255 * sigma).tolist(), strict=True)
    over_image = torch.cat((over_image[:3], luma_and_chroma(over_image)))
    return tuple(NoiseLevel(*each) for each in levels), over_image


def _even(spread: Tensor, config: EstimatorConfig) -> Tensor:
    """The bins whose blocks are all about as noisy."""
    return spread <= config.max_spread_ratio * spread.min()


def _even_and_white(spread: Tensor, roughness: Tensor, config: EstimatorConfig) -> Tensor:
    """The even bins whose blocks are as rough as white noise is. If no bin is, the even ones."""
    coarse = roughness >= config.min_white_roughness
    if not coarse.any():
        return _even(spread, config)
    even = _even(spread.where(coarse, math.inf), config) & coarse
    return even & (roughness <= config.max_white_roughness_ratio * roughness[even].min())
