import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from engine.layers import ReLU, Sigmoid
from tests.support.oracle import assert_passes_agree, drawn

shapes = st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6), st.integers(1, 4))


@pytest.mark.parametrize(("layer_type", "function"), [(ReLU, functional.relu), (Sigmoid, functional.sigmoid)])
@settings(max_examples=30, deadline=None, derandomize=True)
@given(shapes, st.sampled_from([0.01, 1.0, 30.0]))
def test_an_activation_agrees_with_autograd(layer_type, function, shape, scale):
    assert_passes_agree(layer_type(), lambda x, _: function(x), scale * drawn(*shape))


def test_relu_on_a_case_worked_by_hand():
    layer = ReLU()

    y = layer.forward(torch.tensor([[-2.0, 0.0, 3.0]]), train=True)

    assert y.tolist() == [[0.0, 0.0, 3.0]]
    assert layer.backward(torch.tensor([[5.0, 6.0, 7.0]])).tolist() == [[0.0, 0.0, 7.0]]


def test_sigmoid_on_a_case_worked_by_hand():
    layer = Sigmoid()

    # At ln 4 it is 1 / (1 + 1/4) = 0.8, and its slope there 0.8 · 0.2.
    y = layer.forward(torch.tensor([1.0, 4.0]).log(), train=True)

    torch.testing.assert_close(y, torch.tensor([0.5, 0.8]))
    torch.testing.assert_close(layer.backward(torch.tensor([8.0, 100.0])), torch.tensor([2.0, 16.0]))


def test_sigmoid_stays_finite_far_from_zero():
    y = Sigmoid().forward(torch.tensor([-1e4, 1e4]))

    assert y.tolist() == [0.0, 1.0]


@pytest.mark.parametrize("layer_type", [ReLU, Sigmoid])
def test_backward_is_its_own_adjoint(layer_type):
    layer = layer_type()
    x, u, v = (drawn(2, 3, 4, 2, seed=seed) for seed in range(3))

    layer.forward(x, train=True)

    torch.testing.assert_close((layer.backward(u) * v).sum(), (u * layer.backward(v)).sum())


@pytest.mark.parametrize("layer_type", [ReLU, Sigmoid])
def test_forward_changes_and_keeps_nothing_unless_training(layer_type):
    layer, x = layer_type(), drawn(1, 2, 3, 4)
    before, kept = x.clone(), set(vars(layer))

    layer.forward(x)

    assert torch.equal(x, before)
    assert set(vars(layer)) == kept
