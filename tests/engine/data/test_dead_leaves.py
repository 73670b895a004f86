from itertools import pairwise

import pytest
import torch

from engine.data.dead_leaves import dead_leaves
from tests.support.pixels import generator


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 50), (64, 40)])
def test_any_size_can_be_drawn(height, width):
    images = [dead_leaves(height, width, generator(seed)) for seed in range(5)]

    assert all(image.shape == (height, width, 3) for image in images)
    assert all(image.dtype == torch.uint8 for image in images)


def test_an_empty_size_is_refused():
    with pytest.raises(ValueError, match="at least 1 x 1 pixels; got 8 x 0"):
        dead_leaves(0, 8, generator())


def test_the_image_depends_on_the_generator_alone():
    torch.manual_seed(1)
    first = dead_leaves(64, 64, generator(7))
    torch.manual_seed(2)
    second = dead_leaves(64, 64, generator(7))

    assert torch.equal(first, second)


def test_the_next_image_of_a_generator_differs():
    rng = generator()
    first, second = dead_leaves(64, 64, rng), dead_leaves(64, 64, rng)

    assert (first.float() - second.float()).abs().mean() > 10


def test_drawing_leaves_the_global_random_state_alone():
    before = torch.random.get_rng_state()

    dead_leaves(32, 32, generator())

    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.fixture(scope="module")
def luma():
    """(4, 128, 128): brightness of four images on [0, 1]."""
    return torch.stack([dead_leaves(128, 128, generator(seed)) for seed in range(4)]).float().mean(3) / 255


def test_images_have_contrast_without_being_clipped(luma):
    assert (luma.std((1, 2)) > 0.08).all()
    assert ((luma < 0.004) | (luma > 0.996)).float().mean() < 0.05


def test_the_spectrum_falls_as_that_of_photographs_does(luma):
    centred = luma - luma.mean((1, 2), keepdim=True)
    power = torch.fft.fft2(centred).abs().square().mean(0)
    frequency = torch.hypot(*torch.meshgrid(*2 * [torch.fft.fftfreq(128)], indexing="ij"))
    bands = [0.02, 0.04, 0.08, 0.16, 0.32]
    levels = [power[(frequency >= low) & (frequency < high)].mean().log2() for low, high in pairwise(bands)]

    slope = float(levels[-1] - levels[0]) / (len(levels) - 1)

    # Photographs have frequency to the power of -2, give or take half.
    assert -3.2 < slope < -1.2


def test_gradients_have_heavy_tails_as_those_of_photographs_have(luma):
    step = (luma[:, :, 1:] - luma[:, :, :-1]).flatten()
    kurtosis = step.pow(4).mean() / step.square().mean().square()

    # 3 for Gaussian noise.
    assert kurtosis > 6
