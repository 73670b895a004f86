from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.layers import (
    CastTo,
    Conv2d,
    ConvStack,
    ConvTranspose2d,
    DepthToSpace,
    PixelResidual,
    ReLU,
    ResBlock,
    Sequential,
    Skip,
    SpaceToDepth,
    kernels,
    parameters,
)
from engine.models.networks import AutoencoderConfig, UNetConfig, build_network
from tests.support.oracle import (
    PATHS,
    assert_adjoint,
    assert_passes_agree,
    conv2d,
    conv_transpose2d,
    drawn,
    randomised,
)

sides, channels = st.integers(1, 6), st.integers(1, 3)
drawn_often = settings(max_examples=30, deadline=None, derandomize=True)


def _convolution(weight):
    layer = Conv2d(1, 1, 1, bias=False)
    layer.params = {"weight": torch.tensor([[weight]])}
    return layer


def _pixel(value):
    return torch.tensor([value]).view(1, 1, 1, 1)


def assert_derivative(net, x):
    """<Ju, v> = <u, J'v> for layers that are linear near x: Ju is then the difference of two forward passes."""
    u, step = drawn(*x.shape, seed=3), 1e-6
    ju = (net.forward(x + step * u) - net.forward(x, train=True)) / step
    v = drawn(*ju.shape, seed=4)

    torch.testing.assert_close((ju * v).sum(), (u * net.backward(v)).sum(), rtol=1e-6, atol=1e-6)


# Sequential


@drawn_often
@given(sides, sides, channels, channels)
def test_sequential_agrees_with_autograd(height, width, c_in, c_out):
    net = randomised(Sequential(Conv2d(c_in, c_out, 3, padding=1), ReLU(), ConvTranspose2d(c_out, 2, 2, 2)))

    def function(x, given_parameters):
        first, bias, last, last_bias = given_parameters.values()
        hidden = conv2d(x, first, bias, padding=1).relu()
        return conv_transpose2d(hidden, last, last_bias, stride=2, out_channels=2)

    assert_passes_agree(net, function, drawn(2, height, width, c_in))


def test_the_backward_of_sequential_is_its_adjoint():
    net = Sequential(Conv2d(3, 5, 2, 2, bias=False), ConvTranspose2d(5, 3, 2, 2, bias=False))

    assert_adjoint(randomised(net), drawn(2, 6, 4, 3))


def test_sequential_on_a_case_worked_by_hand():
    net = Sequential(_convolution(3.0), _convolution(-2.0))

    y, dx = net.forward(_pixel(5.0), train=True), net.backward(_pixel(1.0))

    assert (y.item(), dx.item()) == (-30.0, -6.0)
    assert [parameter.grad.item() for parameter in parameters(net)] == [-10.0, 15.0]


# ConvStack


@drawn_often
@given(sides, sides, channels, channels)
def test_rectified_agrees_with_autograd(height, width, c_in, c_out):
    net = randomised(
        ConvStack(Conv2d(c_in, c_out, 3, padding=1), Conv2d(c_out, 2, 1), ConvTranspose2d(2, 3, 2, 2))
    )

    def function(x, given_parameters):
        first, bias, middle, middle_bias, last, last_bias = given_parameters.values()
        hidden = conv2d(conv2d(x, first, bias, padding=1).relu(), middle, middle_bias).relu()
        return conv_transpose2d(hidden, last, last_bias, stride=2, out_channels=3)

    assert_passes_agree(net, function, drawn(2, height, width, c_in))


def test_the_backward_of_rectified_is_the_adjoint_of_its_derivative():
    assert_derivative(randomised(ConvStack(Conv2d(3, 5, 3), Conv2d(5, 2, 1))), drawn(2, 6, 4, 3))


def test_rectified_on_a_case_worked_by_hand():
    net = ConvStack(_convolution(3.0), _convolution(-2.0), _convolution(4.0))

    rising = net.forward(_pixel(-5.0), train=True), net.backward(_pixel(1.0))
    gradients = [parameter.grad.item() for parameter in parameters(net)]
    falling = net.forward(_pixel(5.0), train=True), net.backward(_pixel(1.0))

    # -15 becomes 0 at the first ReLU; 15 becomes -30, and 0 at the second. Nothing gets through.
    assert (*rising, *falling) == (0, 0, 0, 0)
    assert gradients == [0, 0, 0]
    assert ConvStack(_convolution(3.0), _convolution(2.0)).forward(_pixel(5.0)).item() == 30.0


def test_rectified_has_the_layers_of_the_sequence_that_it_computes():
    convolutions = Conv2d(3, 4, 3), Conv2d(4, 4, 3), Conv2d(4, 2, 1)
    net, x = ConvStack(*convolutions), drawn(1, 9, 9, 3).float()

    assert [type(layer) for layer in net.layers] == [Conv2d, ReLU, Conv2d, ReLU, Conv2d]
    torch.testing.assert_close(net.forward(x), Sequential(*net.layers).forward(x))


def test_rectified_adds_what_it_is_given_to_its_result_and_to_its_gradient():
    net, x = randomised(ConvStack(Conv2d(2, 3, 1), Conv2d(3, 2, 1))), drawn(1, 4, 5, 2)
    add = drawn(1, 4, 5, 2, seed=5)
    y, dx = net.forward(x, train=True), net.backward(x)

    torch.testing.assert_close(net.forward(x, train=True, add=add), y + add)
    torch.testing.assert_close(net.backward(x, add=add), dx + add)


# ResBlock


@drawn_often
@given(sides, sides, channels)
def test_a_residual_block_agrees_with_autograd(height, width, c):
    net = randomised(ResBlock(Conv2d(c, c + 1, 3, padding=1), Conv2d(c + 1, c, 1)))

    def function(x, given_parameters):
        first, bias, last, last_bias = given_parameters.values()
        return x + conv2d(conv2d(x, first, bias, padding=1).relu(), last, last_bias)

    assert_passes_agree(net, function, drawn(2, height, width, c))


def test_the_backward_of_a_residual_block_is_the_adjoint_of_its_derivative():
    block = ResBlock(Conv2d(3, 3, 3, padding=1), Conv2d(3, 3, 3, padding=1))

    assert_derivative(randomised(block), drawn(2, 6, 4, 3))


def test_a_residual_block_on_a_case_worked_by_hand():
    net = ResBlock(_convolution(3.0), _convolution(-2.0))

    y, dx = net.forward(_pixel(5.0), train=True), net.backward(_pixel(1.0))
    gradients = [parameter.grad.item() for parameter in parameters(net)]

    # x - 6x for a positive x, so the slope is -5; the weights' gradients are -2 · 5 and 3 · 5. Else x alone.
    assert (y.item(), dx.item()) == (-25.0, -5.0)
    assert gradients == [-10.0, 15.0]
    assert (net.forward(_pixel(-5.0), train=True).item(), net.backward(_pixel(1.0)).item()) == (-5.0, 1.0)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("last", [Conv2d(3, 2, 1), Conv2d(3, 1, 3)])
def test_a_residual_block_never_stretches_what_it_adds(last, path):
    with path(), pytest.raises(ValueError, match=r"add must be contiguous .*; got \(1, 3, 3, 1\)"):
        ResBlock(Conv2d(1, 3, 1), last).forward(torch.zeros(1, 3, 3, 1))


# Skip


def _skip(c):
    """A level that looks at pixels in pairs, with a block inside."""
    inside = [ResBlock(Conv2d(c + 1, c + 1, 1), Conv2d(c + 1, c + 1, 1))]
    return Skip(Conv2d(c, c + 1, 2, 2), inside, ConvTranspose2d(c + 1, c, 2, 2))


@drawn_often
@given(st.integers(1, 3), st.integers(1, 3), channels)
def test_a_skip_agrees_with_autograd(rows, columns, c):
    def function(x, given_parameters):
        down, down_bias, first, first_bias, second, second_bias, up, up_bias = given_parameters.values()
        low = conv2d(x, down, down_bias, stride=2)
        low = low + conv2d(conv2d(low, first, first_bias).relu(), second, second_bias)
        return x + conv_transpose2d(low, up, up_bias, stride=2, out_channels=c)

    assert_passes_agree(randomised(_skip(c)), function, drawn(2, 2 * rows, 2 * columns, c))


def test_the_backward_of_a_skip_is_its_adjoint():
    net = Skip(
        Conv2d(3, 5, 2, 2, bias=False), [Conv2d(5, 5, 1, bias=False)], ConvTranspose2d(5, 3, 2, 2, bias=False)
    )

    assert_adjoint(randomised(net), drawn(2, 6, 4, 3))


def test_a_skip_on_a_case_worked_by_hand():
    net = Skip(_convolution(3.0), [_convolution(-1.0)], _convolution(-2.0))

    y, dx = net.forward(_pixel(5.0), train=True), net.backward(_pixel(1.0))

    # x + 6x; the weights' gradients are 2 · 5, -2 · 15 and -15.
    assert (y.item(), dx.item()) == (35.0, 7.0)
    assert [parameter.grad.item() for parameter in parameters(net)] == [10.0, -30.0, -15.0]


@pytest.mark.parametrize("path", PATHS)
def test_a_skip_refuses_sides_that_its_stride_does_not_divide(path):
    with path(), pytest.raises(ValueError, match=r"add must be contiguous \(1, 4, 4, 2\) .*; got \(1, 5, 4, 2\)"):
        _skip(2).forward(torch.zeros(1, 5, 4, 2))


# PixelResidual


def _by_colour(x, block):
    """Pixels to channels, block by block, written with views alone."""
    n, height, width, c = x.shape
    return x.unflatten(1, (-1, block)).unflatten(3, (-1, block)).transpose(2, 3).reshape(
        n, height // block, width // block, block**2 * c
    )  # fmt: skip


def _back(y, block):
    n, height, width, c = y.shape
    return y.unflatten(3, (block, block, -1)).transpose(2, 3).reshape(
        n, height * block, width * block, c // block**2
    )  # fmt: skip


@drawn_often
@given(st.integers(1, 3), st.integers(1, 3), channels, st.integers(1, 3))
def test_a_pixel_residual_agrees_with_autograd(rows, columns, c, block):
    wide = c * block**2
    net = PixelResidual(c, block, torch.float32, Conv2d(wide, 4, 3, padding=1), ReLU(), Conv2d(4, wide, 1))

    def function(x, given_parameters):
        first, bias, last, last_bias = given_parameters.values()
        hidden = conv2d(_by_colour(x, block), first, bias, padding=1).relu()
        return x + _back(conv2d(hidden, last, last_bias), block)

    assert_passes_agree(randomised(net), function, drawn(2, block * rows, block * columns, c))


def test_the_backward_of_a_pixel_residual_is_its_adjoint():
    net = PixelResidual(3, 2, torch.float32, Conv2d(12, 12, 3, padding=1, bias=False))

    assert_adjoint(randomised(net), drawn(2, 6, 4, 3))


def test_a_pixel_residual_on_a_case_worked_by_hand():
    # Each pixel takes the next one of its block in reading order, the last one takes the first.
    shift = Conv2d(4, 4, 1, bias=False)
    shift.params = {"weight": torch.eye(4).roll(-1, 1)}
    net = PixelResidual(1, 2, torch.float32, shift)
    x = torch.tensor([[1.0, 2.0], [30.0, 400.0]]).view(1, 2, 2, 1)

    y, dx = net.forward(x, train=True), net.backward(x)

    assert y.flatten().tolist() == [3.0, 32.0, 430.0, 401.0]
    assert dx.flatten().tolist() == [401.0, 3.0, 32.0, 430.0]


@pytest.mark.parametrize("path", PATHS)
def test_a_pixel_residual_computes_in_its_type_and_adds_in_that_of_the_image(path):
    inside = Conv2d(12, 12, 3, padding=1, rng=torch.Generator().manual_seed(0))
    # Numbers that bfloat16 has no place for: rounded they would be 1.
    x = torch.full((1, 4, 4, 3), 1 + 2**-12)
    with path():
        net = PixelResidual(3, 2, torch.bfloat16, inside)

        y, dx = net.forward(x, train=True), net.backward(x)
        assert inside.x.dtype == torch.bfloat16
        assert y.dtype == dx.dtype == inside.grads["weight"].dtype == torch.float32
        inside.params["weight"].zero_()
        assert torch.equal(net.forward(x), x)


@pytest.mark.parametrize("path", PATHS)
def test_a_pixel_residual_refuses_sides_that_its_block_does_not_divide(path):
    net = PixelResidual(3, 2, torch.float32, Conv2d(12, 12, 1))

    with path(), pytest.raises(ValueError, match="both sides must be multiples of 2; got 5 x 4 pixels"):
        net.forward(torch.zeros(1, 5, 4, 3))


# Compute


def test_compute_runs_its_products_in_its_type_and_gives_back_the_inputs():
    layer = Conv2d(3, 8, 3, padding=1, rng=torch.Generator().manual_seed(0))
    net, x = CastTo(torch.bfloat16, Sequential(layer)), drawn(1, 8, 8, 3).float()

    y, dx = net.forward(x, train=True), net.backward(torch.ones(1, 8, 8, 8))

    assert layer.x.dtype == torch.bfloat16
    assert y.dtype == dx.dtype == layer.grads["weight"].dtype == torch.float32
    torch.testing.assert_close(y, layer.forward(x), rtol=0.02, atol=0.05)
    assert not torch.equal(y, layer.forward(x))


def test_compute_leaves_float64_alone():
    net = randomised(CastTo(torch.bfloat16, Sequential(Conv2d(3, 2, 3))))

    assert_passes_agree(net, lambda x, p: conv2d(x, *p.values()), drawn(1, 5, 5, 3))


def test_compute_has_the_names_and_the_form_of_what_is_inside():
    inside = ConvStack(Conv2d(1, 2, 2, 2), Conv2d(2, 2, 1))
    net = CastTo(torch.bfloat16, inside)

    assert [p.name for p in parameters(net)] == [parameter.name for parameter in parameters(inside)]
    assert (net.stride, net.factor, net.inputs_of(3, 4)) == (2, Fraction(1, 2), (6, 9))


# Names, strides, what depends on what


def test_slots_name_every_parameter_by_its_place_in_the_order_of_the_forward_pass():
    block = ResBlock(Conv2d(2, 2, 1), Conv2d(2, 2, 1, bias=False))
    net = Sequential(Conv2d(1, 2, 1), Skip(Conv2d(2, 2, 1, bias=False), [block], ConvTranspose2d(2, 2, 1)))

    names = [
        "0.weight",
        "0.bias",
        "1.0.weight",
        "1.1.0.weight",
        "1.1.0.bias",
        "1.1.2.weight",
        "1.2.weight",
        "1.2.bias",
    ]
    assert [p.name for p in parameters(net)] == names
    assert [p.value.shape for p in parameters(net)] == [
        (1, 2),
        (2,),
        (2, 2),
        (2, 2),
        (2,),
        (2, 2),
        (2, 2),
        (2,),
    ]


def test_slots_of_a_pixel_residual_count_the_rearrangements():
    net = PixelResidual(1, 2, torch.float32, Conv2d(4, 4, 1, bias=False), Conv2d(4, 4, 1, bias=False))

    assert [p.name for p in parameters(net)] == ["0.1.weight", "0.2.weight"]


@pytest.mark.parametrize(
    ("net", "stride", "factor"),
    [
        (Sequential(), 1, Fraction(1)),
        (Sequential(Conv2d(1, 1, 2, 2), Conv2d(1, 1, 3, 3)), 6, Fraction(1, 6)),
        (Sequential(Conv2d(1, 1, 2, 2), ConvTranspose2d(1, 1, 2, 2)), 2, Fraction(1)),
        (Sequential(ConvTranspose2d(1, 1, 2, 2), Conv2d(1, 1, 2, 2)), 1, Fraction(1)),
        (Sequential(SpaceToDepth(2), DepthToSpace(2), SpaceToDepth(3)), 6, Fraction(1, 3)),
        (Sequential(ConvTranspose2d(1, 1, 2, 2), SpaceToDepth(4), DepthToSpace(2)), 2, Fraction(1)),
        (ConvStack(Conv2d(1, 1, 2, 2), Conv2d(1, 1, 3, 2)), 4, Fraction(1, 4)),
        (_skip(1), 2, Fraction(1)),
        (Sequential(SpaceToDepth(2), _skip(4)), 4, Fraction(1, 2)),
        (PixelResidual(1, 2, torch.float32, _skip(4)), 4, Fraction(1)),
    ],
)
def test_strides_and_factors_multiply_along_the_layers(net, stride, factor):
    assert net.stride == stride
    assert net.factor == factor


def test_an_output_of_a_sum_depends_on_its_own_input_even_where_nothing_inside_does():
    every_other = Conv2d(1, 1, 1, 2), ConvTranspose2d(1, 1, 1, 2, output_padding=1)

    assert Skip(every_other[0], [], every_other[1]).inputs_of(1, 1) == (1, 1)


few = st.integers(1, 3)
convolutions = st.builds(Conv2d, st.just(1), st.just(1), st.integers(1, 4), few, st.integers(0, 2), few)
transposed = st.builds(ConvTranspose2d, st.just(1), st.just(1), st.integers(1, 4), few, st.integers(0, 1))
blocks = st.builds(lambda: ResBlock(Conv2d(1, 1, 3, padding=1), Conv2d(1, 1, 3, padding=1)))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(convolutions | transposed | blocks, min_size=1, max_size=3), st.integers(0, 39))
def test_inputs_of_names_every_pixel_that_an_output_depends_on(layers, changed):
    net, x = randomised(Sequential(*layers)), drawn(1, 40, 40, 1)
    before = net.forward(x)
    x[:, changed] += 1

    moved = (net.forward(x) != before).any(2).flatten().nonzero().flatten().tolist()

    for pixel in moved:
        first, last = net.inputs_of(pixel, pixel)
        assert first <= changed <= last


# Memory


@pytest.mark.parametrize("path", PATHS)
def test_memory_counts_what_a_forward_pass_holds_at_once(path):
    block = ResBlock(Conv2d(8, 8, 3, padding=1), Conv2d(8, 8, 3, padding=1))
    with path():
        inside = block.first.memory(Fraction(1), 4)

        # A convolution has its input and its output; the plain path pads and unfolds the input as well.
        assert inside == 4 * (8 + 8 + (0 if kernels.chosen() else 8 + 9 * 8))
        # A block's result takes the place of its input; on the plain path it lies beside it.
        assert block.memory(Fraction(1), 4) == inside + (0 if kernels.chosen() else 4 * 8)
        # In half the type, at half the sides.
        assert block.memory(Fraction(1, 2), 2) == block.memory(Fraction(1), 4) / 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_of_a_pixel_residual_has_the_image_and_what_is_made_of_it(dtype):
    net = PixelResidual(3, 2, dtype, Conv2d(12, 12, 1))
    # At a quarter of the pixels: input, output and, on the plain path, the input unfolded.
    inside = (2 if kernels.chosen() else 3) * 12 * dtype.itemsize / 4

    # The image in float32; and either what is inside, or what comes out of it and the result.
    assert net.memory(Fraction(1), 4) == 3 * 4 + max(inside, 3 * dtype.itemsize + 3 * 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "layer",
    [
        ResBlock(Conv2d(16, 16, 3, padding=1), Conv2d(16, 16, 3, padding=1)),
        Skip(Conv2d(16, 24, 2, 2), [], ConvTranspose2d(24, 16, 2, 2)),
    ],
    ids=["block", "skip"],
)
def test_a_sum_takes_the_place_of_what_came_unless_it_is_needed_for_training(layer, dtype):
    given_, x = (drawn(2, 12, 10, 16).to(dtype) for _ in range(2))

    wanted = layer.forward(x, train=True)
    assert torch.equal(x, given_)

    made = layer.forward(x)
    assert torch.equal(made, wanted)
    assert (made.data_ptr() == x.data_ptr()) == (kernels.chosen() is not None)


@pytest.mark.parametrize("spec", [AutoencoderConfig(8), UNetConfig((8, 16), (1, 1, 1))])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_network_leaves_what_it_is_given_as_it_is(spec, dtype):
    net, x = build_network(spec, compute=dtype), drawn(1, 32, 32, 3).float()
    before = x.clone()

    net.forward(x)

    assert torch.equal(x, before)


def test_a_layer_that_adds_what_it_is_given_does_not_write_over_it_meanwhile():
    layer, x = Conv2d(16, 16, 3, padding=1), drawn(1, 20, 20, 16).float()
    wanted = layer.forward(x, train=True, add=x)

    assert torch.equal(layer.forward(x, add=x), wanted)
    assert torch.equal(layer.forward(x, add=x[:]), wanted)
