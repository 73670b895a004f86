import pytest
import torch

from engine.data.dead_leaves import dead_leaves
from engine.data.patterns import patterns
from tests.support.pixels import generator


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 50), (64, 40)])
def test_any_size_can_be_drawn(height, width):
    images = [patterns(height, width, generator(seed)) for seed in range(5)]

    assert all(image.shape == (height, width, 3) for image in images)
    assert all(image.dtype == torch.uint8 for image in images)


def test_an_empty_size_is_refused():
    with pytest.raises(ValueError, match="at least 1 x 1 pixels; got 8 x 0"):
        patterns(0, 8, generator())


def test_the_image_depends_on_the_generator_alone():
    torch.manual_seed(1)
    first = patterns(64, 64, generator(7))
    torch.manual_seed(2)
    second = patterns(64, 64, generator(7))

    assert torch.equal(first, second)


def test_the_next_image_of_a_generator_differs():
    rng = generator()
    first, second = patterns(64, 64, rng), patterns(64, 64, rng)

    assert (first.float() - second.float()).abs().mean() > 10


def test_drawing_leaves_the_global_random_state_alone():
    before = torch.random.get_rng_state()

    patterns(32, 32, generator())

    assert torch.equal(torch.random.get_rng_state(), before)


def test_patterns_have_strong_waves_down_to_two_pixels():
    def finest(draw):
        """Of 16 x 16 squares, the amplitude of the strongest of the finest waves."""
        images = torch.stack([draw(128, 128, generator(seed)) for seed in range(4)]).float().mean(3) / 255
        squares = images.unfold(1, 16, 16).unfold(2, 16, 16).flatten(0, 2)
        power = torch.fft.rfft2(squares).abs() / 128
        return power[:, :, 6:].flatten(1).amax(1)

    assert (finest(patterns) > 0.1).float().mean() > 0.03
    assert (finest(dead_leaves) > 0.1).float().mean() < 0.01


def test_contrast_differs_from_leaf_to_leaf():
    spread = torch.stack(
        [
            patterns(64, 64, generator(seed)).float().mean(2).unfold(0, 8, 8).unfold(1, 8, 8).std((2, 3))
            for seed in range(9)
        ]
    )

    assert spread.min() < 5
    assert spread.max() > 60


def test_some_images_are_pages_of_text():
    pages = 0
    for seed in range(30):
        rows = patterns(96, 96, generator(seed)).float().mean(2)
        # Between lines there is paper alone, but for the light, which falls off evenly.
        second = rows[:, 2:] - 2 * rows[:, 1:-1] + rows[:, :-2]
        pages += bool((second.abs().amax(1) <= 2).float().mean() > 0.08)

    assert 5 <= pages <= 15
