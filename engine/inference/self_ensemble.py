"""Self-ensemble: the mean over the input's eight flips and rotations. Better images for eight times the work."""

from collections.abc import Iterator
from fractions import Fraction

import torch
from torch import Tensor

from engine.layers import Module, Sequential

ORIENTATIONS = 8
CHANNELS = 3


class SelfEnsemble(Sequential):
    """Runs a network on its input in all eight orientations, undoes each orientation, and returns the mean.

    They run one after another, so only two more images are held than the network needs. Stride and reach are the
    network's. Source: Timofte et al., "Seven ways to improve example-based single image super resolution", CVPR
    2016, section 3.5.
    """

    def __init__(self, net: Module) -> None:
        super().__init__(net)
        self.net = net

    def forward(self, x: Tensor, train: bool = False) -> Tensor:
        """x: (N, H, W, C) -> the same shape."""
        if train:
            raise ValueError("a self-ensemble cannot be trained; train its network")
        y = torch.zeros_like(x)
        for quarters, flipped in orientations():
            y += restored(self.net.forward(oriented(x, quarters, flipped).contiguous()), quarters, flipped)
        y /= ORIENTATIONS
        return y

    def backward(self, dy: Tensor) -> Tensor:
        """Raises ValueError: forward keeps nothing for it."""
        raise ValueError("a self-ensemble cannot be trained; train its network")

    def inputs_of(self, first: int, last: int) -> tuple[int, int]:
        """The input pixels that output pixels first..last depend on, along one side in either direction."""
        start, stop = self.net.inputs_of(first, last)
        # Pixel p is pixel -1 - p from the other end, on a side that is a multiple of the stride.
        other_stop, other_start = (-1 - pixel for pixel in self.net.inputs_of(-1 - last, -1 - first))
        return min(start, other_start), max(stop, other_stop)

    def memory(self, scale: Fraction, size: int) -> Fraction:
        """Bytes held at once for each pixel of the input: what the network needs, the input and the sum."""
        return self.net.memory(scale, size) + 2 * CHANNELS * scale**2 * size


def orientations() -> Iterator[tuple[int, bool]]:
    """All eight: how many times to rotate by 90 degrees, and whether a flip comes first."""
    return ((quarters, flipped) for flipped in (False, True) for quarters in range(4))


def oriented(x: Tensor, quarters: int, flipped: bool) -> Tensor:
    """(N, H, W, C), flipped left to right if `flipped`, then rotated by `quarters` times 90 degrees."""
    return torch.rot90(x.flip(2) if flipped else x, quarters, (1, 2))


def restored(y: Tensor, quarters: int, flipped: bool) -> Tensor:
    """Inverse of `oriented`."""
    y = torch.rot90(y, -quarters, (1, 2))
    return y.flip(2) if flipped else y
