"""The kernels in C against the definition in float64."""

from ctypes import byref
from functools import cache
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from engine.imageio.read import read_rgb
from engine.layers import Conv2d, ConvGeometry, kernels, parameters
from engine.layers import plain as products
from engine.layers.plain import Epilogue
from engine.models import checkpoint
from tests.bench.plain import plain_path
from tests.support.oracle import drawn
from tests.support.rounding import Case, gradient_bound, product_bound

SHIPPED = Path(__file__).parents[4] / "weights"
F32 = torch.float32
BF16 = torch.bfloat16
SAME = ConvGeometry(3, 1, 1)
NONE = pytest.param("none", marks=pytest.mark.skip("no kernels for this processor"))
VARIANTS = [*kernels.runnable()] or [NONE]


@cache
def library(variant):
    """Skips the test if the library was not built. Fails if it was built from other sources."""
    try:
        return kernels.Library(variant)
    except OSError as error:
        if "compiled from other sources" in str(error):
            raise
        pytest.skip(f"the library {variant} cannot be loaded: {error}")


def using(variant):
    """Makes the layers use this variant."""
    found = library(variant)
    return patch.object(kernels, "chosen", lambda: found)


# Geometries


few = st.integers(1, 3)
windows = st.just(SAME) | st.builds(ConvGeometry, st.integers(1, 5), few, st.integers(0, 3), few)
sides = st.integers(1, 6) | st.integers(1, 20)
# A few; near a multiple of a vector; or any number.
near_vectors = st.builds(lambda vectors, more: 16 * vectors + more, st.integers(1, 4), st.integers(-1, 1))
channels = st.integers(1, 5) | near_vectors | st.integers(1, 300)
# Limits, so that a case takes milliseconds.
MOST_WEIGHTS = 150_000
MOST_PRODUCTS = 6_000_000


@st.composite
def cases(draw):
    geometry, batch, height, width = draw(windows), draw(few), draw(sides), draw(sides)
    c_in, c_out = draw(channels), draw(channels)
    assume(min(height, width) + 2 * geometry.padding >= geometry.span)
    rows, columns = geometry.out(height, width)
    products_each = geometry.kernel_size**2 * c_in * c_out
    assume(products_each <= MOST_WEIGHTS and products_each * batch * rows * columns <= MOST_PRODUCTS)
    # The output may be smaller than full size: with output padding, an adjoint has pixels that no tap reaches.
    left_out = st.integers(0, (max(geometry.stride, geometry.dilation) - 1) // geometry.stride)
    size = (max(1, rows - draw(left_out)), max(1, columns - draw(left_out)))
    fused = draw(st.tuples(*[st.booleans()] * 4))
    return Case(geometry, batch, height, width, c_in, c_out, size, draw(st.integers(0, 5)), fused)


# Too large for one task: long rows, many tiles, many rows.
LARGE = [
    Case(SAME, 1, 3, 210, 33, 48, (3, 210), fused=(True, True, False, True)),
    Case(SAME, 2, 37, 50, 16, 17, (37, 50), fused=(False, True, True, False)),
    Case(ConvGeometry(3, 2, 1), 1, 41, 230, 12, 20, (21, 115), fused=(True, False, True, False)),
    Case(ConvGeometry(2, 2), 2, 40, 66, 32, 40, (20, 33)),
    Case(ConvGeometry(5, 1, 2, 2), 1, 40, 60, 5, 7, (36, 56), fused=(False, False, False, True)),
]


def every_kernel(test):
    """Runs a test for each variant and type, on random geometries and the large ones."""
    for case in LARGE:
        test = example(case)(test)
    test = settings(max_examples=150, deadline=None, derandomize=True)(given(cases())(test))
    test = pytest.mark.parametrize("dtype", [F32, BF16], ids=["float32", "bfloat16"])(test)
    return pytest.mark.parametrize("variant", VARIANTS)(test)


# Memory that shows reads and writes outside a tensor


MARGIN = 1 << 12  # numbers or bytes
PATTERN = 0x5A


def among_nans(tensor):
    """A contiguous copy with NaN before and after it, not aligned as torch aligns."""
    block = torch.full((2 * MARGIN + 1 + tensor.numel(),), torch.nan, dtype=tensor.dtype)
    inside = block[MARGIN + 1 : MARGIN + 1 + tensor.numel()]
    inside.copy_(tensor.flatten())
    return inside.view(tensor.shape)


class Target:
    """Memory for a result, inside a block that is filled with a pattern."""

    def __init__(self, shape, dtype):
        size = torch.Size(shape).numel() * dtype.itemsize
        self.block = torch.full((2 * MARGIN + size,), PATTERN, dtype=torch.uint8)
        self.tensor = self.block[MARGIN:-MARGIN].view(dtype).view(shape)

    def checked(self):
        """The result, after a check that nothing around it was written."""
        assert (self.block[:MARGIN] == PATTERN).all(), "a kernel wrote before the result"
        assert (self.block[-MARGIN:] == PATTERN).all(), "a kernel wrote after the result"
        return self.tensor


def address(tensor):
    return None if tensor is None else tensor.data_ptr()


# The kernels themselves


class Numbers(NamedTuple):
    """The inputs of the kernels."""

    x: torch.Tensor
    y: torch.Tensor
    weight: torch.Tensor
    epilogues: tuple[Epilogue, Epilogue]

    def ways(self):
        """For the product and its adjoint: (adjoint, input, epilogue)."""
        return (False, self.x, self.epilogues[0]), (True, self.y, self.epilogues[1])


def numbers(case, dtype):
    def some(*shape, seed, dtype=dtype):
        return among_nans(drawn(*shape, seed=seed).to(dtype))

    def signs(*shape, seed):
        """-1, 0 and 1."""
        return among_nans(drawn(*shape, seed=seed).clamp(-1, 1).round().to(dtype))

    def epilogue(shape, seed):
        bias, add, relu, mask = case.fused
        return Epilogue(
            some(shape[3], seed=seed, dtype=F32) if bias else None,
            some(*shape, seed=seed + 1) if add else None,
            relu,
            signs(*shape, seed=seed + 2) if mask else None,
        )

    weight = some(*case.weight, seed=2, dtype=F32)
    epilogues = epilogue(case.y, 3), epilogue(case.x, 6)
    return Numbers(some(*case.x, seed=0), some(*case.y, seed=1), weight, epilogues)


def pack(lib, case, adjoint, weight, dtype, **how):
    shape = case.shape(dtype, **how)
    packed = Target((lib.conv_packed_size(byref(shape), adjoint),), F32)
    given_ = (weight.data_ptr(), *weight.stride(), packed.tensor.data_ptr())
    assert lib.conv_pack(byref(shape), adjoint, *given_) == 0
    return among_nans(packed.checked())


def product(lib, case, adjoint, given_, packed, epilogue, **how):
    result = Target(case.x if adjoint else case.y, given_.dtype)
    at_store = kernels.Epilogue(*map(address, (epilogue.bias, epilogue.add, epilogue.mask)), epilogue.relu)
    addresses = (given_.data_ptr(), packed.data_ptr(), byref(at_store), result.tensor.data_ptr())
    assert lib.conv_product(byref(case.shape(given_.dtype, **how)), adjoint, *addresses) == 0
    return result.checked()


def gradient(lib, case, x, y, transposed=False, **how):
    result = Target(case.weight[::-1] if transposed else case.weight, F32)
    addresses = (x.data_ptr(), y.data_ptr(), result.tensor.data_ptr())
    assert lib.conv_weight_gradient(byref(case.shape(x.dtype, **how)), *addresses, transposed) == 0
    return result.checked()


def in_float64(epilogue):
    return Epilogue(*(part.double() if isinstance(part, torch.Tensor) else part for part in epilogue))


def as_multiplied(lib, case, weight, dtype):
    """The weight as it is multiplied, in float64: tiles round it to bfloat16."""
    tiles = lib.variant in ("amx", "avx512bf16") and dtype == BF16 and not is_winograds(lib, case, dtype)
    return (weight.to(BF16) if tiles else weight).double()


def is_winograds(lib, case, dtype):
    """Whether Winograd's algorithm is used."""
    by_amx = lib.variant == "amx" and dtype == BF16
    return case.geometry == SAME and min(case.in_channels, case.out_channels) >= 8 and not by_amx


def assert_within(result, expected, bound):
    assert result.isfinite().all(), "a number outside the input was read, or a result was not written"
    worst = ((result.double() - expected).abs() / bound).max()
    assert worst <= 1, f"the error is {worst:.3g} times the bound for rounding"


@every_kernel
def test_a_product_and_its_adjoint_are_those_of_the_definition(variant, dtype, case):
    lib, given_ = library(variant), numbers(case, dtype)
    weight, winograd = as_multiplied(lib, case, given_.weight, dtype), is_winograds(lib, case, dtype)

    for adjoint, from_, epilogue in given_.ways():
        result = product(lib, case, adjoint, from_, pack(lib, case, adjoint, given_.weight, dtype), epilogue)

        expected = case.product(adjoint, from_.double(), weight, in_float64(epilogue))
        assert_within(result, expected, product_bound(case, adjoint, from_, weight, epilogue, expected, winograd))


@every_kernel
def test_a_weights_gradient_is_that_of_the_definition(variant, dtype, case):
    lib, given_ = library(variant), numbers(case, dtype)

    result = gradient(lib, case, given_.x, given_.y)

    expected = products.gradient(given_.x.double(), given_.y.double(), case.geometry)
    assert_within(result, expected, gradient_bound(case, given_.x, given_.y, is_winograds(lib, case, dtype)))


@every_kernel
def test_a_weight_and_its_gradient_may_be_stored_by_columns(variant, dtype, case):
    lib, given_ = library(variant), numbers(case, dtype)
    by_columns = among_nans(given_.weight.T).T

    for adjoint in (False, True):
        packed = pack(lib, case, adjoint, by_columns, dtype)
        assert torch.equal(packed, pack(lib, case, adjoint, given_.weight, dtype))
    result = gradient(lib, case, given_.x, given_.y, transposed=True)
    assert torch.equal(result.T, gradient(lib, case, given_.x, given_.y))


@pytest.mark.parametrize("dtype", [F32, BF16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (7, 5), (600, 33), (20_000, 48), (513, 300)])
def test_sums_of_columns_are_those_of_the_definition(rows, columns, variant, dtype):
    lib, x = library(variant), among_nans(torch.randn(rows, columns).to(dtype))
    sums = []
    for threads in (1, 2, 5):
        result = Target((columns,), F32)
        half = dtype == BF16
        assert lib.sum_columns(rows, columns, x.data_ptr(), half, result.tensor.data_ptr(), threads) == 0
        sums.append(result.checked())

    torch.testing.assert_close(sums[0].double(), x.double().sum(0), rtol=0, atol=1e-6 * rows)
    assert torch.equal(sums[0], sums[1])
    assert torch.equal(sums[0], sums[2])


@every_kernel
def test_the_kernels_adjoint_is_that_of_their_product(variant, dtype, case):
    """<Ax, y> = <x, A'y>, within the bounds of both sides."""
    lib, given_, none = library(variant), numbers(case, dtype), Epilogue()
    weight, winograd = as_multiplied(lib, case, given_.weight, dtype), is_winograds(lib, case, dtype)
    sides_, allowed = [], 0
    for adjoint, from_, other in ((False, given_.x, given_.y), (True, given_.y, given_.x)):
        result = product(lib, case, adjoint, from_, pack(lib, case, adjoint, given_.weight, dtype), none).double()

        sides_.append((result * other.double()).sum())
        bound = product_bound(case, adjoint, from_, weight, none, result, winograd)
        allowed += (bound * other.double().abs()).sum()

    assert (sides_[0] - sides_[1]).abs() <= allowed


@pytest.mark.parametrize("variant", VARIANTS)
def test_on_drawn_numbers_errors_are_far_below_their_bounds(variant):
    case = Case(SAME, 1, 32, 32, 64, 64, (32, 32))
    lib, given_ = library(variant), numbers(case, F32)
    expected = case.product(False, given_.x.double(), given_.weight.double(), Epilogue())

    result = product(lib, case, False, given_.x, pack(lib, case, False, given_.weight, F32), Epilogue())

    assert (result - expected).norm() < 4e-6 * expected.norm()


@pytest.mark.parametrize("channels_", [1, 16])
@pytest.mark.parametrize("dtype", [F32, BF16])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_convolution_worked_by_hand(variant, dtype, channels_):
    # All channels are equal, so each result is that of one channel times their number.
    x = torch.arange(1.0, 5.0).view(1, 4, 1, 1).expand(1, 4, 1, channels_).to(dtype)
    weight = torch.zeros(9, channels_, channels_)
    weight[1::3] = torch.tensor([1.0, 2.0, 4.0]).view(3, 1, 1)
    layer = Conv2d(channels_, channels_, 3, padding=1, bias=False)
    layer.params = {"weight": weight.flatten(0, 1)}

    with using(variant):
        y, dx = layer.forward(x, train=True), layer.backward(x)

    # The middle column of the kernel meets 0 1 2 3 4 0; in the backward pass it is flipped.
    assert (y[..., 0].flatten() / channels_).tolist() == pytest.approx([10, 17, 24, 11], rel=1e-5)
    assert (dx[..., 0].flatten() / channels_).tolist() == pytest.approx([4, 11, 18, 20], rel=1e-5)
    # 1·2 + 2·3 + 3·4 with the pixel above or below, 1 + 4 + 9 + 16 with the pixel itself.
    result = layer.grads["weight"].view(9, channels_, channels_)[:, 0, 0].tolist()
    assert result == pytest.approx([0, 20, 0, 0, 30, 0, 0, 20, 0], rel=1e-5, abs=1e-4)


# What a result does not depend on


ALIKE = [
    Case(SAME, 3, 13, 18, 21, 35, (13, 18), fused=(True, True, True, True)),
    Case(SAME, 2, 9, 14, 64, 48, (9, 14)),
    Case(SAME, 2, 9, 120, 5, 19, (9, 120)),
    Case(ConvGeometry(3, 2, 1), 3, 12, 17, 18, 33, (6, 9), fused=(True, False, True, False)),
    Case(ConvGeometry(2, 2), 2, 12, 18, 32, 64, (6, 9)),
    Case(ConvGeometry(4, 3, 2, 2), 2, 17, 14, 7, 50, (5, 4)),
    Case(ConvGeometry(5, 1, 0), 2, 9, 11, 3, 8, (5, 7)),
]


def each_of_alike(test):
    test = pytest.mark.parametrize("case", ALIKE, ids=[f"case{index}" for index in range(len(ALIKE))])(test)
    test = pytest.mark.parametrize("dtype", [F32, BF16], ids=["float32", "bfloat16"])(test)
    return pytest.mark.parametrize("variant", VARIANTS)(test)


@each_of_alike
def test_a_product_does_not_depend_on_threads_or_tasks(variant, dtype, case):
    lib, given_ = library(variant), numbers(case, dtype)

    for adjoint, from_, epilogue in given_.ways():
        packed = pack(lib, case, adjoint, given_.weight, dtype, threads=1)
        result = product(lib, case, adjoint, from_, packed, epilogue, threads=1)
        for threads in (1, 2, 3, 5):
            assert torch.equal(pack(lib, case, adjoint, given_.weight, dtype, threads=threads), packed)
            for limit in range(6):
                again = product(lib, case, adjoint, from_, packed, epilogue, threads=threads, limit=limit)
                assert torch.equal(again, result), (adjoint, threads, limit)


@each_of_alike
def test_an_image_in_a_batch_is_what_it_is_alone(variant, dtype, case):
    lib, given_ = library(variant), numbers(case, dtype)
    one = case._replace(batch=1)

    for adjoint, from_, epilogue in given_.ways():
        packed = pack(lib, case, adjoint, given_.weight, dtype)
        result = product(lib, case, adjoint, from_, packed, epilogue)
        for index in range(case.batch):
            only = slice(index, index + 1)
            add, mask = (None if part is None else part[only] for part in (epilogue.add, epilogue.mask))
            alone = epilogue._replace(add=add, mask=mask)
            assert torch.equal(product(lib, one, adjoint, among_nans(from_[only]), packed, alone), result[only])


@each_of_alike
def test_a_weights_gradient_does_not_depend_on_the_threads(variant, dtype, case):
    lib, given_ = library(variant), numbers(case, dtype)

    for limit in (0, 1, 3):
        result = gradient(lib, case, given_.x, given_.y, threads=1, limit=limit)
        for threads in (2, 3, 5):
            assert torch.equal(gradient(lib, case, given_.x, given_.y, threads=threads, limit=limit), result)


# What a user sees


def noisy():
    return read_rgb(SHIPPED / "examples" / "noisy.png")[:96, :128].float().unsqueeze(0) / 255


@pytest.mark.parametrize("name", sorted(file.stem for file in SHIPPED.glob("*.safetensors")))
@pytest.mark.parametrize("variant", VARIANTS)
def test_kernels_change_an_image_by_less_than_a_tenth_of_255th(variant, name):
    net, image = checkpoint.load(SHIPPED / f"{name}.safetensors").net, noisy()
    with plain_path():
        plain = net.forward(image)

    with using(variant):
        moved = net.forward(image) - plain

    assert 0 < moved.abs().max() * 255 < 0.1


@pytest.mark.parametrize("name", ["photo", "photo-small", "paper"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_an_image_in_bfloat16_agrees_with_float32_to_50_db(variant, name):
    exact, quick = (checkpoint.load(SHIPPED / f"{name}.safetensors", compute=dtype).net for dtype in (F32, BF16))

    with using(variant):
        difference = exact.forward(noisy()) - quick.forward(noisy())

    assert difference.any()
    assert -10 * difference.square().mean().log10() >= 50


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_of_a_network_agree_with_the_plain_path(variant):
    net, image = checkpoint.load(SHIPPED / "photo-small.safetensors").net, noisy()

    def gradients():
        y = net.forward(image, train=True)
        return [net.backward(y - image), *(parameter.grad for parameter in parameters(net))]

    with plain_path():
        plain = gradients()
    with using(variant):
        result = gradients()

    for one, other in zip(result, plain, strict=True):
        assert (one - other).norm() < 1e-3 * other.norm()
