"""Variance of blocks of pixels: at some frequencies, and between pixels at some distance."""

import math

import torch
from torch import Tensor

from engine.inference.noise_estimation.config import EstimatorConfig


def white_variance(x: Tensor, config: EstimatorConfig) -> Tensor:
    """(K, P, 8, 8) -> (K, P): variance at the highest frequencies. White noise has the same at all."""
    return (x.flatten(2) @ cosine_basis(*config.highest_band)).square().mean(2)


def correlated_variance(x: Tensor, config: EstimatorConfig) -> Tensor:
    """(K, P, 16, 16) -> (K, P): variance of noise that neighbours share, from pixels that are far apart."""
    return torch.stack([variogram(x, distance) for distance in config.independent_distances]).mean(0)


def variogram(x: Tensor, distance: int) -> Tensor:
    """(K, P, side, side) -> (K, P): half the mean squared difference of pixels at that distance."""
    down = x[..., distance:, :] - x[..., :-distance, :]
    across = x[..., distance:] - x[..., :-distance]
    return (down.square().mean((2, 3)) + across.square().mean((2, 3))) / 4


def cosine_basis(lowest: int, highest: int) -> Tensor:
    """(64, n): cosine transform of 8 x 8 blocks, for frequencies whose sum is from lowest to highest."""
    step = torch.arange(8)
    basis = (math.pi / 8 * step.unsqueeze(1) * (step + 0.5)).cos() / 2
    basis[0] /= 2**0.5
    total = (step.unsqueeze(1) + step).flatten()
    return torch.kron(basis, basis)[(total >= lowest) & (total <= highest)].T
