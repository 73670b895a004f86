"""Shifted GEMM against the definition, on a CPU in float64."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from engine.layers import ConvGeometry, col2im, im2col, plain, shifted_gemm
from engine.layers.plain import Epilogue
from tests.support.oracle import drawn

drawn_often = settings(max_examples=80, deadline=None, derandomize=True)
sides, channels, samples = st.integers(1, 9), st.integers(1, 5), st.integers(1, 3)
# Stride 1, no dilation.
windows = st.builds(ConvGeometry, st.integers(1, 5), st.just(1), st.integers(0, 4))


@drawn_often
@given(windows, samples, sides, sides, channels, channels)
def test_a_product_is_that_of_the_definition(geometry, n, height, width, c_in, c_out):
    assume(min(height, width) + 2 * geometry.padding >= geometry.span)
    x, weight = drawn(n, height, width, c_in), drawn(geometry.kernel_size**2 * c_in, c_out, seed=1)

    y = shifted_gemm.product(x, weight, geometry)

    assert y.is_contiguous()
    torch.testing.assert_close(y, im2col(x, geometry) @ weight)


@drawn_often
@given(windows, samples, sides, sides, channels, channels)
def test_a_gradient_is_that_of_the_definition(geometry, n, height, width, c_in, c_out):
    assume(min(height, width) + 2 * geometry.padding >= geometry.span)
    x = drawn(n, height, width, c_in)
    y = drawn(n, *geometry.out(height, width), c_out, seed=1)

    result = shifted_gemm.gradient(x, y, geometry)

    torch.testing.assert_close(result, im2col(x, geometry).flatten(0, 2).T @ y.flatten(0, 2))


@drawn_often
@given(windows, samples, sides, sides, channels, channels)
def test_with_the_flipped_kernel_it_is_the_adjoint(geometry, n, height, width, c_in, c_out):
    assume(min(height, width) + 2 * geometry.padding >= geometry.span > geometry.padding)
    weight = drawn(geometry.kernel_size**2 * c_in, c_out, seed=1)
    y = drawn(n, *geometry.out(height, width), c_out)

    x = shifted_gemm.product(y, plain.flip_kernel(weight, c_in), geometry.adjoint())

    torch.testing.assert_close(x, col2im(y @ weight.T, (n, height, width, c_in), geometry))


def test_a_product_on_a_case_worked_by_hand():
    x = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]).view(1, 2, 3, 1)
    weight = torch.tensor([[1.0], [2.0], [3.0], [4.0]])

    y = shifted_gemm.product(x, weight, ConvGeometry(2))
    result = shifted_gemm.gradient(x, torch.tensor([1.0, -1.0]).view(1, 1, 2, 1), ConvGeometry(2))

    # 1·1 + 2·2 + 4·3 + 5·4 = 37 and 2·1 + 3·2 + 5·3 + 6·4 = 47; each tap's pixels differ by 1.
    assert y.tolist() == [[[[37.0], [47.0]]]]
    assert result.flatten().tolist() == [-1.0, -1.0, -1.0, -1.0]


def test_a_transposed_weight_is_read_correctly():
    x, weight = drawn(2, 5, 6, 3), drawn(4, 27, seed=1).T

    torch.testing.assert_close(
        shifted_gemm.product(x, weight, ConvGeometry(3)), im2col(x, ConvGeometry(3)) @ weight
    )


def test_in_bfloat16_a_gradient_is_summed_in_float32():
    x, y = drawn(1, 8, 8, 4).bfloat16(), drawn(1, 8, 8, 6, seed=1).bfloat16()

    result = shifted_gemm.gradient(x, y, ConvGeometry(3, 1, 1))

    expected = im2col(x.double(), ConvGeometry(3, 1, 1)).flatten(0, 2).T @ y.double().flatten(0, 2)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.double(), expected, rtol=0.02, atol=0.2)


# When it is used


@pytest.mark.parametrize(
    ("geometry", "size", "fits"),
    [
        (ConvGeometry(3, 1, 1), (8, 9), True),
        (ConvGeometry(3), (6, 7), True),
        (ConvGeometry(3, 1, 1), (8, 8), False),
        (ConvGeometry(3, 2, 1), (4, 5), False),
        (ConvGeometry(3, 1, 2, 2), (8, 9), False),
    ],
)
def test_it_fits_a_gpu_at_stride_1_without_dilation(geometry, size, fits):
    # The device "meta" is not the CPU, and needs no GPU.
    assert shifted_gemm.fits(torch.empty(1, 8, 9, 3, device="meta"), geometry, size) is fits
    assert not shifted_gemm.fits(torch.empty(1, 8, 9, 3), geometry, size)


def everywhere(x, geometry, size):
    """Like `fits`, but on a CPU too."""
    return geometry.stride == geometry.dilation == 1 and geometry.out(x.shape[1], x.shape[2]) == size


@drawn_often
@given(windows, sides, sides, channels, channels)
def test_the_definitions_products_may_take_it(geometry, height, width, c_in, c_out):
    assume(min(height, width) + 2 * geometry.padding >= geometry.span)
    x, weight = drawn(2, height, width, c_in), drawn(geometry.kernel_size**2 * c_in, c_out, seed=1)
    out = geometry.out(height, width)
    y, add = drawn(2, *out, c_out, seed=2), drawn(2, height, width, c_in, seed=3)
    there = Epilogue(bias=drawn(c_out, seed=4), add=y, relu=True)
    back = Epilogue(add=add, mask=x)

    def three():
        return (
            plain.product(x, weight, geometry, out, there),
            plain.adjoint(y, weight, geometry, (height, width), back),
            plain.gradient(x, y, geometry),
        )

    expected = three()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shifted_gemm, "fits", everywhere)
        result = three()

    for one, other in zip(result, expected, strict=True):
        torch.testing.assert_close(one, other)
