"""Layers made of layers, and the walk over the parameters inside."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from math import lcm
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from engine.layers.activation import ReLU
from engine.layers.strips import WHOLE, Finish, Strip, each_strip, empty_like


class Layer(Protocol):
    """What every layer is. `forward` writes to the layer only when training: one network serves all threads.

    `finish` changes the result in place, each part as soon as it is made, and so while it is in the cache. If
    dL/dx is not `wanted`, `backward` sets the gradients and returns anything.
    """

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

    def forward(self, x: Tensor, train: bool = False, finish: Finish | None = None) -> Tensor:
        """x: (N, H, W, C) -> y."""

    def backward(self, dy: Tensor, finish: Finish | None = None, wanted: bool = True) -> Tensor:
        """dy: dL/dy, shaped like y -> dL/dx. Needs a forward with train=True before it."""

    def inputs_of(self, first: int, last: int) -> tuple[int, int]:
        """The input pixels that output pixels first..last depend on, along one side."""


class Sequential:
    """One layer after the other."""

    def __init__(self, *layers: Layer) -> None:
        self.layers: Sequence[Layer] = layers
        self.params: dict[str, Tensor] = {}
        self.grads: dict[str, Tensor] = {}

    def forward(self, x: Tensor, train: bool = False, finish: Finish | None = None) -> Tensor:
        """x goes through every layer. A ReLU is applied to the parts of the result of the layer before it."""
        if not self.layers:
            return _converted(x, x.dtype, finish)
        for place, layer in enumerate(self.layers):
            after = self.layers[place + 1] if place + 1 < len(self.layers) else None
            if place and isinstance(layer, ReLU):
                if train:
                    layer.y = x
                if after is None and finish:
                    x = _converted(x, x.dtype, finish)
            else:
                x = layer.forward(x, train, after.apply if isinstance(after, ReLU) else None if after else finish)
        return x

    def backward(self, dy: Tensor, finish: Finish | None = None, wanted: bool = True) -> Tensor:
        """dy goes back through every layer, the last one first."""
        if not self.layers:
            return _converted(dy, dy.dtype, finish)
        for place in range(len(self.layers) - 1, -1, -1):
            layer, before = self.layers[place], self.layers[place - 1] if place else None
            if place + 1 < len(self.layers) and isinstance(layer, ReLU):
                if before is None and finish:
                    finish(dy, WHOLE)
                continue
            undo = before.undo if isinstance(before, ReLU) else None if before else finish
            # Before the first layer with parameters, nobody asks.
            needed = wanted or any(True for earlier in self.layers[:place] for _ in slots(earlier))
            dy = layer.backward(dy, undo, needed)
            if not needed:
                break
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

    def forward(self, x: Tensor, train: bool = False, finish: Finish | None = None) -> Tensor:
        """x: (N, H, W, C) -> the same shape."""
        return super().forward(x, train, _with(x, finish))

    def backward(self, dy: Tensor, finish: Finish | None = None, wanted: bool = True) -> Tensor:
        """dy: dL/dy -> dL/dx, by both ways."""
        return super().backward(dy, _with(dy, finish) if wanted else None, wanted)

    def inputs_of(self, first: int, last: int) -> tuple[int, int]:
        """The input pixels that output pixels first..last depend on, along one side."""
        start, stop = super().inputs_of(first, last)
        return min(first, start), max(last, stop)


class Compute(Sequential):
    """Layers whose products run in another type, `dtype`; what goes in and what comes out keep theirs."""

    def __init__(self, dtype: torch.dtype, *layers: Layer) -> None:
        super().__init__(*layers)
        self.dtype = dtype

    def forward(self, x: Tensor, train: bool = False, finish: Finish | None = None) -> Tensor:
        """x: any type -> y in the same type."""
        if (dtype := self._type_for(x)) == x.dtype:
            return super().forward(x, train, finish)
        return _converted(super().forward(_converted(x, dtype), train), x.dtype, finish)

    def backward(self, dy: Tensor, finish: Finish | None = None, wanted: bool = True) -> Tensor:
        """dy: dL/dy -> dL/dx, in dy's type."""
        if (dtype := self._type_for(dy)) == dy.dtype:
            return super().backward(dy, finish, wanted)
        dx = super().backward(_converted(dy, dtype), None, wanted)
        return _converted(dx, dy.dtype, finish) if wanted else dx

    def _type_for(self, x: Tensor) -> torch.dtype:
        # A network in float64 stays in it: that is how the hand-written passes are checked.
        return x.dtype if x.dtype == torch.float64 else self.dtype


def _with(x: Tensor, finish: Finish | None) -> Finish:
    """Add x to each part of a result, then do what else there is to do."""

    def add(part: Tensor, strip: Strip) -> None:
        if part.shape != x[strip].shape:
            raise ValueError(
                f"what is added to x must have its shape, {tuple(x[strip].shape)}; got {tuple(part.shape)}"
            )
        part.add_(x[strip])
        if finish:
            finish(part, strip)

    return add


def _converted(x: Tensor, dtype: torch.dtype, finish: Finish | None = None) -> Tensor:
    """A copy of x in another type, or in its own."""
    y = empty_like(x, dtype)

    def copy(strip: Strip) -> None:
        part = y[strip]
        part.copy_(x[strip])
        if finish:
            finish(part, strip)

    each_strip(y, copy)
    return y


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
