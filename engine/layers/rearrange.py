"""Pixels to channels and back: the same numbers in another order, so each layer undoes the other exactly."""

from fractions import Fraction

from torch import Tensor


def space_to_depth(x: Tensor, block: int) -> Tensor:
    """(N, H, W, C) -> (N, H / block, W / block, block² · C); the pixels of a block in reading order.

    Source: Shi et al., "Real-time single image and video super-resolution", CVPR 2016, section 3.1.
    Raises ValueError if a side is no multiple of block.
    """
    n, height, width, channels = _sizes(x)
    if height % block or width % block:
        raise ValueError(f"both sides must be multiples of {block}; got {height} x {width} pixels")
    x = x.view(n, height // block, block, width // block, block, channels)
    return x.transpose(2, 3).reshape(n, height // block, width // block, block * block * channels)


def depth_to_space(x: Tensor, block: int) -> Tensor:
    """(N, H, W, block² · C) -> (N, H · block, W · block, C): undoes space_to_depth.

    Raises ValueError if the channels are no multiple of block².
    """
    n, height, width, channels = _sizes(x)
    if channels % block**2:
        raise ValueError(f"channels must be a multiple of {block**2}; got {channels}")
    x = x.view(n, height, width, block, block, channels // block**2)
    return x.transpose(2, 3).reshape(n, height * block, width * block, channels // block**2)


def _sizes(x: Tensor) -> tuple[int, ...]:
    if x.dim() != 4:
        raise ValueError(f"a batch is (N, H, W, C); got {tuple(x.shape)}")
    return x.shape


class _Rearrangement:
    layers = ()

    def __init__(self, block: int) -> None:
        self.block = block
        self.params: dict[str, Tensor] = {}
        self.grads: dict[str, Tensor] = {}


class SpaceToDepth(_Rearrangement):
    """For block 2, half the sides and four times the channels: later layers have a quarter of the rows."""

    def forward(self, x: Tensor, train: bool = False) -> Tensor:
        """x: (N, H, W, C) -> (N, H / block, W / block, block² · C)."""
        return space_to_depth(x, self.block)

    def backward(self, dy: Tensor) -> Tensor:
        """dy: dL/dy -> dL/dx."""
        return depth_to_space(dy, self.block)

    @property
    def stride(self) -> int:
        """The input's sides must be multiples of this."""
        return self.block

    @property
    def factor(self) -> Fraction:
        """Output pixels for one input pixel, along one side."""
        return Fraction(1, self.block)

    def inputs_of(self, first: int, last: int) -> tuple[int, int]:
        """The input pixels that output pixels first..last depend on, along one side."""
        return first * self.block, last * self.block + self.block - 1


class DepthToSpace(_Rearrangement):
    """The way back from SpaceToDepth."""

    stride = 1

    def forward(self, x: Tensor, train: bool = False) -> Tensor:
        """x: (N, H, W, block² · C) -> (N, H · block, W · block, C)."""
        return depth_to_space(x, self.block)

    def backward(self, dy: Tensor) -> Tensor:
        """dy: dL/dy -> dL/dx."""
        return space_to_depth(dy, self.block)

    @property
    def factor(self) -> Fraction:
        """Output pixels for one input pixel, along one side."""
        return Fraction(self.block)

    def inputs_of(self, first: int, last: int) -> tuple[int, int]:
        """The input pixels that output pixels first..last depend on, along one side."""
        return first // self.block, last // self.block
