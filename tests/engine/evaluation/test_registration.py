"""Registration: a shift that is known is found, and moving by it is undone by moving back."""

import math

import pytest
import torch

from engine.evaluation.registration import LARGEST_SHIFT, estimate_shift, move

SIDE = 96


def scene(rows=0.0, columns=0.0):
    """Waves of several directions, moved down by `rows` pixels and right by `columns`."""
    y = torch.arange(SIDE, dtype=torch.float64).view(-1, 1, 1) - rows
    x = torch.arange(SIDE, dtype=torch.float64).view(1, -1, 1) - columns
    colour = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    waves = torch.sin(0.31 * y + colour) + torch.sin(0.23 * x - colour) + torch.sin(0.17 * (x + y) + 2 * colour)
    return (0.5 + 0.1 * waves).float()


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.25, -0.4), (-1.3, 0.7), (3.0, -2.0)])
def test_a_known_shift_is_found_in_noise(shift, rng):
    noisy = scene(*shift) + 0.02 * torch.randn(SIDE, SIDE, 3, generator=rng)

    found = estimate_shift(noisy, scene())

    assert found == pytest.approx(shift, abs=0.04)


@pytest.mark.parametrize("shift", [(0.25, -0.4), (-1.3, 0.7), (2.0, -3.0)])
def test_an_image_is_moved_to_where_the_scene_is_then(shift):
    inside = slice(12, -12)

    moved = move(scene(), *shift)

    torch.testing.assert_close(moved[inside, inside], scene(*shift)[inside, inside], atol=2e-3, rtol=0)


def test_whole_pixels_are_moved_as_they_are():
    image = scene()

    moved = move(image, 2, -3)

    torch.testing.assert_close(moved[2:, :-3], image[:-2, 3:], atol=1e-6, rtol=0)


def test_what_is_moved_and_moved_back_is_what_it_was():
    inside = slice(16, -16)

    back = move(move(scene(), 0.3, -0.6), -0.3, 0.6)

    torch.testing.assert_close(back[inside, inside], scene()[inside, inside], atol=1e-3, rtol=0)


def test_the_borders_are_mirrored():
    ramp = torch.arange(8.0).view(8, 1, 1).expand(8, 8, 1)

    assert move(ramp, 1, 0)[:, 0, 0].tolist() == pytest.approx([0, 0, 1, 2, 3, 4, 5, 6], abs=1e-5)


def test_a_scene_that_tells_nothing_is_not_moved(rng):
    flat = torch.full((SIDE, SIDE, 3), 0.5)
    stripes = torch.sin(0.3 * torch.arange(SIDE)).view(-1, 1, 1).expand(SIDE, SIDE, 3)

    assert estimate_shift(flat + 0.1 * torch.randn(SIDE, SIDE, 3, generator=rng), flat) == (0.0, 0.0)
    assert estimate_shift(stripes, stripes) == (0.0, 0.0)


def test_another_scene_is_not_moved_far(rng):
    other = torch.rand(SIDE, SIDE, 3, generator=rng)

    assert max(map(abs, estimate_shift(other, scene()))) <= LARGEST_SHIFT
    assert all(map(math.isfinite, estimate_shift(other, scene())))
