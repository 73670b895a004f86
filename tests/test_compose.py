from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import assert_adjoint, assert_passes_agree, conv2d, conv_transpose2d, drawn, randomised

from engine.layers import (
    Compute,
    Conv2d,
    ConvTranspose2d,
    DepthToSpace,
    ReLU,
    Residual,
    Sequential,
    SpaceToDepth,
    slots,
)
from engine.networks import PaperSpec, PhotoSpec, build_network

sides, channels = st.integers(1, 6), st.integers(1, 3)
drawn_often = settings(max_examples=30, deadline=None, derandomize=True)


def _convolution(weight):
    layer = Conv2d(1, 1, 1, bias=False)
    layer.params = {"weight": torch.tensor([[weight]])}
    return layer


# Sequential, Residual


@drawn_often
@given(sides, sides, channels, channels)
def test_sequential_agrees_with_autograd(height, width, c_in, c_out):
    net = randomised(Sequential(Conv2d(c_in, c_out, 3, padding=1), ReLU(), ConvTranspose2d(c_out, 2, 2, 2)))

    def function(x, given_parameters):
        first, bias, last, last_bias = given_parameters.values()
        hidden = conv2d(x, first, bias, padding=1).relu()
        return conv_transpose2d(hidden, last, last_bias, stride=2, out_channels=2)

    assert_passes_agree(net, function, drawn(2, height, width, c_in))


@drawn_often
@given(sides, sides, channels)
def test_residual_agrees_with_autograd(height, width, c):
    net = randomised(Residual(Conv2d(c, c + 1, 3, padding=1), ReLU(), Conv2d(c + 1, c, 1)))

    def function(x, given_parameters):
        first, bias, last, last_bias = given_parameters.values()
        return x + conv2d(conv2d(x, first, bias, padding=1).relu(), last, last_bias)

    assert_passes_agree(net, function, drawn(2, height, width, c))


@pytest.mark.parametrize("kind", [Sequential, Residual])
def test_composed_backwards_are_adjoints(kind):
    inside = Conv2d(3, 5, 2, 2, bias=False), ConvTranspose2d(5, 3, 2, 2, bias=False)

    assert_adjoint(randomised(kind(*inside)), drawn(2, 6, 4, 3))


def test_residual_on_a_case_worked_by_hand():
    net = Residual(_convolution(3.0), _convolution(-2.0))

    y = net.forward(torch.tensor([5.0]).view(1, 1, 1, 1), train=True)
    dx = net.backward(torch.tensor([1.0]).view(1, 1, 1, 1))

    # x - 6x, so the slope is -5; the weights' gradients are -2 · 5 and 3 · 5.
    assert y.item() == -25.0
    assert dx.item() == -5.0
    assert [slot.grad.item() for slot in slots(net)] == [-10.0, 15.0]


def test_a_skip_is_a_residual_around_the_lower_levels():
    net = Residual(SpaceToDepth(2), Residual(_identity(4)), DepthToSpace(2))
    x = drawn(1, 4, 6, 1).float()

    torch.testing.assert_close(net.forward(x), 3 * x)


def _identity(width):
    layer = Conv2d(width, width, 1, bias=False)
    layer.params = {"weight": torch.eye(width)}
    return layer


def test_a_residual_whose_inside_changes_the_shape_is_refused():
    with pytest.raises(ValueError, match=r"must have its shape, \(1, 4, 4, 2\); got \(1, 4, 4, 3\)"):
        Residual(Conv2d(2, 3, 1)).forward(torch.zeros(1, 4, 4, 2))


@pytest.mark.parametrize("inside", [Conv2d(2, 1, 1), Conv2d(2, 2, 3)])
def test_a_residual_never_stretches_what_it_adds(inside):
    with pytest.raises(ValueError, match="what is added to x must have its shape"):
        Residual(inside).forward(torch.zeros(1, 3, 3, 2))


# Compute


def test_compute_runs_its_products_in_its_type_and_gives_back_the_inputs():
    net = Compute(torch.bfloat16, Conv2d(3, 8, 3, padding=1, rng=torch.Generator().manual_seed(0)))
    x = drawn(1, 8, 8, 3).float()

    y, dx = net.forward(x, train=True), net.backward(torch.ones(1, 8, 8, 8))

    assert net.layers[0].x.dtype == torch.bfloat16
    assert y.dtype == dx.dtype == net.layers[0].grads["weight"].dtype == torch.float32
    torch.testing.assert_close(y, net.layers[0].forward(x), rtol=0.02, atol=0.05)
    assert not torch.equal(y, net.layers[0].forward(x))


def test_compute_leaves_float64_alone():
    net = randomised(Compute(torch.bfloat16, Conv2d(3, 2, 3)))

    assert_passes_agree(net, lambda x, p: conv2d(x, *p.values()), drawn(1, 5, 5, 3))


# Names, strides, what depends on what


def test_slots_name_every_parameter_by_its_place_in_the_order_of_the_forward_pass():
    net = Sequential(Conv2d(1, 2, 1), Residual(ReLU(), Conv2d(2, 2, 1, bias=False)))

    assert [slot.name for slot in slots(net)] == ["0.weight", "0.bias", "1.1.weight"]
    assert [slot.value.shape for slot in slots(net)] == [(1, 2), (2,), (2, 2)]


@pytest.mark.parametrize(
    ("net", "stride", "factor"),
    [
        (Sequential(), 1, Fraction(1)),
        (Sequential(Conv2d(1, 1, 2, 2), Conv2d(1, 1, 3, 3)), 6, Fraction(1, 6)),
        (Sequential(Conv2d(1, 1, 2, 2), ConvTranspose2d(1, 1, 2, 2)), 2, Fraction(1)),
        (Sequential(ConvTranspose2d(1, 1, 2, 2), Conv2d(1, 1, 2, 2)), 1, Fraction(1)),
        (Sequential(SpaceToDepth(2), DepthToSpace(2), SpaceToDepth(3)), 6, Fraction(1, 3)),
        (Sequential(ConvTranspose2d(1, 1, 2, 2), SpaceToDepth(4), DepthToSpace(2)), 2, Fraction(1)),
        (
            Sequential(SpaceToDepth(2), Residual(Conv2d(4, 4, 2, 2), ConvTranspose2d(4, 4, 2, 2))),
            4,
            Fraction(1, 2),
        ),
    ],
)
def test_strides_and_factors_multiply_along_the_layers(net, stride, factor):
    assert net.stride == stride
    assert net.factor == factor


def test_an_output_of_a_residual_depends_on_its_own_input_even_where_nothing_inside_does():
    every_other = Conv2d(1, 1, 1, 2), ConvTranspose2d(1, 1, 1, 2, output_padding=1)

    assert Residual(*every_other).inputs_of(1, 1) == (1, 1)


few = st.integers(1, 3)
convolutions = st.builds(Conv2d, st.just(1), st.just(1), st.integers(1, 4), few, st.integers(0, 2), few)
transposed = st.builds(ConvTranspose2d, st.just(1), st.just(1), st.integers(1, 4), few, st.integers(0, 1))
residuals = st.builds(lambda: Residual(Conv2d(1, 1, 3, padding=1)))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(convolutions | transposed | residuals, min_size=1, max_size=3), st.integers(0, 39))
def test_inputs_of_names_every_pixel_that_an_output_depends_on(layers, changed):
    net, x = randomised(Sequential(*layers)), drawn(1, 40, 40, 1)
    before = net.forward(x)
    x[:, changed] += 1

    # Winograd's sums leave their rounding on the neighbours.
    moved = ((net.forward(x) - before).abs() > 1e-9).any(2).flatten().nonzero().flatten().tolist()

    for pixel in moved:
        first, last = net.inputs_of(pixel, pixel)
        assert first <= changed <= last


@pytest.mark.parametrize("spec", [PhotoSpec((4, 6), (1, 1, 1)), PaperSpec(4, "text"), PaperSpec(4, "weights")])
@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
def test_the_gradients_are_the_same_if_that_of_the_input_is_not_wanted(spec, compute):
    net, x = build_network(spec, torch.Generator().manual_seed(0), compute), torch.rand(1, 16, 16, 3)
    dy = net.forward(x, train=True)
    net.backward(dy)
    wanted = [slot.grad.clone() for slot in slots(net)]

    net.backward(dy, wanted=False)

    assert all(torch.equal(slot.grad, grad) for slot, grad in zip(slots(net), wanted, strict=True))


def test_a_layer_before_the_first_with_parameters_is_not_asked():
    class Unasked(ReLU):
        def backward(self, dy, finish=None, wanted=True):
            raise AssertionError("nobody wants this")

    net = Sequential(Unasked(), Conv2d(1, 1, 1), ReLU(), Conv2d(1, 1, 1))

    net.backward(net.forward(torch.ones(1, 2, 2, 1), train=True), wanted=False)

    assert all(slot.layer.grads for slot in slots(net))
