"""What bends the line between two products."""

from fractions import Fraction

import torch
from torch import Tensor

from engine.layers.strips import WHOLE, Finish, Strip, empty_like


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


class ReLU(_Pointwise):
    """max(x, 0). Its derivative at 0 is taken as 0. Source: Nair & Hinton, ICML 2010.

    After a layer, or on the way back before one, it is applied to each part of that layer's result while the
    part is in the cache: `apply` and `undo`.
    """

    def forward(self, x: Tensor, train: bool = False, finish: Finish | None = None) -> Tensor:
        """x: any shape -> the same."""
        y = x.clamp(min=0)
        if train:
            self.y = y
        return _finished(y, train, finish)

    def backward(self, dy: Tensor, finish: Finish | None = None, wanted: bool = True) -> Tensor:
        """dy: dL/dy -> dL/dx, both shaped like x."""
        dx = dy.clone()
        self.undo(dx, WHOLE)
        return _finished(dx, False, finish)

    def apply(self, part: Tensor, strip: Strip) -> None:
        """The forward pass, in place."""
        part.clamp_(min=0)

    def undo(self, part: Tensor, strip: Strip) -> None:
        """The backward pass, in place: part is dL/dy of the strip."""
        # The sign of what is at least 0 is 0 or 1. A comparison, and its truth values made numbers, take longer.
        y = self.y[strip]
        part.mul_(torch.sign(y, out=empty_like(y)))


class Sigmoid(_Pointwise):
    """1 / (1 + exp(-x)), into (0, 1)."""

    def forward(self, x: Tensor, train: bool = False, finish: Finish | None = None) -> Tensor:
        """x: any shape -> the same."""
        y = x.sigmoid()
        if train:
            self.y = y
        return _finished(y, train, finish)

    def backward(self, dy: Tensor, finish: Finish | None = None, wanted: bool = True) -> Tensor:
        """dy: dL/dy -> dL/dx, both shaped like x."""
        return _finished(dy * self.y * (1 - self.y), False, finish)


def _finished(y: Tensor, kept: bool, finish: Finish | None) -> Tensor:
    """y after `finish`, in place unless it is kept for the way back."""
    if finish:
        y = y.clone() if kept else y
        finish(y, WHOLE)
    return y
