"""Plain path: the three products of a convolution by their definition, im2col and one matrix product.

- product: the forward pass, y = im2col(x) @ weight.
- adjoint: the gradient of the input, x = col2im(y @ weight').
- gradient: the gradient of the weight, im2col(x)' @ y.

A transposed convolution is the same three products with input and output exchanged. The kernels in C must agree
with this module. It runs where no kernel was compiled, in float64, and on a GPU.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from engine.layers import shifted_gemm
from engine.layers.unfold import ConvGeometry, col2im, im2col


class Epilogue(NamedTuple):
    """Applied while a product is stored: relu(product + bias + add), or 0 unless mask > 0. Each part is optional.

    bias: (channels,); add, mask: shaped like the result. in_place: kernels overwrite `add` with the result.
    """

    bias: Tensor | None = None
    add: Tensor | None = None
    relu: bool = False
    mask: Tensor | None = None
    in_place: bool = False

    def check(self, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        """Raises ValueError naming the part that does not fit a result of this shape and type."""
        if self.bias is not None:
            check("bias", self.bias, shape[3:], torch.promote_types(dtype, torch.float32))
        for name, tensor in (("add", self.add), ("mask", self.mask)):
            if tensor is not None:
                check(name, tensor, shape, dtype)

    def apply(self, y: Tensor) -> Tensor:
        """Changes y in place. Raises ValueError naming the part that does not fit."""
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
    """Raises ValueError unless a tensor is contiguous and has this shape and type."""
    if tuple(tensor.shape) != shape or tensor.dtype != dtype or not tensor.is_contiguous():
        how = "" if tensor.is_contiguous() else ", not contiguous"
        raise ValueError(
            f"{name} must be contiguous {shape} of {dtype}; got {tuple(tensor.shape)} of {tensor.dtype}{how}"
        )


def product(
    x: Tensor, weight: Tensor, geometry: ConvGeometry, size: tuple[int, int], epilogue: Epilogue
) -> Tensor:
    """The convolution y = im2col(x) @ weight: x (N, H, W, C) -> y (N, *size, C_out).

    size: at most geometry.out(H, W). weight: (k² · C, C_out), its rows in the order of im2col.
    """
    weight = weight.to(x.dtype)
    if shifted_gemm.fits(x, geometry, size):
        return epilogue.apply(shifted_gemm.product(x, weight, geometry))
    return epilogue.apply(im2col(x, geometry)[:, : size[0], : size[1]] @ weight)


def adjoint(
    y: Tensor, weight: Tensor, geometry: ConvGeometry, size: tuple[int, int], epilogue: Epilogue
) -> Tensor:
    """The adjoint of `product`, x = col2im(y @ weight'): y (N, H_out, W_out, C_out) -> x (N, *size, C)."""
    weight = weight.to(y.dtype)
    channels = weight.shape[0] // geometry.kernel_size**2
    # With padding of the kernel's span or more, the adjoint is no convolution.
    if (
        geometry.stride == 1
        and geometry.padding < geometry.span
        and shifted_gemm.fits(y, geometry.adjoint(), size)
    ):
        return epilogue.apply(shifted_gemm.product(y, flip_kernel(weight, channels), geometry.adjoint()))
    return epilogue.apply(col2im(y @ weight.T, (len(y), *size, channels), geometry))


def gradient(x: Tensor, y: Tensor, geometry: ConvGeometry) -> Tensor:
    """The gradient of the weight, im2col(x)' @ y over all pixels: (k² · C, C_out), in at least float32."""
    if shifted_gemm.fits(x, geometry, (y.shape[1], y.shape[2])):
        return shifted_gemm.gradient(x, y, geometry)
    result = im2col(x, geometry)[:, : y.shape[1], : y.shape[2]].flatten(0, 2).T @ y.flatten(0, 2)
    return result.to(torch.promote_types(result.dtype, torch.float32))


def flip_kernel(weight: Tensor, in_channels: int) -> Tensor:
    """The kernel (k² · C_in, C_out) rotated by 180°, with its channels exchanged: (k² · C_out, C_in).

    At stride 1, the adjoint of a convolution is a convolution with this kernel.
    """
    kernel = weight.view(-1, in_channels, weight.shape[1])
    return kernel.flip(0).transpose(1, 2).reshape(-1, in_channels)
