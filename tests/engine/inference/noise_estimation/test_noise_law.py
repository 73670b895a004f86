import itertools
import math

import numpy as np
import pytest
import torch
from PIL import Image

from engine.data.patterns import patterns
from engine.inference.noise_estimation.noise_law import estimate_law
from tests.support.noise import (
    DATA,
    as_counts,
    as_jpeg,
    blurred,
    cells,
    generator,
    in_8_bits,
    leaves,
    needs_kodak,
    noise,
    ramp,
)


def law_of(image):
    """The first channel's law."""
    return estimate_law(image.unsqueeze(0))[0]


def grey_leaves(seed=0, side=320):
    return leaves(seed, side)[..., 1:2]


def holds(estimate, gain, read, pedestal):
    """Which of the intervals hold the truth."""
    return gain in estimate.gain, read in estimate.read_noise, pedestal in estimate.pedestal


def test_the_law_of_a_microscope_is_measured():
    cases = list(itertools.product((5, 20, 50, 200), (0, 1), (0, 100), (0.5, 1000), range(2)))
    right, held, read_right = [], [], []
    for number, (peak, read, offset, gain, _) in enumerate(cases):
        estimate = law_of(as_counts(cells(number), peak, read, gain, offset, seed=number))
        right.append(abs(estimate.law.gain / gain - 1) < 0.1)
        # Read noise of one electron is a fifth of the noise in the darkest part at 200 photons.
        if read and peak <= 50:
            read_right.append(abs(math.sqrt(estimate.law.read_variance) / (gain * read) - 1) < 0.1)
        held.append(holds(estimate, gain, gain * read, offset))
        assert estimate.confident

    assert sum(right) >= 0.9 * len(cases)
    assert sum(read_right) >= 0.9 * len(read_right)
    assert all(sum(interval) >= 0.95 * len(cases) for interval in zip(*held, strict=True))


def test_the_law_of_textured_scenes_is_measured():
    cases = list(itertools.product((10, 50, 200), (1, 3), range(4)))
    right, held = [], []
    for number, (peak, read, _) in enumerate(cases):
        estimate = law_of(as_counts(grey_leaves(number % 4, 512), peak, read, seed=number))
        right.append(abs(estimate.law.gain / 2 - 1) < 0.1)
        held.append(holds(estimate, 2, 2 * read, 100))

    assert sum(right) >= 0.75 * len(cases)
    assert all(sum(interval) >= 0.95 * len(cases) for interval in zip(*held, strict=True))


@needs_kodak
@pytest.mark.parametrize(("peak", "least"), [(10, 0.9), (50, 0.9), (200, 0.8)])
def test_the_law_of_photographs_is_measured(peak, least):
    right, held = [], []
    for number, file in enumerate(sorted((DATA / "kodak24").glob("*.png"))):
        clean = torch.from_numpy(np.array(Image.open(file))).float()[..., 1:2] / 255
        estimate = law_of(as_counts(clean, peak, seed=number))
        right.append(abs(estimate.law.gain / 2 - 1) < 0.1)
        held.append(holds(estimate, 2, 2, 100))

    assert sum(right) >= least * len(right)
    assert all(sum(interval) >= 0.95 * len(right) - 1 for interval in zip(*held, strict=True))


@pytest.mark.parametrize(("scale", "shift"), [(1 / 4096, 0), (100, 0), (1, 10_000), (1 / 65535, -1)])
def test_the_law_follows_the_unit(scale, shift):
    counts = as_counts(cells(), 50)

    plain, other = law_of(counts), law_of(scale * counts.double().add(shift).float())

    assert other.law.gain == pytest.approx(scale * plain.law.gain, rel=0.01)
    assert other.gain.low == pytest.approx(scale * plain.gain.low, rel=0.01)
    assert other.pedestal.low == pytest.approx(scale * (plain.pedestal.low + shift), rel=0.01, abs=scale)
    assert other.read_noise.high == pytest.approx(scale * plain.read_noise.high, rel=0.01)
    assert other.confident


def test_the_pedestal_is_found_where_few_photons_arrive():
    estimate = law_of(as_counts(cells(), 20, read=1))

    assert estimate.law.pedestal == pytest.approx(100, abs=1)
    assert math.sqrt(estimate.law.read_variance) == pytest.approx(2, rel=0.1)


def test_rounding_counts_as_read_noise():
    estimate = law_of(as_counts(cells(), 20, read=0.2, gain=1).round())

    assert math.sqrt(0.04 + 1 / 12) in estimate.read_noise


def test_each_channel_has_a_law_of_its_own():
    image = torch.cat([as_counts(cells(seed), 50, gain=gain) for seed, gain in ((0, 1), (1, 4))], 2)

    first, second = estimate_law(image.unsqueeze(0))

    assert first.law.gain == pytest.approx(1, rel=0.1)
    assert second.law.gain == pytest.approx(4, rel=0.1)


def test_the_points_follow_the_law():
    estimate = law_of(as_counts(cells(), 50))

    brightness = [point.brightness for point in estimate.points]
    assert brightness == sorted(brightness)
    for point in estimate.points:
        sigma = math.sqrt(2 * (point.brightness - 100) + 4)
        assert point.sigma == pytest.approx(sigma, abs=4 * point.standard_error + 0.05 * sigma)


def test_the_growth_is_that_of_the_standard_deviation():
    estimate = law_of(as_counts(cells(), 50))

    dark, bright = (math.sqrt(2 * (x.brightness - 100) + 4) for x in (estimate.points[0], estimate.points[-1]))
    assert estimate.growth == pytest.approx(bright / dark, rel=0.1)


def test_photon_counts_of_zero_are_not_clipped():
    estimate = law_of(as_counts(cells(), 6, read=0, offset=0))

    assert estimate.clipped == (False, False)
    assert estimate.law.gain == pytest.approx(2, rel=0.1)
    assert estimate.law.pedestal == pytest.approx(0, abs=0.1)


def test_clipping_is_found_at_either_end():
    noisy = ramp(low=0.02, high=0.98)[..., :1] + 0.1 * noise(ramp(), channels=1)

    assert law_of(noisy).clipped == (False, False)
    assert law_of(noisy.clamp(min=0)).clipped == (True, False)
    assert law_of(noisy.clamp(max=1)).clipped == (False, True)


def test_hot_pixels_do_not_hide_the_law():
    counts = as_counts(cells(), 50)
    counts[100, 40], counts[30, 200] = 65535, 65535

    estimate = law_of(counts)

    assert estimate.law.gain == pytest.approx(2, rel=0.15)
    assert estimate.confident


@pytest.mark.parametrize("sigma", [0, 2, 5, 15, 25, 50, 75])
def test_white_noise_has_no_law(sigma):
    for seed in range(6):
        noisy = leaves(seed) + sigma / 255 * noise(leaves(seed), seed)

        for image in (noisy, in_8_bits(noisy)):
            assert not any(estimate and estimate.confident for estimate in estimate_law(image.unsqueeze(0)))


def test_correlated_noise_has_no_law():
    clean = cells()
    deviation = (as_counts(clean, 50) - 100 - 100 * clean) / 2

    assert not law_of(100 + 100 * clean + 2 * blurred(deviation)).confident


@pytest.mark.parametrize("quality", [95, 90, 75])
def test_jpeg_files_have_no_law(quality):
    noisy = torch.poisson(100 * cells().expand(-1, -1, 3), generator=generator()) / 150

    assert any(estimate.confident for estimate in estimate_law(in_8_bits(noisy).unsqueeze(0)))
    assert not any(estimate.confident for estimate in estimate_law(as_jpeg(noisy, quality).unsqueeze(0)))


def test_drawings_have_no_law():
    for seed in range(20):
        image = patterns(192, 192, generator(seed)).float()

        assert not any(estimate and estimate.confident for estimate in estimate_law(image.unsqueeze(0)))


def test_noise_on_an_even_ground_has_no_law():
    estimate = law_of(100 + 5 * torch.randn(256, 256, 1, generator=generator()))

    assert not estimate.confident


@pytest.mark.parametrize("image", [torch.full((256, 256, 1), 7.0), torch.rand(8, 400, 1), torch.rand(40, 40, 1)])
def test_constant_and_small_images_cannot_be_measured(image):
    assert estimate_law(image.unsqueeze(0)) == (None,)


def test_stars_have_a_bound_of_the_gain():
    rng = generator()
    rows, columns = torch.arange(256).view(-1, 1), torch.arange(256)
    sky = torch.full((256, 256), 800.0)
    for row, column, light in torch.rand(40, 3, generator=rng).tolist():
        squared = (rows - 5 - 245 * row) ** 2 + (columns - 5 - 245 * column) ** 2
        sky += 60_000 * light * (-squared / (2 * 1.4**2)).exp()

    estimate = law_of(torch.poisson(sky, generator=rng).unsqueeze(2))

    assert estimate.confident
    assert 1 in estimate.gain
    assert estimate.law.gain == estimate.gain.high < 6
    # The ground has unit noise after the transform, whatever the gain.
    assert float(estimate.law.variance(torch.tensor(800.0))) == pytest.approx(800, rel=0.1)
    assert 0 in estimate.pedestal


def test_the_same_image_gives_the_same_law():
    counts = as_counts(grey_leaves(), 50)

    assert law_of(counts) == law_of(counts.clone())
