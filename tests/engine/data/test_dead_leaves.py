from itertools import pairwise

import pytest
import torch

from engine.data.dead_leaves import dead_leaves, prints


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


BOTH = pytest.mark.parametrize("draw", [dead_leaves, prints])


@BOTH
@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 50), (64, 40)])
def test_any_size_can_be_drawn(draw, height, width):
    images = [draw(height, width, generator(seed)) for seed in range(5)]

    assert all(image.shape == (height, width, 3) for image in images)
    assert all(image.dtype == torch.uint8 for image in images)


@BOTH
def test_an_empty_size_is_refused(draw):
    with pytest.raises(ValueError, match="at least 1 x 1 pixels; got 8 x 0"):
        draw(0, 8, generator())


@BOTH
def test_the_same_state_gives_the_same_image_whatever_the_global_state(draw):
    torch.manual_seed(1)
    first = draw(64, 64, generator(7))
    torch.manual_seed(2)
    second = draw(64, 64, generator(7))

    assert torch.equal(first, second)


@BOTH
def test_drawing_moves_the_generator_on_so_that_the_next_image_differs(draw):
    rng = generator()
    first, second = draw(64, 64, rng), draw(64, 64, rng)

    assert (first.float() - second.float()).abs().mean() > 10


@BOTH
def test_drawing_leaves_the_global_random_state_alone(draw):
    before = torch.random.get_rng_state()

    draw(32, 32, generator())

    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.fixture(scope="module")
def luma():
    """(4, 128, 128): brightness of four images on [0, 1]."""
    return torch.stack([dead_leaves(128, 128, generator(seed)) for seed in range(4)]).float().mean(3) / 255


def test_images_use_the_range_without_being_washed_out_or_clipped(luma):
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


def test_prints_have_what_photographs_lack_strong_waves_down_to_two_pixels_a_period():
    def finest(draw):
        """Of 16 x 16 squares, the amplitude of the strongest of the finest waves."""
        images = torch.stack([draw(128, 128, generator(seed)) for seed in range(4)]).float().mean(3) / 255
        squares = images.unfold(1, 16, 16).unfold(2, 16, 16).flatten(0, 2)
        power = torch.fft.rfft2(squares).abs() / 128
        return power[:, :, 6:].flatten(1).amax(1)

    assert (finest(prints) > 0.1).float().mean() > 0.03
    assert (finest(dead_leaves) > 0.1).float().mean() < 0.01


def test_a_prints_period_and_contrast_differ_from_leaf_to_leaf():
    spread = torch.stack(
        [
            prints(64, 64, generator(seed)).float().mean(2).unfold(0, 8, 8).unfold(1, 8, 8).std((2, 3))
            for seed in range(9)
        ]
    )

    assert spread.min() < 5
    assert spread.max() > 60


def test_some_prints_are_pages_of_text_with_paper_between_the_lines():
    pages = 0
    for seed in range(30):
        rows = prints(96, 96, generator(seed)).float().mean(2)
        # Between lines there is paper alone, but for the light, which falls off evenly.
        second = rows[:, 2:] - 2 * rows[:, 1:-1] + rows[:, :-2]
        pages += bool((second.abs().amax(1) <= 2).float().mean() > 0.08)

    assert 5 <= pages <= 15
