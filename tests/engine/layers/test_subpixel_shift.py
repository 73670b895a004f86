import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.layers import SubpixelShift
from engine.layers.subpixel_shift import REACH
from tests.support.oracle import drawn

shapes = st.tuples(st.integers(1, 3), st.integers(1, 12), st.integers(1, 12), st.integers(1, 3))


def shift_of(count, seed=7):
    return torch.rand(count, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 0.5


@settings(max_examples=60, deadline=None, derandomize=True)
@given(shapes)
def test_backward_agrees_with_autograd(shape):
    x, dy, shift = drawn(*shape), drawn(*shape, seed=1), shift_of(shape[0])
    given_x = x.clone().requires_grad_()
    y = SubpixelShift().forward(given_x, shift)
    (gradient,) = torch.autograd.grad(y, given_x, dy)

    torch.testing.assert_close(SubpixelShift().backward(dy, shift), gradient)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(shapes)
def test_backward_is_the_adjoint_of_forward(shape):
    x, dy, shift = drawn(*shape), drawn(*shape, seed=1), shift_of(shape[0])

    forward = (SubpixelShift().forward(x, shift) * dy).sum()
    backward = (x * SubpixelShift().backward(dy, shift)).sum()

    torch.testing.assert_close(forward, backward)


def test_half_a_pixel_on_a_case_worked_by_hand():
    x = torch.zeros(1, 1, 12, 1, dtype=torch.float64)
    x[0, 0, 5] = 1
    y = SubpixelShift().forward(x, torch.tensor([[0.0, 0.5]], dtype=torch.float64))

    # The four nearest pixels of nine: (d + 4)(d + 3)...(d - 4) at d = 1/2, without one factor, over that at k.
    product = 4.5 * 3.5 * 2.5 * 1.5 * 0.5 * 0.5 * 1.5 * 2.5 * 3.5
    at_0, at_1 = product / 0.5 / 576, product / 0.5 / 720
    at_minus_1, at_2 = -product / 1.5 / 720, -product / 1.5 / 1440
    assert y[0, 0, 4:8, 0].tolist() == pytest.approx([at_minus_1, at_0, at_1, at_2])
    assert float(y.sum()) == pytest.approx(1)


def test_no_shift_changes_nothing():
    x = drawn(2, 9, 7, 3)

    torch.testing.assert_close(SubpixelShift().forward(x, torch.zeros(2, 2)), x, rtol=0, atol=1e-7)


@pytest.mark.parametrize("period", [4, 8, 60])
def test_a_wave_moves_down_and_right(period):
    rows, columns = torch.arange(48.0).double().view(-1, 1), torch.arange(40.0).double()

    def wave(down, right):
        angle = 2 * torch.pi / period
        return (torch.sin(angle * (rows - down)) * torch.cos(angle * (columns - right))).unsqueeze(2)

    y = SubpixelShift().forward(wave(0, 0).unsqueeze(0), torch.tensor([[0.3, -0.45]]))[0]

    inside = (slice(REACH, -REACH), slice(REACH, -REACH))
    assert (y - wave(0.3, -0.45))[inside].abs().max() < (0.03 if period == 4 else 1e-4)


def test_a_shift_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"shape \(2, 2\); got \(2,\)"):
        SubpixelShift().forward(torch.zeros(2, 4, 4, 1), torch.zeros(2))
