"""Layers made of layers, and the walk over the parameters inside."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cached_property
from math import lcm
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from engine.layers.activation import ReLU
from engine.layers.pixel_shuffle import DepthToSpace, SpaceToDepth, depth_to_space, space_to_depth


class Module(Protocol):
    """What every layer is. `forward` writes to the layer only when training: one network serves all threads."""

    params: dict[str, Tensor]
    grads: dict[str, Tensor]

    @property
    def layers(self) -> "Sequence[Module]":
        """The layers inside, in order."""

    @property
    def stride(self) -> int:
        """The input's sides must be multiples of this."""

    @property
    def factor(self) -> Fraction:
        """Output pixels for one input pixel, along one side."""

    def forward(self, x: Tensor, train: bool = False) -> Tensor:
        """x: (N, H, W, C) -> y. Without train, y may lie where x did: who needs x later gives a copy."""

    def backward(self, dy: Tensor) -> Tensor:
        """dy: dL/dy, shaped like y -> dL/dx; sets `grads`. Needs a forward with train=True before it."""

    def inputs_of(self, first: int, last: int) -> tuple[int, int]:
        """The input pixels that output pixels first..last depend on, along one side."""

    def memory(self, scale: Fraction, size: int) -> Fraction:
        """Bytes that a forward pass holds at once for each pixel of the network's input, beside weights.

        scale: the side of the layer's input beside that of the network's; size: bytes of a number.
        """


class Convolution(Module, Protocol):
    """A layer that adds, rectifies and masks while it stores its result."""

    in_channels: int
    x: Tensor

    @property
    def by_kernels(self) -> bool:
        """Whether the kernels in C run it, which need no memory but for what goes in and comes out."""

    def forward(self, x: Tensor, train: bool = False, add: Tensor | None = None, relu: bool = False) -> Tensor:
        """x -> y + add, rectified if asked. Without train, it may take the place of `add`."""

    def backward(self, dy: Tensor, add: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """dy -> dL/dx + add, and 0 where mask is not above 0."""


class Sequential:
    """One layer after the other."""

    def __init__(self, *layers: Module) -> None:
        self.layers: Sequence[Module] = layers
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

    @cached_property
    def stride(self) -> int:
        """The least side of which every layer inside sees a multiple of its own stride."""
        stride, factor = 1, Fraction(1)
        for layer in self.layers:
            stride = lcm(stride, (layer.stride / factor).numerator)
            factor *= layer.factor
        return stride

    @cached_property
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

    def memory(self, scale: Fraction, size: int) -> Fraction:
        """Bytes held at once for each pixel of the network's input: those of the layer that holds most."""
        most = Fraction(0)
        for layer in self.layers:
            most = max(most, layer.memory(scale, size))
            scale *= layer.factor
        return most


class ConvStack(Sequential):
    """Convolutions with a ReLU between each two.

    On the way forward, a convolution applies the ReLU after it while it stores its result. On the way back, a
    convolution applies the mask of the ReLU before it while it stores dL/dx.
    """

    def __init__(self, *convolutions: Convolution) -> None:
        first, *others = convolutions
        super().__init__(first, *(layer for other in others for layer in (ReLU(), other)))
        self.convolutions = convolutions

    def forward(self, x: Tensor, train: bool = False, add: Tensor | None = None) -> Tensor:
        """x: (N, H, W, C) -> y + add."""
        for convolution in self.convolutions[:-1]:
            x = convolution.forward(x, train, relu=True)
        return self.convolutions[-1].forward(x, train, add)

    def backward(self, dy: Tensor, add: Tensor | None = None) -> Tensor:
        """dy: dL/dy -> dL/dx + add."""
        for convolution in reversed(self.convolutions[1:]):
            dy = convolution.backward(dy, mask=convolution.x)
        return self.convolutions[0].backward(dy, add)


class _AddsInput(Sequential):
    """What layers have in common that add their input, x, to what they make of it."""

    def inputs_of(self, first: int, last: int) -> tuple[int, int]:
        """The input pixels that output pixels first..last depend on, along one side."""
        start, stop = super().inputs_of(first, last)
        return min(first, start), max(last, stop)


class ResBlock(_AddsInput):
    """x + second(ReLU(first(x))). Source: He et al., "Deep residual learning", CVPR 2016, section 3.2."""

    def __init__(self, first: Convolution, second: Convolution) -> None:
        super().__init__(first, ReLU(), second)
        self.first, self.second = first, second

    def forward(self, x: Tensor, train: bool = False) -> Tensor:
        """x: (N, H, W, C) -> the same shape."""
        hidden = self.first.forward(x, train, relu=True)
        return self.second.forward(hidden, train, add=x)

    def backward(self, dy: Tensor) -> Tensor:
        """dy: dL/dy -> dL/dx, by both ways."""
        dhidden = self.second.backward(dy, mask=self.second.x)
        return self.first.backward(dhidden, add=dy)

    def memory(self, scale: Fraction, size: int) -> Fraction:
        """Bytes held at once for each pixel of the network's input: y takes the place of x."""
        x = self.first.in_channels * scale**2 * size
        return super().memory(scale, size) + (0 if self.second.by_kernels else x)


class Skip(_AddsInput):
    """x + up(inside(down(x))): the lower levels of a U-Net, with the connection around them.

    Source: Ronneberger et al., "U-Net", MICCAI 2015, with a sum in place of the concatenation.
    """

    def __init__(self, down: Convolution, inside: Sequence[Module], up: Convolution) -> None:
        super().__init__(down, *inside, up)
        self.down, self.inside, self.up = down, Sequential(*inside), up

    def forward(self, x: Tensor, train: bool = False) -> Tensor:
        """x: (N, H, W, C) -> the same shape."""
        lower = self.inside.forward(self.down.forward(x, train), train)
        return self.up.forward(lower, train, add=x)

    def backward(self, dy: Tensor) -> Tensor:
        """dy: dL/dy -> dL/dx, by both ways."""
        dlower = self.inside.backward(self.up.backward(dy))
        return self.down.backward(dlower, add=dy)

    def memory(self, scale: Fraction, size: int) -> Fraction:
        """Bytes held at once for each pixel of the network's input: x is held until y takes its place."""
        lower, x = scale * self.down.factor, self.down.in_channels * scale**2 * size
        last = self.up.memory(lower, size) + (0 if self.up.by_kernels else x)
        return max(self.down.memory(scale, size), x + self.inside.memory(lower, size), last)


class PixelResidual(_AddsInput):
    """x + depth_to_space(inside(space_to_depth(x))).

    The layers inside compute in `dtype`. The sum is in x's own type.
    """

    def __init__(self, channels: int, block: int, dtype: torch.dtype, *inside: Module) -> None:
        """channels: of x; the first layer inside takes, and the last one makes, block² times as many."""
        super().__init__(Sequential(SpaceToDepth(block), *inside, DepthToSpace(block)))
        self.channels, self.block, self.dtype, self.inside = channels, block, dtype, Sequential(*inside)

    def forward(self, x: Tensor, train: bool = False) -> Tensor:
        """x: (N, H, W, C) -> the same shape and type."""
        x = x.contiguous()
        # Without a name, it is gone as soon as the first layer has seen it.
        y = self.inside.forward(space_to_depth(x, self.block, _compute_type(self.dtype, x)), train)
        return depth_to_space(y, self.block, x.dtype, add=x)

    def backward(self, dy: Tensor) -> Tensor:
        """dy: dL/dy -> dL/dx, by both ways."""
        dy = dy.contiguous()
        dx = space_to_depth(dy, self.block, _compute_type(self.dtype, dy))
        return depth_to_space(self.inside.backward(dx), self.block, dy.dtype, add=dy)

    def memory(self, scale: Fraction, size: int) -> Fraction:
        """Bytes held at once for each pixel of the network's input: x is held until it has been added."""
        numbers = self.channels * scale**2
        inside = self.inside.memory(scale / self.block, self.dtype.itemsize)
        return numbers * size + max(inside, numbers * (self.dtype.itemsize + size))


class CastTo(Sequential):
    """Layers that compute in another type, `dtype`; what goes in and what comes out keep theirs."""

    def __init__(self, dtype: torch.dtype, inside: Sequential) -> None:
        super().__init__(*inside.layers)
        self.dtype, self.inside = dtype, inside

    def forward(self, x: Tensor, train: bool = False) -> Tensor:
        """x: any type -> y in the same type."""
        return self.inside.forward(x.to(_compute_type(self.dtype, x)), train).to(x.dtype)

    def backward(self, dy: Tensor) -> Tensor:
        """dy: dL/dy -> dL/dx, in dy's type."""
        return self.inside.backward(dy.to(_compute_type(self.dtype, dy))).to(dy.dtype)

    def memory(self, scale: Fraction, size: int) -> Fraction:
        """Bytes held at once for each pixel of the network's input."""
        return self.inside.memory(scale, self.dtype.itemsize)


def _compute_type(dtype: torch.dtype, x: Tensor) -> torch.dtype:
    # A network in float64 stays in it: that is how the hand-written passes are checked.
    return x.dtype if x.dtype == torch.float64 else dtype


class Parameter(NamedTuple):
    """One parameter, where it lives and what it is called: "1.0.weight"."""

    name: str
    layer: Module
    key: str

    @property
    def value(self) -> Tensor:
        """The parameter itself."""
        return self.layer.params[self.key]

    @property
    def grad(self) -> Tensor:
        """Its gradient, of the last backward."""
        return self.layer.grads[self.key]


def parameters(layer: Module, prefix: str = "") -> Iterator[Parameter]:
    """Every parameter of a network, in the order of the forward pass."""
    for key in layer.params:
        yield Parameter(prefix + key, layer, key)
    for place, inner in enumerate(layer.layers):
        yield from parameters(inner, f"{prefix}{place}.")
