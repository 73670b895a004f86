"""Rendering for the eye: distribution, reduction, black and white points."""

import numpy as np
import pytest
import torch

from engine.imageio.image import Image
from service.runtime.rendering import BINS, beside, crop, distribution_of, reduce, to_8_bits


def image_of(samples, alpha=None, stored=""):
    samples = torch.from_numpy(np.asarray(samples))
    samples = samples if samples.dim() == 3 else samples.unsqueeze(2)
    return Image(samples, None if alpha is None else torch.from_numpy(alpha), stored=stored)


def ramp(low, high, dtype, shape=(100, 200)):
    return np.linspace(low, high, shape[0] * shape[1]).reshape(shape).astype(dtype)


def test_points_of_a_dark_image_leave_out_its_tails():
    values = ramp(400, 2400, np.uint16)
    values[0, 0] = 65535

    found = distribution_of(image_of(values))

    assert found.range == (400, 65535)
    assert (found.black, found.white) == (pytest.approx(402, abs=2), pytest.approx(2398, abs=2))
    # A hot pixel does not squeeze the histogram.
    assert found.ends[0] == 400
    assert found.ends[1] < 3000
    assert len(found.counts) == BINS
    assert sum(found.counts) == values.size - 1


@pytest.mark.parametrize(
    ("values", "white"),
    [
        (ramp(0, 40, np.uint8), 255),
        (ramp(0, 60_000, np.uint16), 65535),
        (ramp(0.01, 0.9, np.float32), 1),
    ],
)
def test_an_image_made_for_a_screen_is_shown_as_it_is(values, white):
    found = distribution_of(image_of(values))

    assert (found.black, found.white) == (0, white)


@pytest.mark.parametrize(
    ("values", "stored"),
    [(ramp(-1, 1, np.float32), ""), (ramp(0, 1.5, np.float32), ""), (ramp(-900, 900, np.float32), "int16")],
)
def test_values_beyond_black_and_white_are_shown(values, stored):
    found = distribution_of(image_of(values, stored=stored))

    expected = float(values.min()), float(values.max())
    assert (found.black, found.white) == pytest.approx(expected, abs=0.01 * float(np.ptp(values)))


def test_an_even_image_has_points_apart():
    found = distribution_of(image_of(np.full((9, 9), 7, np.uint16)))

    assert found.black < 7 < found.white


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_reduced_image_has_the_means_of_blocks(dtype):
    values = np.random.default_rng(0).integers(0, 250, (150, 201, 3)).astype(dtype)

    small = reduce(image_of(values), 2).samples.numpy()

    assert small.shape == (75, 101, 3)
    assert small.dtype == dtype
    np.testing.assert_allclose(small[10, 20], values[20:22, 40:42].mean((0, 1)), atol=0.51)
    # The last block is half as wide.
    np.testing.assert_allclose(small[10, 100], values[20:22, 200:].mean((0, 1)), atol=0.51)


def test_points_map_samples_to_8_bits():
    values = np.array([[100, 200, 300, 1000]], np.uint16)
    alpha = np.array([[0, 65535, 257, 0]], np.uint16)

    shown = to_8_bits(image_of(values, alpha), 200, 400)

    assert shown.samples.flatten().tolist() == [0, 0, 128, 255]
    assert shown.alpha.flatten().tolist() == [0, 255, 1, 0]
    assert shown.samples.dtype == shown.alpha.dtype == torch.uint8


def test_parts_and_pairs_keep_transparency():
    alpha = np.arange(12, dtype=np.uint8).reshape(3, 4)
    image = image_of(np.arange(12, dtype=np.uint8).reshape(3, 4), alpha)

    part = crop(image, 1, 1, 2, 2)
    pair = beside(part, part)

    assert part.samples.flatten().tolist() == part.alpha.flatten().tolist() == [5, 6, 9, 10]
    assert pair.samples.squeeze(2).tolist() == pair.alpha.tolist() == [[5, 6, 5, 6], [9, 10, 9, 10]]
