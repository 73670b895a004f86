"""Pixel shuffle: moves pixels to channels and back. Each layer undoes the other exactly."""

from fractions import Fraction

import torch
from torch import Tensor

from engine.layers import compiled
from engine.layers.plain import check


def space_to_depth(x: Tensor, block: int, dtype: torch.dtype | None = None) -> Tensor:
    """(N, H, W, C) -> (N, H / block, W / block, block² · C); the pixels of a block in reading order.

    dtype: of the result; x's own if None.
    Source: Shi et al., "Real-time single image and video super-resolution", CVPR 2016, section 3.1.
    Raises ValueError if a side is not a multiple of block.
    """
    n, height, width, channels = _sizes(x)
    if height % block or width % block:
        raise ValueError(f"both sides must be multiples of {block}; got {height} x {width} pixels")
    dtype = dtype or x.dtype
    if compiled.supports(x) and dtype in compiled.TYPES:
        return compiled.rearrange(x.contiguous(), block, True, dtype)
    x = x.reshape(n, height // block, block, width // block, block, channels).transpose(2, 3)
    return x.reshape(n, height // block, width // block, block * block * channels).to(dtype)


def depth_to_space(x: Tensor, block: int, dtype: torch.dtype | None = None, add: Tensor | None = None) -> Tensor:
    """(N, H, W, block² · C) -> (N, H · block, W · block, C), plus `add`: the inverse of space_to_depth.

    dtype: of the result and of `add`; x's own if None.
    Raises ValueError if the channels are not a multiple of block².
    """
    n, height, width, channels = _sizes(x)
    if channels % block**2:
        raise ValueError(f"channels must be a multiple of {block**2}; got {channels}")
    dtype = dtype or x.dtype
    if compiled.supports(x) and dtype in compiled.TYPES:
        return compiled.rearrange(x.contiguous(), block, False, dtype, add)
    x = x.reshape(n, height, width, block, block, channels // block**2).transpose(2, 3)
    y = x.reshape(n, height * block, width * block, channels // block**2).to(dtype)
    if add is None:
        return y
    check("add", add, tuple(y.shape), dtype)
    return y + add


def _sizes(x: Tensor) -> tuple[int, ...]:
    if x.dim() != 4:
        raise ValueError(f"a batch must have the shape (N, H, W, C); got {tuple(x.shape)}")
    return x.shape


class _Rearrangement:
    layers = ()

    def __init__(self, block: int) -> None:
        self.block = block
        self.params: dict[str, Tensor] = {}
        self.grads: dict[str, Tensor] = {}

    def memory(self, scale: Fraction, size: int) -> Fraction:
        """0: the layers before and after count its input and output."""
        return Fraction(0)


class SpaceToDepth(_Rearrangement):
    """Pixels to channels. Block 2 halves the sides, so later layers have a quarter of the pixels to compute."""

    def forward(self, x: Tensor, train: bool = False) -> Tensor:
        """x: (N, H, W, C) -> (N, H / block, W / block, block² · C)."""
        return space_to_depth(x, self.block)

    def backward(self, dy: Tensor) -> Tensor:
        return depth_to_space(dy, self.block)

    @property
    def stride(self) -> int:
        return self.block

    @property
    def factor(self) -> Fraction:
        return Fraction(1, self.block)

    def inputs_of(self, first: int, last: int) -> tuple[int, int]:
        return first * self.block, last * self.block + self.block - 1


class DepthToSpace(_Rearrangement):
    """Channels to pixels: the inverse of SpaceToDepth."""

    stride = 1

    def forward(self, x: Tensor, train: bool = False) -> Tensor:
        """x: (N, H, W, block² · C) -> (N, H · block, W · block, C)."""
        return depth_to_space(x, self.block)

    def backward(self, dy: Tensor) -> Tensor:
        return space_to_depth(dy, self.block)

    @property
    def factor(self) -> Fraction:
        return Fraction(self.block)

    def inputs_of(self, first: int, last: int) -> tuple[int, int]:
        return first // self.block, last // self.block
