"""Bounds for the rounding errors of the kernels, from the number of roundings.

The error of a sum of n numbers is at most n roundings of the sum of their absolute values. If roundings are
nearly independent, it is at most t · sqrt(n) of them, with a probability of 1 - 2n exp(-t² / 2). The same holds
for Winograd's algorithm, where the sum of absolute values is computed by its matrices without their signs.

Sources: Higham & Mary, "A new approach to probabilistic rounding error analysis", SIAM J. Sci. Comput. 2019;
Barabasz et al., "Error analysis and improving the accuracy of Winograd convolution", ACM TOMS 2020.
"""

from typing import NamedTuple

import torch

from engine.layers import ConvGeometry, kernels, plain
from engine.layers.plain import Epilogue

# Half a unit in the last place: the largest relative error of one rounding.
HALF_UNIT = {torch.float32: 2**-24, torch.bfloat16: 2**-8}
# Absolute error for numbers that are subnormal in float32.
TINY = 1e-30


class Case(NamedTuple):
    """One convolution. size: of the output, at most geometry.out; limit: as in kernels.h.

    fused: whether the epilogue has a bias, something to add, a ReLU, a mask.
    """

    geometry: ConvGeometry
    batch: int
    height: int
    width: int
    in_channels: int
    out_channels: int
    size: tuple[int, int]
    limit: int = 0
    fused: tuple[bool, bool, bool, bool] = (False, False, False, False)

    @property
    def x(self):
        """Shape of the input."""
        return self.batch, self.height, self.width, self.in_channels

    @property
    def y(self):
        """Shape of the output."""
        return self.batch, *self.size, self.out_channels

    @property
    def weight(self):
        """Shape of the weight."""
        return self.geometry.kernel_size**2 * self.in_channels, self.out_channels

    def shape(self, dtype, threads=2, limit=None):
        """The struct that the kernels take."""
        geometry = (
            self.geometry.kernel_size,
            self.geometry.stride,
            self.geometry.padding,
            self.geometry.dilation,
        )
        limit = self.limit if limit is None else limit
        half = dtype == torch.bfloat16
        return kernels.Shape(*self.x, *self.size, self.out_channels, *geometry, half, threads, limit)

    def product(self, adjoint, given, weight, epilogue):
        """The product by the definition, or its adjoint."""
        if adjoint:
            return plain.adjoint(given, weight, self.geometry, (self.height, self.width), epilogue)
        return plain.product(given, weight, self.geometry, self.size, epilogue)


def sum_units(count):
    """The error of a sum of `count` products, in roundings of the sum of their absolute values.

    With t = 8 it fails for one number in 10^10. The certain bound, `count`, would not detect one missing term
    among a few thousand.
    """
    return min(count, 8 * count**0.5)


def product_bound(case, adjoint, given, weight, epilogue, expected, winograd):
    """For each number of a product or its adjoint. given: in the type of the kernel; weight: float64."""
    channels = case.out_channels if adjoint else case.in_channels
    absolute = Epilogue(*(None if part is None else part.double().abs() for part in epilogue[:2]))
    magnitude = case.product(adjoint, given.double().abs(), weight.abs(), absolute)
    # Two more roundings: of the bias and of `add`.
    units = sum_units(case.geometry.kernel_size**2 * channels) + 2
    if winograd:
        turned = plain.flip_kernel(weight.abs(), case.in_channels) if adjoint else weight.abs()
        magnitude = magnitude + _winograd(given.double().abs(), turned, expected.shape[1:3])
        units = sum_units(channels) + WINOGRAD_UNITS + 2
    bound = units * HALF_UNIT[torch.float32] * magnitude + TINY
    # In float32 the result is the last sum. To bfloat16 it is rounded once more.
    return bound if given.dtype == torch.float32 else bound + (expected.abs() + bound) * HALF_UNIT[torch.bfloat16]


def gradient_bound(case, x, y, winograd):
    """For each number of a weight's gradient, which is float32 for either type of x and y."""
    x, y = x.double().abs(), y.double().abs()
    if winograd:
        tiles = case.batch * -(-case.height // 4) * -(-case.width // 4)
        units, magnitude = sum_units(tiles) + WINOGRAD_UNITS, _winograd_gradient(x, y)
    else:
        units, magnitude = sum_units(y[..., 0].numel()), plain.gradient(x, y, case.geometry)
    return units * HALF_UNIT[torch.float32] * magnitude + TINY


# The matrices of winograd.c without their signs: Bt, G and At.
INPUT, KERNEL, OUTPUT = (
    torch.tensor(rows, dtype=torch.float64)
    for rows in (
        [
            [4, 0, 5, 0, 1, 0],
            [0, 4, 4, 1, 1, 0],
            [0, 4, 4, 1, 1, 0],
            [0, 2, 1, 2, 1, 0],
            [0, 2, 1, 2, 1, 0],
            [0, 4, 0, 5, 0, 1],
        ],
        [
            [1 / 4, 0, 0],
            [1 / 6, 1 / 6, 1 / 6],
            [1 / 6, 1 / 6, 1 / 6],
            [1 / 24, 1 / 12, 1 / 6],
            [1 / 24, 1 / 12, 1 / 6],
            [0, 0, 1],
        ],
        [[1, 1, 1, 1, 1, 0], [0, 1, 1, 2, 2, 0], [0, 1, 1, 4, 4, 0], [0, 1, 1, 8, 8, 1]],
    )
)
# Roundings of a number in the transforms, each along two sides: at most four for the input; four for the kernel,
# whose matrix is itself rounded; five for the output.
WINOGRAD_UNITS = 2 * (4 + 4 + 5)


def _along_both_sides(matrix, squares):
    """matrix @ square @ matrix' for each square of (..., side, side, C)."""
    return torch.einsum("ai,bj,...ijc->...abc", matrix, matrix, squares)


def _tiles(x, side, before):
    """(N, H, W, C) -> (N, down, across, side, side, C): squares around each 4 x 4 pixels, 0 outside the image."""
    below, right = (-(-length // 4) * 4 - length + side - 4 - before for length in x.shape[1:3])
    x = torch.constant_pad_nd(x, (0, 0, before, right, before, below))
    return x.unfold(1, side, 4).unfold(2, side, 4).permute(0, 1, 2, 4, 5, 3)


def _winograd(x, weight, size):
    given = _along_both_sides(INPUT, _tiles(x, 6, 1))
    kernel = _along_both_sides(KERNEL, weight.reshape(3, 3, -1)).view(6, 6, -1, weight.shape[1])
    result = _along_both_sides(OUTPUT, torch.einsum("nhwabc,abck->nhwabk", given, kernel))
    return result.transpose(2, 3).flatten(3, 4).flatten(1, 2)[:, : size[0], : size[1]]


def _winograd_gradient(x, y):
    given, spread = _along_both_sides(INPUT, _tiles(x, 6, 1)), _along_both_sides(OUTPUT.T, _tiles(y, 4, 0))
    sums = torch.einsum("nhwabc,nhwabk->abck", given, spread).flatten(2)
    return _along_both_sides(KERNEL.T, sums).reshape(-1, y.shape[3])
