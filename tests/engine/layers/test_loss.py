import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.layers import MSE
from tests.support.oracle import drawn


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.tuples(*[st.integers(1, 5)] * 4), st.sampled_from(("none", "samples", "pixels")))
def test_mse_agrees_with_autograd(shape, weighted):
    y, target = drawn(*shape), drawn(*shape, seed=1)
    sizes = {"none": None, "samples": shape[:1], "pixels": (*shape[:3], 1)}
    size = sizes[weighted]
    weight = drawn(*size, seed=2).square() if size else None
    given_y = y.clone().requires_grad_()
    scale = 1 if weight is None else weight.view(*weight.shape, *[1] * (4 - weight.dim()))
    expected = (scale * (given_y - target) ** 2).mean()
    (gradient,) = torch.autograd.grad(expected, given_y)

    torch.testing.assert_close(MSE().forward(y, target, weight), expected.detach())
    torch.testing.assert_close(MSE().backward(y, target, weight), gradient)


def test_mse_on_a_case_worked_by_hand():
    y, target = torch.tensor([1.0, 5.0]).view(2, 1, 1, 1), torch.tensor([2.0, 2.0]).view(2, 1, 1, 1)
    weight = torch.tensor([4.0, 1.0])

    assert MSE().forward(y, target).item() == (1 + 9) / 2
    assert MSE().backward(y, target).flatten().tolist() == [-1.0, 3.0]
    assert MSE().forward(y, target, weight).item() == (4 + 9) / 2
    assert MSE().backward(y, target, weight).flatten().tolist() == [-4.0, 3.0]


def test_the_mean_of_noisy_targets_has_the_least_loss():
    targets = drawn(50, 1, 1, 1)
    at_the_mean = MSE().forward(targets.mean().expand_as(targets), targets)

    for off in (-0.1, -0.01, 0.01, 0.1):
        assert MSE().forward((targets.mean() + off).expand_as(targets), targets) > at_the_mean


@pytest.mark.parametrize("call", [MSE().forward, MSE().backward])
def test_a_target_of_another_shape_is_refused(call):
    with pytest.raises(ValueError, match=r"y's shape, \(2, 4, 4, 3\); got \(2, 4, 4, 1\)"):
        call(torch.zeros(2, 4, 4, 3), torch.zeros(2, 4, 4, 1))
