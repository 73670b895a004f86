"""Layers made of layers, and the walk over the parameters inside."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from math import lcm
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Layer(Protocol):
    """What every layer is. `forward` writes to the layer only when training: one network serves all threads."""

    params: dict[str, Tensor]
    grads: dict[str, Tensor]

    @property
    def layers(self) -> "Sequence[Layer]":
        """The layers inside, in order."""

    @property
    def stride(self) -> int:
        """The input's sides must be multiples of this."""

    @property
    def factor(self) -> Fraction:
        """Output pixels for one input pixel, along one side."""

    def forward(self, x: Tensor, train: bool = False) -> Tensor:
        """x: (N, H, W, C) -> y."""

    def backward(self, dy: Tensor) -> Tensor:
        """dy: dL/dy, shaped like y -> dL/dx. Needs a forward with train=True before it."""

    def inputs_of(self, first: int, last: int) -> tuple[int, int]:
        """The input pixels that output pixels first..last depend on, along one side."""


class Sequential:
    """One layer after the other."""

    def __init__(self, *layers: Layer) -> None:
        self.layers: Sequence[Layer] = layers
        self.params: dict[str, Tensor] = {}
        self.grads: dict[str, Tensor] = {}

    def forward(self, x: Tensor, train: bool = False) -> Tensor:
        """x goes through every layer."""
        for layer in self.layers:
            x = layer.forward(x, train)
        return x

    def backward(self, dy: Tensor) -> Tensor:
        """dy goes back through every layer, the last one first."""
        for layer in reversed(self.layers):
            dy = layer.backward(dy)
        return dy

    @property
    def stride(self) -> int:
        """The least side of which every layer inside sees a multiple of its own stride."""
        stride, factor = 1, Fraction(1)
        for layer in self.layers:
            stride = lcm(stride, (layer.stride / factor).numerator)
            factor *= layer.factor
        return stride

    @property
    def factor(self) -> Fraction:
        """Output pixels for one input pixel, along one side."""
        factor = Fraction(1)
        for layer in self.layers:
            factor *= layer.factor
        return factor

    def inputs_of(self, first: int, last: int) -> tuple[int, int]:
        """The input pixels that output pixels first..last depend on, along one side."""
        for layer in reversed(self.layers):
            first, last = layer.inputs_of(first, last)
        return first, last


class Residual(Sequential):
    """x plus what the layers make of it: the residual block, and the add-skip of a U-Net around its lower levels.

    Source: He et al., "Deep residual learning", CVPR 2016, section 3.2.
    """

    def forward(self, x: Tensor, train: bool = False) -> Tensor:
        """x: (N, H, W, C) -> the same shape."""
        y = super().forward(x, train)
        if y.shape != x.shape:
            raise ValueError(f"what is added to x must have its shape, {tuple(x.shape)}; got {tuple(y.shape)}")
        return x + y

    def backward(self, dy: Tensor) -> Tensor:
        """dy: dL/dy -> dL/dx, by both ways."""
        return dy + super().backward(dy)

    def inputs_of(self, first: int, last: int) -> tuple[int, int]:
        """The input pixels that output pixels first..last depend on, along one side."""
        start, stop = super().inputs_of(first, last)
        return min(first, start), max(last, stop)


class Compute(Sequential):
    """Layers whose products run in another type, `dtype`; what goes in and what comes out keep theirs."""

    def __init__(self, dtype: torch.dtype, *layers: Layer) -> None:
        super().__init__(*layers)
        self.dtype = dtype

    def forward(self, x: Tensor, train: bool = False) -> Tensor:
        """x: any type -> y in the same type."""
        return super().forward(x.to(self._type_for(x)), train).to(x.dtype)

    def backward(self, dy: Tensor) -> Tensor:
        """dy: dL/dy -> dL/dx, in dy's type."""
        return super().backward(dy.to(self._type_for(dy))).to(dy.dtype)

    def _type_for(self, x: Tensor) -> torch.dtype:
        # A network in float64 stays in it: that is how the hand-written passes are checked.
        return x.dtype if x.dtype == torch.float64 else self.dtype


class Slot(NamedTuple):
    """One parameter, where it lives and what it is called: "1.0.weight"."""

    name: str
    layer: Layer
    key: str

    @property
    def value(self) -> Tensor:
        """The parameter itself."""
        return self.layer.params[self.key]

    @property
    def grad(self) -> Tensor:
        """Its gradient, of the last backward."""
        return self.layer.grads[self.key]


def slots(layer: Layer, prefix: str = "") -> Iterator[Slot]:
    """Every parameter of a network, in the order of the forward pass."""
    for key in layer.params:
        yield Slot(prefix + key, layer, key)
    for place, inner in enumerate(layer.layers):
        yield from slots(inner, f"{prefix}{place}.")
