"""Registration: a shift that is known is found, and moving by it is undone by moving back."""

import csv

import pytest
import torch

from engine.data.dead_leaves import dead_leaves
from engine.data.registration import measure_shift, move
from engine.imageio.read import read_rgb
from tests.support.noise import DATA, needs_polyu

SIDE = 96


def scene(rows=0.0, columns=0.0):
    """Waves of several directions, moved down by `rows` pixels and right by `columns`."""
    y = torch.arange(SIDE, dtype=torch.float64).view(-1, 1, 1) - rows
    x = torch.arange(SIDE, dtype=torch.float64).view(1, -1, 1) - columns
    colour = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    waves = torch.sin(0.31 * y + colour) + torch.sin(0.23 * x - colour) + torch.sin(0.17 * (x + y) + 2 * colour)
    return (0.5 + 0.1 * waves).float()


def leaves(side):
    """Grey (side, side, 1) on [0, 1], with the sharpness of photographs."""
    drawn = dead_leaves(side, side, torch.Generator().manual_seed(5)).float().mean(2, keepdim=True) / 255
    return (drawn + drawn.roll(1, 0) + drawn.roll(1, 1) + drawn.roll((1, 1), (0, 1))) / 4


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.25, -0.4), (-1.3, 0.7), (3.0, -2.0)])
def test_a_known_shift_is_found_in_noise(shift, rng):
    noisy = scene(*shift) + 0.02 * torch.randn(SIDE, SIDE, 3, generator=rng)

    found = measure_shift(noisy, scene())

    assert (found.rows, found.columns) == pytest.approx(shift, abs=0.04)


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

    assert measure_shift(flat + 0.1 * torch.randn(SIDE, SIDE, 3, generator=rng), flat) is None
    assert measure_shift(stripes, stripes) is None


def test_noise_alone_tells_no_shift(rng):
    noise = [torch.randn(SIDE, SIDE, 3, generator=rng) for _ in range(2)]

    assert measure_shift(*noise) is None


@pytest.mark.parametrize("sigma", [5, 25, 60])
def test_a_tenth_of_a_pixel_is_found_between_two_noisy_shots(sigma, rng):
    # At 60, the least error that is possible with 256 x 256 pixels is 0.05.
    clean = 255 * leaves(512)
    shots = [view + sigma * torch.randn(view.shape, generator=rng) for view in (move(clean, 0.1, 0), clean)]

    found = measure_shift(*shots)

    assert found.error < 0.035
    assert (found.rows, found.columns) == pytest.approx((0.1, 0), abs=4 * found.error)


@pytest.mark.parametrize("shift", [(40, 0), (-23, 31), (3, -2)])
def test_shots_far_apart_in_strong_noise_are_found(shift, rng):
    wide = 255 * leaves(336)
    down, right = shift
    views = wide[40 - down : 296 - down, 40 - right : 296 - right], wide[40:296, 40:296]
    shots = [view + 60 * torch.randn(view.shape, generator=rng) for view in views]

    found = measure_shift(*shots)

    assert (found.rows, found.columns) == pytest.approx(shift, abs=0.2)


def test_the_error_is_as_large_as_estimates_scatter(rng):
    clean = 255 * leaves(128)
    shots = [[clean + 25 * torch.randn(clean.shape, generator=rng) for _ in range(2)] for _ in range(40)]

    found = [measure_shift(*pair) for pair in shots]
    deviations = torch.tensor([each.rows / each.row_error for each in found])

    assert 0.7 < float(deviations.square().mean().sqrt()) < 1.35


def test_shots_of_different_brightness_are_registered(rng):
    clean = 255 * leaves(128)
    other = 0.4 * move(clean, 0.3, -0.2) + 30 + torch.randn(clean.shape, generator=rng)

    found = measure_shift(other, clean)

    assert (found.rows, found.columns) == pytest.approx((0.3, -0.2), abs=0.03)


@needs_polyu
def test_the_shifts_of_recorded_images_are_those_measured_before():
    with (DATA / "polyu" / "SHIFTS.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))[5:100:19]
    for row in rows:
        file = DATA / "polyu" / row["file"]
        shot, mean = (read_rgb(each).float() / 255 for each in (file, file.with_stem(file.stem[:-4] + "mean")))

        found = measure_shift(shot, mean)

        # The table has how far the shot lies from the mean, so the signs differ.
        allowed = max(4 * found.error, 4 * float(row["error"]), 0.03)
        assert (-found.rows, -found.columns) == pytest.approx(
            (float(row["rows"]), float(row["columns"])), abs=allowed
        )
