import pytest
import torch

from engine.data.measured_scenes import measured_scene
from tests.support.pixels import generator


def many(count=40, side=128):
    return torch.stack([measured_scene(side, side, generator(seed)) for seed in range(count)])


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 50), (64, 40)])
def test_any_size_can_be_drawn(height, width):
    scenes = [measured_scene(height, width, generator(seed)) for seed in range(12)]

    assert all(scene.shape == (height, width, 3) for scene in scenes)
    assert all(scene.dtype == torch.float32 and scene.isfinite().all() for scene in scenes)


def test_an_empty_size_is_refused():
    with pytest.raises(ValueError, match="at least 1 x 1 pixels; got 8 x 0"):
        measured_scene(0, 8, generator())


def test_the_scene_depends_on_the_generator_alone():
    before = torch.random.get_rng_state()
    first, second = (measured_scene(64, 64, generator(7)) for _ in range(2))

    assert torch.equal(first, second)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_scenes_fill_the_range_and_do_not_leave_it():
    scenes = many()

    assert scenes.min() >= 0
    assert scenes.max() <= 255.01
    assert (scenes.amax((1, 2, 3)) > 200).float().mean() > 0.8


def test_most_scenes_are_grey_and_some_have_unrelated_channels():
    grey = torch.stack([(scene == scene[..., :1]).all() for scene in many(80, 48)])

    assert 0.6 < grey.float().mean() < 0.9


def test_dark_grounds_have_values_between_the_steps_of_8_bits():
    dark = [scene[..., 0][scene[..., 0] < 3] for scene in many()]

    assert any(len(values.unique()) > 1000 for values in dark)


def test_most_of_a_scene_is_smooth():
    """Neighbours differ by less than a thousandth of the range, at least in the median."""
    scenes = many()
    step = (scenes[:, 1:] - scenes[:, :-1]).abs().flatten(1).median(1).values / 255

    assert step.median() < 1e-3
