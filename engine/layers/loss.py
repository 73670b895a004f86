"""Loss functions for training."""

import torch
from torch import Tensor


class MSE:
    """Mean squared error over all numbers of a batch, with an optional weight for each sample or each pixel.

    The minimum of the squared error is the mean, and the mean of noisy targets is the clean image (Lehtinen et
    al., "Noise2Noise", ICML 2018, section 2).
    """

    def forward(self, y: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """y, target: (N, H, W, C); weight: (N,) or (N, H, W, 1), or None for 1 each -> the loss, a scalar."""
        _check(y, target)
        error = (y - target).square()
        return torch.mean(error if weight is None else error * _for_pixels(weight))

    def backward(self, y: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """dL/dy, shaped like y."""
        _check(y, target)
        dy = (y - target) * (2 / y.numel())
        return dy if weight is None else dy * _for_pixels(weight)


def _for_pixels(weight: Tensor) -> Tensor:
    return weight if weight.dim() == 4 else weight.view(-1, 1, 1, 1)


def _check(y: Tensor, target: Tensor) -> None:
    if y.shape != target.shape:
        raise ValueError(f"the target must have y's shape, {tuple(y.shape)}; got {tuple(target.shape)}")
