"""The plain path: the three products of a convolution by their definition, im2col and one matrix product.

A transposed convolution is the same three products, with input and output exchanged. The kernels in C must agree
with this module. It runs where no kernel could be built, in float64, and on a GPU.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from engine.layers import shifted_gemm
from engine.layers.unfold import ConvGeometry, col2im, im2col


class Epilogue(NamedTuple):
    """result = relu(product + bias + add), and 0 where mask is not above 0. Each part may be left out.

    bias: (channels,); add, mask: shaped like the result. in_place: the kernels write the result over `add`.
    """

    bias: Tensor | None = None
    add: Tensor | None = None
    relu: bool = False
    mask: Tensor | None = None
    in_place: bool = False

    def check(self, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        """Raises ValueError naming a part that does not fit a result of that shape and type."""
        if self.bias is not None:
            wanted = torch.float64 if dtype == torch.float64 else torch.float32
            check("bias", self.bias, shape[3:], wanted)
        for name, tensor in (("add", self.add), ("mask", self.mask)):
            if tensor is not None:
                check(name, tensor, shape, dtype)

    def apply(self, y: Tensor) -> Tensor:
        """Changes y in place. Raises ValueError naming a part that does not fit."""
        self.check(tuple(y.shape), y.dtype)
        if self.bias is not None:
            y += self.bias.to(y.dtype)
        if self.add is not None:
            y += self.add
        if self.relu:
            y.clamp_(min=0)
        if self.mask is not None:
            y.masked_fill_(~(self.mask > 0), 0)
        return y


def check(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Raises ValueError if a tensor is not contiguous, or has another shape or type."""
    if tuple(tensor.shape) != shape or tensor.dtype != dtype or not tensor.is_contiguous():
        how = "" if tensor.is_contiguous() else ", not contiguous"
        raise ValueError(
            f"{name} must be contiguous {shape} of {dtype}; got {tuple(tensor.shape)} of {tensor.dtype}{how}"
        )


def product(
    x: Tensor, weight: Tensor, geometry: ConvGeometry, size: tuple[int, int], epilogue: Epilogue
) -> Tensor:
    """x (N, H, W, C) -> y = im2col(x) @ weight: (N, *size, C_out), where size is at most window.out(H, W).

    weight: (k² · C, C_out), rows in the order of im2col.
    """
    weight = weight.to(x.dtype)
    if shifted_gemm.fits(x, geometry, size):
        return epilogue.apply(shifted_gemm.product(x, weight, geometry))
    return epilogue.apply(im2col(x, geometry)[:, : size[0], : size[1]] @ weight)


def adjoint(
    y: Tensor, weight: Tensor, geometry: ConvGeometry, size: tuple[int, int], epilogue: Epilogue
) -> Tensor:
    """y (N, H_out, W_out, C_out) -> x = col2im(y @ weight'): (N, *size, C)."""
    weight = weight.to(y.dtype)
    channels = weight.shape[0] // geometry.kernel_size**2
    # A convolution with more padding than its kernel spans has no convolution as its adjoint.
    if (
        geometry.stride == 1
        and geometry.padding < geometry.span
        and shifted_gemm.fits(y, geometry.turned(), size)
    ):
        return epilogue.apply(shifted_gemm.product(y, turned(weight, channels), geometry.turned()))
    return epilogue.apply(col2im(y @ weight.T, (len(y), *size, channels), geometry))


def gradient(x: Tensor, y: Tensor, geometry: ConvGeometry) -> Tensor:
    """im2col(x)' @ y over all rows: (k² · C, C_out), in float32 at least."""
    if shifted_gemm.fits(x, geometry, (y.shape[1], y.shape[2])):
        return shifted_gemm.gradient(x, y, geometry)
    made = im2col(x, geometry)[:, : y.shape[1], : y.shape[2]].flatten(0, 2).T @ y.flatten(0, 2)
    return made.to(torch.promote_types(made.dtype, torch.float32))


def turned(weight: Tensor, in_channels: int) -> Tensor:
    """A kernel (k² · C_in, C_out) turned by half a circle, its channels exchanged: (k² · C_out, C_in).

    At stride 1 the gradient of the input is a convolution with it.
    """
    kernel = weight.view(-1, in_channels, weight.shape[1])
    return kernel.flip(0).transpose(1, 2).reshape(-1, in_channels)
