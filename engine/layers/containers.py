"""Containers: modules made of modules."""

from collections.abc import Sequence
from fractions import Fraction
from functools import cached_property
from math import lcm

import torch
from torch import Tensor

from engine.layers.activation import ReLU
from engine.layers.module import Convolution, Module
from engine.layers.pixel_shuffle import DepthToSpace, SpaceToDepth, depth_to_space, space_to_depth


class Sequential:
    """Layers, one after the other."""

    def __init__(self, *layers: Module) -> None:
        self.layers: Sequence[Module] = layers
        self.params: dict[str, Tensor] = {}
        self.grads: dict[str, Tensor] = {}

    def forward(self, x: Tensor, train: bool = False) -> Tensor:
        for layer in self.layers:
            x = layer.forward(x, train)
        return x

    def backward(self, dy: Tensor) -> Tensor:
        for layer in reversed(self.layers):
            dy = layer.backward(dy)
        return dy

    @cached_property
    def stride(self) -> int:
        """The smallest side for which each layer's input is a multiple of the layer's own stride."""
        stride, factor = 1, Fraction(1)
        for layer in self.layers:
            stride = lcm(stride, (layer.stride / factor).numerator)
            factor *= layer.factor
        return stride

    @cached_property
    def factor(self) -> Fraction:
        factor = Fraction(1)
        for layer in self.layers:
            factor *= layer.factor
        return factor

    def inputs_of(self, first: int, last: int) -> tuple[int, int]:
        for layer in reversed(self.layers):
            first, last = layer.inputs_of(first, last)
        return first, last

    def memory(self, scale: Fraction, size: int) -> Fraction:
        """Of the layer that holds most."""
        most = Fraction(0)
        for layer in self.layers:
            most = max(most, layer.memory(scale, size))
            scale *= layer.factor
        return most


class ConvStack(Sequential):
    """Convolutions with a ReLU between each two.

    Both passes of the ReLUs run in the epilogues of the convolutions: forward, a convolution applies the ReLU
    after it; backward, it masks dL/dx by the ReLU before it.
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
    """A container that adds its input to the output of its layers."""

    def inputs_of(self, first: int, last: int) -> tuple[int, int]:
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
        """dy: dL/dy -> dL/dx, through the layers and through the sum."""
        dhidden = self.second.backward(dy, mask=self.second.x)
        return self.first.backward(dhidden, add=dy)

    def memory(self, scale: Fraction, size: int) -> Fraction:
        """Kernels write y over x. The plain path holds both."""
        x = self.first.in_channels * scale**2 * size
        return super().memory(scale, size) + (0 if self.second.uses_kernels else x)


class Skip(_AddsInput):
    """x + up(inside(down(x))): the lower levels of a U-Net with the skip connection around them.

    Source: Ronneberger et al., "U-Net", MICCAI 2015, with a sum in place of concatenation.
    """

    def __init__(self, down: Convolution, inside: Sequence[Module], up: Convolution) -> None:
        super().__init__(down, *inside, up)
        self.down, self.inside, self.up = down, Sequential(*inside), up

    def forward(self, x: Tensor, train: bool = False) -> Tensor:
        """x: (N, H, W, C) -> the same shape."""
        lower = self.inside.forward(self.down.forward(x, train), train)
        return self.up.forward(lower, train, add=x)

    def backward(self, dy: Tensor) -> Tensor:
        """dy: dL/dy -> dL/dx, through the layers and through the sum."""
        dlower = self.inside.backward(self.up.backward(dy))
        return self.down.backward(dlower, add=dy)

    def memory(self, scale: Fraction, size: int) -> Fraction:
        """x is held until the end, where kernels write y over it."""
        lower, x = scale * self.down.factor, self.down.in_channels * scale**2 * size
        last = self.up.memory(lower, size) + (0 if self.up.uses_kernels else x)
        return max(self.down.memory(scale, size), x + self.inside.memory(lower, size), last)


class PixelResidual(_AddsInput):
    """x + depth_to_space(inside(space_to_depth(x))). Inside, layers compute in `dtype`; the sum has x's type."""

    def __init__(self, channels: int, block: int, dtype: torch.dtype, *inside: Module) -> None:
        """channels: of x. The input and the output of the layers inside have block² times as many."""
        super().__init__(Sequential(SpaceToDepth(block), *inside, DepthToSpace(block)))
        self.channels, self.block, self.dtype, self.inside = channels, block, dtype, Sequential(*inside)

    def forward(self, x: Tensor, train: bool = False) -> Tensor:
        """x: (N, H, W, C) -> the same shape and type."""
        x = x.contiguous()
        # The argument has no name here, so it is freed as soon as the first layer has read it.
        y = self.inside.forward(space_to_depth(x, self.block, _compute_type(self.dtype, x)), train)
        return depth_to_space(y, self.block, x.dtype, add=x)

    def backward(self, dy: Tensor) -> Tensor:
        """dy: dL/dy -> dL/dx, through the layers and through the sum."""
        dy = dy.contiguous()
        dx = space_to_depth(dy, self.block, _compute_type(self.dtype, dy))
        return depth_to_space(self.inside.backward(dx), self.block, dy.dtype, add=dy)

    def memory(self, scale: Fraction, size: int) -> Fraction:
        """x is held until it has been added."""
        numbers = self.channels * scale**2
        inside = self.inside.memory(scale / self.block, self.dtype.itemsize)
        return numbers * size + max(inside, numbers * (self.dtype.itemsize + size))


class CastTo(Sequential):
    """Layers that compute in `dtype`. The output has the type of the input."""

    def __init__(self, dtype: torch.dtype, inside: Sequential) -> None:
        super().__init__(*inside.layers)
        self.dtype, self.inside = dtype, inside

    def forward(self, x: Tensor, train: bool = False) -> Tensor:
        return self.inside.forward(x.to(_compute_type(self.dtype, x)), train).to(x.dtype)

    def backward(self, dy: Tensor) -> Tensor:
        return self.inside.backward(dy.to(_compute_type(self.dtype, dy))).to(dy.dtype)

    def memory(self, scale: Fraction, size: int) -> Fraction:
        return self.inside.memory(scale, self.dtype.itemsize)


def _compute_type(dtype: torch.dtype, x: Tensor) -> torch.dtype:
    # float64 stays: tests check the hand-written passes in it.
    return x.dtype if x.dtype == torch.float64 else dtype
