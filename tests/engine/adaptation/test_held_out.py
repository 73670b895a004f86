"""Held-out scenes: drawn by chance, and what they are judged by."""

from dataclasses import replace

import pytest
import torch

from engine.adaptation.doctor.planes import box_mean
from engine.adaptation.held_out import draw_held_out, errors, judged, words
from engine.data.noise.anscombe import NoiseLaw
from engine.data.registration import move
from engine.data.rng import seeded_generator
from tests.support.bursts import scene
from tests.support.scenes_of_shots import numbered, scene_of


def test_scenes_are_held_out_by_drawing():
    scenes = [scene_of(numbered(2), name=str(number)) for number in range(20)]

    drawn = {seed: [scene.name for scene in draw_held_out(scenes, seed)[1]] for seed in range(4)}
    training, held_out = draw_held_out(scenes, 0)

    assert len(held_out) == 6
    assert len(training) == 14
    assert not {each.name for each in training} & {each.name for each in held_out}
    assert [scene.name for scene in held_out] == drawn[0]
    assert len({tuple(names) for names in drawn.values()}) > 1


def test_channels_of_a_field_stay_together():
    fields = [scene_of(numbered(2), name=f"{field:03}_{channel}") for field in range(8) for channel in range(3)]

    training, held_out = draw_held_out(fields, 0)

    assert {len(training), len(held_out)} == {15, 9}
    assert not {each.name[:3] for each in training} & {each.name[:3] for each in held_out}


def test_too_few_scenes_are_refused():
    with pytest.raises(ValueError, match="Record at least 3 scenes"):
        draw_held_out([scene_of(numbered(2))] * 2, 0)


def test_scenes_with_several_shots_are_held_out_first():
    scenes = [scene_of(numbered(1), "single")] * 8 + [scene_of(numbered(2))] * 4

    assert {scene.use for scene in draw_held_out(scenes, 0)[1]} == {"shots"}


def test_shots_are_judged_where_they_lie_on_each_other():
    place = torch.arange(40 * 40).float().view(40, 40, 1)
    moved = place.roll((3, -5), (0, 1))

    scene = judged(scene_of([place, moved], shifts=[(0, 0), (3, -5)]))

    assert scene.shots[0].shape == (37, 35, 1)
    assert torch.equal(*scene.shots)


def test_a_single_shot_is_judged_by_two_halves():
    rows = torch.arange(40).float().view(-1, 1, 1).expand(40, 40, 1)
    noise = torch.randn(40, 40, 1, generator=seeded_generator(1))
    laws = (NoiseLaw(2.0, 0.0, 1.0),)

    flat, noisy = (judged(scene_of([shot], "single", laws=laws)) for shot in (rows, noise))

    # Both halves lie in the middle of the cells, so a slope is the same in both.
    assert torch.equal(*flat.shots)
    assert flat.shots[0].shape == (20, 20, 1)
    assert flat.normalisation.transforms[0].law == NoiseLaw(1.0, 0.0, 0.5)
    assert abs(float((noisy.shots[0] * noisy.shots[1]).mean())) < 0.1


@pytest.mark.parametrize("count", [2, 3])
def test_a_part_of_a_pixel_does_not_change_the_errors(count):
    light = 255 * scene(3, 192).unsqueeze(2)
    places = [(0.0, 0.0), (0.5, -0.4), (-0.3, 1.45)][:count]
    clean = [move(light, *place) for place in places]
    noisy = [each + 5 * torch.randn(each.shape, generator=seeded_generator(n)) for n, each in enumerate(clean)]
    judge = judged(scene_of(noisy, shifts=places))
    truth = judged(scene_of(clean, shifts=places)).shots
    # What a denoiser leaves is smoother than the noise.
    outputs = [t + box_mean(shot - t, 1) for t, shot in zip(truth, judge.shots, strict=True)]

    (error,) = errors([judge], [[outputs]], (0.0, 255.0))
    (unaware,) = errors([replace(judge, shifts=((0.0, 0.0),) * count)], [[outputs]], (0.0, 255.0))

    true = sum(float((a - b).square().mean()) for a, b in zip(outputs, truth, strict=True)) / count
    assert error.whole(error.noisy) == pytest.approx(25, rel=0.06)
    assert error.whole(error.denoised[0]) == pytest.approx(true, rel=0.06)
    assert abs(unaware.whole(unaware.denoised[0]) / true - 1) > 0.3


def test_it_is_said_what_single_shots_cannot_tell():
    scenes = [scene_of(numbered(2)), scene_of(numbered(1), "single")]

    assert "1 by further noisy shots" in words(scenes)
    assert "cannot be known from single shots" in words(scenes)
