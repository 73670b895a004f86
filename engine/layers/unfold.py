"""Convolution geometry, and the adjoint pair of functions that defines a convolution: im2col and col2im."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ConvGeometry:
    """Geometry of a convolution: which pixels its kernel reads.

    Terms of Dumoulin & Visin, "A guide to convolution arithmetic", 2016.
    kernel_size and stride are in pixels. dilation 1 means none. padding adds zeros on all four sides.
    Raises ValueError naming the value that is out of range.
    """

    kernel_size: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1

    def __post_init__(self) -> None:
        for name, least in (("kernel_size", 1), ("stride", 1), ("padding", 0), ("dilation", 1)):
            check_whole(name, getattr(self, name), least)

    @property
    def span(self) -> int:
        """Pixels from the kernel's first tap to its last, inclusive."""
        return self.dilation * (self.kernel_size - 1) + 1

    def adjoint(self) -> "ConvGeometry":
        """Geometry of the adjoint, which at stride 1 is a convolution with the flipped kernel."""
        return ConvGeometry(self.kernel_size, 1, self.span - 1 - self.padding, self.dilation)

    def out(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the output. Raises ValueError if the kernel is larger than the padded input."""
        if min(height, width) + 2 * self.padding < self.span:
            raise ValueError(
                f"the kernel spans {self.span} pixels, more than the input of {height} x {width} pixels"
                f" with padding {self.padding}"
            )
        return (
            (height + 2 * self.padding - self.span) // self.stride + 1,
            (width + 2 * self.padding - self.span) // self.stride + 1,
        )


def im2col(x: Tensor, geometry: ConvGeometry) -> Tensor:
    """Unfold: x (N, H, W, C) -> (N, H_out, W_out, kernel_size² · C), a row of taps for each output pixel.

    Source: Chellapilla et al., "High performance convolutional neural networks", 2006, section 3.
    """
    return taps(x, geometry).flatten(3)


def taps(x: Tensor, geometry: ConvGeometry) -> Tensor:
    """The pixels for im2col, as a view of the padded input: (N, H_out, W_out, kernel_size, kernel_size, C)."""
    n, height, width, channels = x.shape
    h_out, w_out = geometry.out(height, width)
    k, pad, step, gap = geometry.kernel_size, geometry.padding, geometry.stride, geometry.dilation
    if pad:
        x = torch.constant_pad_nd(x, (0, 0, pad, pad, pad, pad))
    x = x.contiguous()
    sn, sh, sw, sc = x.stride()
    return x.as_strided((n, h_out, w_out, k, k, channels), (sn, step * sh, step * sw, gap * sh, gap * sw, sc))


def col2im(columns: Tensor, shape: tuple[int, ...], geometry: ConvGeometry) -> Tensor:
    """Fold: the adjoint of im2col. It sums the taps that share an input pixel.

    columns: (N, H_out, W_out, kernel_size² · C) -> (N, H, W, C) = shape.
    """
    n, height, width, channels = shape
    h_out, w_out = columns.shape[1:3]
    k, pad, step, gap = geometry.kernel_size, geometry.padding, geometry.stride, geometry.dilation
    columns = columns.view(n, h_out, w_out, k, k, channels)
    x = columns.new_zeros(n, height + 2 * pad, width + 2 * pad, channels)
    for i in range(k):
        for j in range(k):
            rows = slice(gap * i, gap * i + step * (h_out - 1) + 1, step)
            cols = slice(gap * j, gap * j + step * (w_out - 1) + 1, step)
            x[:, rows, cols] += columns[:, :, :, i, j]
    return x[:, pad : pad + height, pad : pad + width].contiguous()


def check_whole(name: str, value: int, least: int) -> None:
    """Raises ValueError unless the value is a whole number of at least `least`."""
    if not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}; got {value!r}")
