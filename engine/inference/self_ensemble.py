"""A better image for eight times the work: the mean over the eight flips and turns of what goes in."""

from collections.abc import Iterator
from fractions import Fraction

import torch
from torch import Tensor

from engine.layers import Module, Sequential

TURNS = 8
CHANNELS = 3


class Ensemble(Sequential):
    """A denoiser, asked about its input flipped and turned in all eight ways; its answers, turned back, averaged.

    One turn after the other, so that two images more are held than the network needs. It has the network's
    stride and reach. Source: Timofte et al., "Seven ways to improve example-based single image super resolution",
    CVPR 2016, section 3.5.
    """

    def __init__(self, net: Module) -> None:
        super().__init__(net)
        self.net = net

    def forward(self, x: Tensor, train: bool = False) -> Tensor:
        """x: (N, H, W, C) -> the same shape."""
        if train:
            raise ValueError("an ensemble is not trained; its network is")
        y = torch.zeros_like(x)
        for turns, flipped in ways():
            y += turned_back(self.net.forward(turned(x, turns, flipped).contiguous()), turns, flipped)
        y /= TURNS
        return y

    def backward(self, dy: Tensor) -> Tensor:
        """Raises ValueError: nothing is kept for it."""
        raise ValueError("an ensemble is not trained; its network is")

    def inputs_of(self, first: int, last: int) -> tuple[int, int]:
        """The input pixels that output pixels first..last depend on, along one side, whichever way it runs."""
        start, stop = self.net.inputs_of(first, last)
        # Pixel p is -1 - p from the other end of a side that is a multiple of the stride.
        other_stop, other_start = (-1 - place for place in self.net.inputs_of(-1 - last, -1 - first))
        return min(start, other_start), max(stop, other_stop)

    def memory(self, scale: Fraction, size: int) -> Fraction:
        """Bytes held at once for each pixel of the input: the input and the sum beside what the network needs."""
        return self.net.memory(scale, size) + 2 * CHANNELS * scale**2 * size


def ways() -> Iterator[tuple[int, bool]]:
    """The eight: quarter turns, and whether a flip comes first."""
    return ((turns, flipped) for flipped in (False, True) for turns in range(4))


def turned(x: Tensor, turns: int, flipped: bool) -> Tensor:
    """(N, H, W, C) flipped left to right, or not, and then turned by so many quarters."""
    return torch.rot90(x.flip(2) if flipped else x, turns, (1, 2))


def turned_back(y: Tensor, turns: int, flipped: bool) -> Tensor:
    """Undoes `turned`."""
    y = torch.rot90(y, -turns, (1, 2))
    return y.flip(2) if flipped else y
