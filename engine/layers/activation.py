"""Activation functions."""

from fractions import Fraction

from torch import Tensor


class _Pointwise:
    """A layer that treats each number on its own."""

    layers = ()
    stride = 1
    factor = Fraction(1)

    def __init__(self) -> None:
        self.params: dict[str, Tensor] = {}
        self.grads: dict[str, Tensor] = {}

    def inputs_of(self, first: int, last: int) -> tuple[int, int]:
        return first, last

    def memory(self, scale: Fraction, size: int) -> Fraction:
        """0: the layer before counts both the input and the output."""
        return Fraction(0)


class ReLU(_Pointwise):
    """max(x, 0), with derivative 0 at 0. Source: Nair & Hinton, ICML 2010."""

    def forward(self, x: Tensor, train: bool = False) -> Tensor:
        """x: any shape -> y, the same shape."""
        y = x.clamp(min=0)
        if train:
            self.y = y
        return y

    def backward(self, dy: Tensor) -> Tensor:
        """dy: dL/dy -> dL/dx."""
        return dy * (self.y > 0)


class Sigmoid(_Pointwise):
    """1 / (1 + exp(-x)), in (0, 1)."""

    def forward(self, x: Tensor, train: bool = False) -> Tensor:
        """x: any shape -> y, the same shape."""
        y = x.sigmoid()
        if train:
            self.y = y
        return y

    def backward(self, dy: Tensor) -> Tensor:
        """dy: dL/dy -> dL/dx."""
        return dy * self.y * (1 - self.y)
