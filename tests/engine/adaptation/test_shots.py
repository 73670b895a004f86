"""Shots as training sees them: which pixels are learnt from, and which scenes."""

import numpy as np
import pytest
import tifffile
import torch

from engine.adaptation import examine
from engine.adaptation.normalise import ScenesNormalisation
from engine.adaptation.shots import scene_shots, to_white
from tests.support.bursts import scene, shots, white, write

SIDE = 96


def scenes_in(folder):
    return scene_shots(examine(folder), ScenesNormalisation(), 0)


def test_missing_samples_are_not_learnt_from(tmp_path):
    for number in range(3):
        for index, shot in enumerate(shots(scene(number, SIDE), white(25), 2, number)):
            values = shot.numpy().astype(np.float32)
            values[10 + index, 20:30] = np.nan
            tifffile.imwrite(tmp_path / f"scene {'abc'[number]}_{index + 1}.tif", values)

    scenes, _ = scenes_in(tmp_path)

    for each in scenes:
        assert [torch.nonzero(~usable)[:, 0].unique().tolist() for usable in each.usable] == [[10], [11]]
        assert all(int((~usable).sum()) == 10 for usable in each.usable)


def test_clipped_places_are_not_learnt_from(tmp_path):
    light = [1.2 * scene(number, SIDE) - 0.05 for number in range(3)]
    for number in range(3):
        frames = shots(light[number], white(25), 2, number)
        write(tmp_path, f"scene-{number}", [(frame - 1000).clamp(0, 255) for frame in frames])

    scenes, _ = scenes_in(tmp_path)

    shares = [(~each.usable[0]).float().mean() for each in scenes]
    assert max(shares) > 0.05
    for each, clean in zip(scenes, light, strict=True):
        assert each.usable[0][(clean > 0.3) & (clean < 0.7)].float().mean() > 0.7


def test_single_shots_whose_neighbours_share_noise_are_left_out(tmp_path):
    for number in range(3):
        shot = shots(scene(number, SIDE), white(25), 1, number)[0]
        blurred = (shot + shot.roll(1, 1)).div(2).round()
        tifffile.imwrite(tmp_path / f"{'abc'[number]}view.tif", blurred.numpy().astype("uint16"))

    examination = examine(tmp_path, "single")

    assert not examination.usable
    assert {(each.check, each.verdict) for each in examination.findings} >= {("correlated", "left out")}


@pytest.mark.parametrize("count", [2, 3])
def test_all_shots_of_a_scene_are_kept(count, tmp_path):
    for number in range(3):
        write(tmp_path, f"scene-{number}", shots(scene(number, SIDE), white(25), count, number))

    scenes, left_out = scenes_in(tmp_path)

    assert [len(each.shots) for each in scenes] == [count] * 3
    assert not left_out


def test_dark_photographs_are_scaled_to_white_by_one_factor(tmp_path):
    for number in range(3):
        light = (number + 1) / 3 * scene(number, SIDE)
        write(tmp_path, f"scene-{number}", [shot - 1000 for shot in shots(light, white(5), 2, number)])

    scenes, _ = scenes_in(tmp_path)
    scaled = to_white(scenes)

    assert {each.normalisation.span for each in scenes} == {65535}
    (span,) = {each.normalisation.span for each in scaled}
    assert 150 < span < 300
