import pytest
import torch

from engine.inference.noise_estimation.law_of_stack import (
    MAX_STACKS,
    estimate_law_of_stack,
    estimate_law_of_stacks,
)
from engine.inference.noise_estimation.noise_law import estimate_law
from tests.support.noise import as_counts, cells, leaves, noise


def stack(scenes, peak, read=3):
    """Frames of these scenes, each with noise of its own."""
    return [as_counts(scene, peak, read, seed=number) for number, scene in enumerate(scenes)]


@pytest.mark.parametrize("peak", [10, 50, 200, 1000])
def test_texture_does_not_disturb_the_law_of_a_stack(peak):
    read = 1 if peak < 50 else 3
    for seed in range(3):
        (estimate,) = estimate_law_of_stack(stack([leaves(seed)[..., 1:2]] * 8, peak, read))

        assert estimate.law.gain == pytest.approx(2, rel=0.12)
        assert 2 in estimate.gain
        assert 2 * read in estimate.read_noise
        assert 100 in estimate.pedestal
        assert estimate.confident


def test_bleaching_does_not_disturb_the_law_of_a_stack():
    scene = leaves(1)[..., 1:2]

    (estimate,) = estimate_law_of_stack(stack([0.95**number * scene for number in range(8)], 200))

    assert estimate.law.gain == pytest.approx(2, rel=0.12)
    assert estimate.confident


def test_what_moves_is_left_out():
    rows, columns = torch.arange(256).view(-1, 1), torch.arange(256)
    scenes = []
    for number in range(8):
        squared = (rows - 128) ** 2 + (columns - 40 - 12 * number) ** 2
        scenes.append(cells() + 0.6 * (-squared / 200).exp().unsqueeze(2))

    (estimate,) = estimate_law_of_stack(stack(scenes, 50))

    assert estimate.law.gain == pytest.approx(2, rel=0.12)
    assert estimate.confident


def test_two_frames_are_enough_for_the_gain():
    (estimate,) = estimate_law_of_stack(stack([leaves(1)[..., 1:2]] * 2, 200))

    assert estimate.law.gain == pytest.approx(2, rel=0.12)
    assert 100 in estimate.pedestal


def test_noise_that_lasts_is_measured_within_a_frame():
    clean, slow, frames = cells(), 14 * noise(cells()), []
    for number in range(8):
        slow = 0.92 * slow + (1 - 0.92**2) ** 0.5 * 14 * noise(clean, number + 1)
        frames.append(100 + 100 * clean + slow)

    assert estimate_law_of_stack(frames) == estimate_law(frames[4].unsqueeze(0))
    assert not estimate_law_of_stack(frames)[0].confident


def test_one_frame_is_measured_like_an_image():
    frame = as_counts(cells(), 50)

    assert estimate_law_of_stack([frame]) == estimate_law(frame.unsqueeze(0))


def test_a_stack_without_frames_is_refused():
    with pytest.raises(ValueError, match=r"The stack has no frames\. The noise law needs at least one\."):
        estimate_law_of_stack([])


def test_the_law_of_several_scenes_is_measured_in_all_of_them():
    stacks = [stack([leaves(seed)[..., 1:2]] * 2, 200) for seed in range(4)]

    (estimate,) = estimate_law_of_stacks(stacks)

    assert estimate.law.gain == pytest.approx(2, rel=0.1)
    assert estimate.confident
    assert estimate_law_of_stacks(stacks[:1]) == estimate_law_of_stack(stacks[0])


def test_too_many_scenes_are_refused():
    frame = torch.zeros(8, 8, 1)

    with pytest.raises(ValueError, match=f"at most {MAX_STACKS}"):
        estimate_law_of_stacks([[frame]] * (MAX_STACKS + 1))
