"""JPEG grid: finds whether an image was coded in blocks of 8 x 8 pixels, wherever the blocks begin.

JPEG rounds the blocks' coefficients to multiples of a step, so their histograms are combs, whatever the image
shows and however noisy it was before.
Source: Fan & de Queiroz, "Identification of bitmap compression history: JPEG detection and quantizer estimation",
IEEE Transactions on Image Processing, 2003.
"""

import math

import torch
from torch import Tensor

from engine.imageio.image import LUMA
from engine.inference.noise_estimation.config import EstimatorConfig
from engine.inference.noise_estimation.variance import cosine_basis

# Pixels a side.
JPEG_BLOCK = 8


def has_jpeg_grid(tiles: Tensor, config: EstimatorConfig) -> bool:
    """tiles: (T, h, w, C) on [0, 1]."""
    luma = tiles @ tiles.new_tensor(LUMA) if tiles.shape[3] == 3 else tiles[..., 0]
    coefficients = _shifted_blocks(255 * luma, config.jpeg_blocks) @ cosine_basis(*config.jpeg_band)
    combs = _comb_deviations(coefficients, config)
    usual = config.min_comb_ratio * float(combs.median())
    return bool(combs.max() > max(config.min_comb_deviations, usual))


def _shifted_blocks(luma: Tensor, max_blocks: int) -> Tensor:
    """(T, h, w) -> (K, 64, 64): blocks spread over all tiles, each at the 64 positions up to 7 pixels further."""
    side = JPEG_BLOCK
    everywhere = luma.unfold(1, side, 1).unfold(2, side, 1)
    height, width = (length // side * side for length in everywhere.shape[1:3])
    cells = everywhere[:, :height, :width].unfold(1, side, side).unfold(2, side, side)
    tiles, rows, columns = cells.shape[:3]
    count = tiles * rows * columns
    index = torch.linspace(0, count - 1, min(count, max_blocks)).long()
    chosen = cells[index // (rows * columns), index // columns % rows, index % columns]
    return chosen.permute(0, 3, 4, 1, 2).reshape(-1, side**2, side**2)


def _comb_deviations(coefficients: Tensor, config: EstimatorConfig) -> Tensor:
    """(K, 64, F) -> (64,): for each position of the grid, by how many standard deviations combs stand out.

    Only values beyond half a step count: values nearer to 0 are the most in any image. Without a comb there are
    more values below each step's middle than above it, so the cosine's mean is below 0.
    """
    positions, frequencies = coefficients.shape[1:]
    last = config.max_coefficient * config.bins_per_step
    bins = (coefficients.abs() * config.bins_per_step).round_().clamp_(max=last).long()
    bins += (last + 1) * torch.arange(positions * frequencies).view(positions, frequencies)
    counts = bins.flatten().bincount(minlength=(last + 1) * positions * frequencies)
    counts = counts.view(positions, frequencies, -1)
    value, steps = torch.arange(last).unsqueeze(1) / config.bins_per_step, torch.tensor(config.jpeg_steps)
    beyond = (value > steps / 2).float()
    # The last bin holds all larger values.
    histograms = counts[..., :last].float()
    many = histograms @ beyond
    sums = histograms @ (beyond * (2 * math.pi * value / steps).cos())
    # A cosine of random values has a variance of one half.
    deviations = (sums / (many / 2).clamp(min=1).sqrt()).where(many >= config.min_coefficients, 0)
    return deviations.amax(2).topk(config.min_comb_frequencies).values[:, -1]
