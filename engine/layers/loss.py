"""Loss functions for training."""

import torch
from torch import Tensor


class MSE:
    """Mean squared error over all numbers of a batch, with an optional weight for each sample.

    The minimum of the squared error is the mean, and the mean of noisy targets is the clean image (Lehtinen et
    al., "Noise2Noise", ICML 2018, section 2).
    """

    def forward(self, y: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """y, target: (N, H, W, C); weight: (N,), or None for 1 each -> the loss, a scalar."""
        _check(y, target)
        error = (y - target).square()
        return torch.mean(error if weight is None else error * weight.view(-1, 1, 1, 1))

    def backward(self, y: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """dL/dy, shaped like y."""
        _check(y, target)
        dy = (y - target) * (2 / y.numel())
        return dy if weight is None else dy * weight.view(-1, 1, 1, 1)


def _check(y: Tensor, target: Tensor) -> None:
    if y.shape != target.shape:
        raise ValueError(f"the target must have y's shape, {tuple(y.shape)}; got {tuple(target.shape)}")
