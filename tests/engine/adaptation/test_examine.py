"""Examination: each planted defect is found, and clean sets are left alone."""

import pytest
import torch

from engine.adaptation import examine, render
from engine.data.rng import seeded_generator
from tests.bench.doctor import examined
from tests.support.bursts import SEED, clean_sets, moved, photons, scene, shots, white, write

SIDE = 160


def checked(folder, frames_of, scenes=3):
    """The findings of a set, without that it is too little. frames_of(number): the shots of a scene."""
    for number in range(scenes):
        write(folder, f"scene-{number}", frames_of(number))
    examination = examine(folder)
    return examination, [each for each in examination.findings if each.check != "too little"]


@pytest.mark.parametrize("number", range(len(list(clean_sets()))))
def test_nothing_is_found_in_a_clean_set(number, tmp_path):
    _, examination = examined(number, tmp_path)

    assert [each for each in examination.findings if each.check != "too little"] == []
    assert len(examination.usable) == len(examination.scenes)


@pytest.mark.parametrize(("sigma", "side", "scenes"), [(5, 160, 3), (25, 256, 3), (60, 384, 4)])
def test_a_shift_of_a_tenth_of_a_pixel_is_found(sigma, side, scenes, tmp_path):
    def pair(number):
        light = scene(number, side)
        return [
            shots(each, white(sigma), 1, 2 * number + k)[0]
            for k, each in enumerate((light, moved(light, 0.1, 0)))
        ]

    examination, findings = checked(tmp_path, pair, scenes)

    assert {each.check for each in findings} == {"shift"}
    assert all(each.number == pytest.approx(0.1, abs=4 * each.error) for each in findings)
    # Training gets the shift of each second shot.
    corrected = [check.shots[1].shift for check in examination.scenes if check.shots[1].shift]
    assert len(corrected) >= scenes / 2
    assert sum(each.rows for each in corrected) / len(corrected) == pytest.approx(0.1, abs=0.06)


def test_shots_far_apart_are_found(tmp_path):
    def pair(number):
        wide = scene(number, SIDE + 60)
        parts = wide[50 : SIDE + 50, 10 : SIDE + 10], wide[10 : SIDE + 10, 30 : SIDE + 30]
        return [shots(each, white(40), 1, 2 * number + k)[0] for k, each in enumerate(parts)]

    _, findings = checked(tmp_path, pair)

    assert [each.check for each in findings] == ["shift"] * 3
    assert all("lies +40.0" in each.reason or "lies +39.9" in each.reason for each in findings)


@pytest.mark.parametrize("sigma", [5, 25])
def test_a_gain_of_one_percent_is_found_and_fitted(sigma, tmp_path):
    def pair(number):
        first, second = shots(scene(number, 256), white(sigma), 2, number)
        return [first - 900, (1.01 * (second - 900)).round()]

    examination, findings = checked(tmp_path, pair)

    assert {each.check for each in findings} == {"brightness"}
    fits = [check.shots[1].brightness[0] for check in examination.scenes if check.shots[1].brightness]
    assert len(fits) >= 2
    assert all(fit.gain == pytest.approx(1.01, abs=4 * fit.gain_error) or fit.gain == 1 for fit in fits)


def test_a_moving_object_is_masked(tmp_path):
    def burst(number):
        made = []
        for k in range(3):
            light = scene(number, SIDE).clone()
            light[60:75, 20 + 30 * k : 35 + 30 * k] = 0.95
            made += shots(light, white(25), 1, 10 * number + k)
        return made

    examination, findings = checked(tmp_path, burst)

    assert {(each.check, each.verdict) for each in findings} == {("moving", "masked")}
    for check in examination.scenes:
        mask = torch.stack([shot.mask for shot in check.shots]).any(0)
        inside = mask[60:75, 20:95].double().mean()
        assert inside > 0.6
        assert mask.double().mean() < 0.2


def test_a_duplicate_is_left_out(tmp_path):
    def burst(number):
        first, second, third = shots(scene(number, SIDE), white(25), 3, number)
        return [first, second, second if number == 1 else third]

    examination, findings = checked(tmp_path, burst)

    [found] = findings
    assert (found.file, found.check, found.verdict) == ("scene-1/frame-02.tif", "identical", "left out")
    assert [shot.used for shot in examination.scenes[1].shots] == [True, True, False]


def test_frames_that_are_equal_in_part_are_found(tmp_path):
    def burst(number):
        first, second, third = shots(scene(number, SIDE), white(25), 3, number)
        third[: SIDE // 2] = second[: SIDE // 2]
        return [first, second, third]

    _, findings = checked(tmp_path, burst)

    assert [each.check for each in findings] == ["identical"] * 3
    assert all(each.number == pytest.approx(0.5, abs=0.02) for each in findings)


def test_the_same_shot_in_two_scenes_is_found(tmp_path):
    shared = shots(scene(9, SIDE), white(25), 2, 9)

    _, findings = checked(tmp_path, lambda n: shared if n < 2 else shots(scene(n, SIDE), white(25), 2, n))

    assert {(each.check, each.verdict) for each in findings} >= {("identical", "left out")}


def test_clipping_is_found_and_its_share(tmp_path):
    def pair(number):
        light = 1.2 * scene(number, SIDE) - 0.05
        return [(shot - 1000).clamp(0, 255) for shot in shots(light, white(25), 2, number)]

    _, findings = checked(tmp_path, pair)

    assert {each.check for each in findings} == {"clipping"}


def test_noise_that_neighbours_share_is_found(tmp_path):
    def noisy(light, rng):
        noise = torch.randn(light.shape, generator=rng)
        return (1000 + 255 * light + 20 * (noise + 0.3 * noise.roll(1, 1))).round()

    _, findings = checked(tmp_path, lambda number: shots(scene(number, SIDE), noisy, 2, number))

    assert [each.check for each in findings] == ["correlated"] * 3
    assert all(each.number == pytest.approx(0.3 / 1.09, abs=0.03) for each in findings)


def test_noise_that_lasts_from_shot_to_shot_is_found(tmp_path):
    def stack(number):
        made, slow = [], None
        for k in range(12):
            fresh = torch.randn(SIDE, SIDE, generator=seeded_generator(SEED, 100 * number + k)).double()
            slow = fresh if slow is None else 0.5 * slow + 0.75**0.5 * fresh
            made.append((1000 + 255 * scene(number, SIDE) + 25 * slow).round())
        return made

    examination, findings = checked(tmp_path, stack, 2)

    assert [(each.check, each.verdict) for each in findings] == [("lag", "corrected")] * 2
    assert all(each.number == pytest.approx(0.5, abs=0.05) for each in findings)
    # 0.5 to the power of 5 is below 0.05.
    assert all(check.lag.first in (4, 5, 6) for check in examination.scenes)


@pytest.mark.parametrize("count", [2, 5])
def test_a_fixed_pattern_of_the_detector_is_found(count, tmp_path):
    pattern = 5 * torch.randn(SIDE, SIDE, generator=seeded_generator(SEED, 1)).double()

    _, findings = checked(
        tmp_path, lambda n: [(shot + pattern).round() for shot in shots(scene(n, SIDE), white(25), count, n)]
    )

    [found] = findings
    assert found.check == "fixed pattern"
    assert found.number == pytest.approx(5, rel=0.2)


def test_a_mean_of_many_shots_is_recognised(tmp_path):
    def pair(number):
        many = shots(scene(number, SIDE), white(25), 21, number)
        return [many[0], torch.stack(many[1:]).mean(0).round()]

    examination, findings = checked(tmp_path, pair)

    assert [(each.check, each.verdict) for each in findings] == [("mean of many", "left out")] * 3
    assert examination.kinds == {"mean": 3}
    assert all(check.scene.reference.name == "frame-01.tif" for check in examination.scenes)


def test_another_scene_in_a_burst_is_left_out(tmp_path):
    def burst(number):
        made = shots(scene(number, SIDE), white(25), 4, number)
        made[2 * (number % 2)] = shots(scene(number + 60, SIDE), white(25), 1, number)[0]
        return made

    _, findings = checked(tmp_path, burst, 2)

    assert {each.file for each in findings} >= {"scene-1/frame-02.tif"}
    assert {each.check for each in findings} <= {"other scene"}


def test_too_little_says_how_much_more(tmp_path):
    examination, _ = checked(tmp_path, lambda number: shots(scene(number, SIDE), photons(50), 2, number))

    [found] = examination.findings
    assert (found.check, found.verdict) == ("too little", "missing")
    assert "Record about 27 more scenes like these" in found.reason


def test_the_report_is_a_table(tmp_path):
    def pair(number):
        first, second = shots(scene(number, SIDE), photons(200), 2, number)
        return [first, second + 30]

    checked(tmp_path, pair)
    (tmp_path / "notes.txt").write_text("x")

    lines = render(examine(tmp_path)).splitlines()

    assert lines[0] == f"{tmp_path}: 3 pairs; 6 noisy shots."
    assert lines[1].startswith("Noise: its variance is 2.0") or lines[1].startswith("Noise: its variance is 1.9")
    assert lines[3].split() == ["file", "check", "verdict", "number", "reason"]
    assert lines[4].split()[:3] == ["scene-0/frame-01.tif", "brightness", "corrected"]
    assert lines[-2:] == ["Left out:", "  notes.txt: not an image, by its suffix"]


def test_progress_is_told(tmp_path):
    told = []
    for number in range(2):
        write(tmp_path, f"scene-{number}", shots(scene(number, SIDE), white(25), 2, number))

    examine(tmp_path, on_progress=lambda done, total, name: told.append((done, total, name)))

    assert told == [(0, 2, "scene-0"), (1, 2, "scene-1")]
