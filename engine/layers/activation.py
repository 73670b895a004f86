"""Activation functions."""

from fractions import Fraction

from torch import Tensor


class _Pointwise:
    """What layers have in common that treat every number by itself."""

    layers = ()
    stride = 1
    factor = Fraction(1)

    def __init__(self) -> None:
        self.params: dict[str, Tensor] = {}
        self.grads: dict[str, Tensor] = {}

    def inputs_of(self, first: int, last: int) -> tuple[int, int]:
        """Each output pixel depends on its own input pixel."""
        return first, last

    def memory(self, scale: Fraction, size: int) -> Fraction:
        """No more than the layer before it, whose result it is given."""
        return Fraction(0)


class ReLU(_Pointwise):
    """max(x, 0). Its derivative at 0 is taken as 0. Source: Nair & Hinton, ICML 2010."""

    def forward(self, x: Tensor, train: bool = False) -> Tensor:
        """x: any shape -> the same."""
        y = x.clamp(min=0)
        if train:
            self.y = y
        return y

    def backward(self, dy: Tensor) -> Tensor:
        """dy: dL/dy -> dL/dx, both shaped like x."""
        return dy * (self.y > 0)


class Sigmoid(_Pointwise):
    """1 / (1 + exp(-x)), into (0, 1)."""

    def forward(self, x: Tensor, train: bool = False) -> Tensor:
        """x: any shape -> the same."""
        y = x.sigmoid()
        if train:
            self.y = y
        return y

    def backward(self, dy: Tensor) -> Tensor:
        """dy: dL/dy -> dL/dx, both shaped like x."""
        return dy * self.y * (1 - self.y)
