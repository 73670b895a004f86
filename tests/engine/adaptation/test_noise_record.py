"""Noise record: what serving would measure in the shots, and what makes later images of that noise near."""

import pytest

from engine.adaptation import examine
from engine.adaptation.noise_record import record_noise
from engine.adaptation.normalise import ScenesNormalisation, measure_laws
from engine.adaptation.shots import scene_shots
from engine.inference.noise_distance import distance
from engine.inference.noise_estimation import estimate_noise
from tests.support.adapted import shot_of, smeared
from tests.support.bursts import GAIN, photons, scene, shots, white, write

SIDE = 192


def recorded(folder, noise):
    for number in range(5):
        write(folder, f"scene-{number}", shots(scene(number, SIDE), noise, 2, number))
    examination = examine(folder)
    laws = tuple(estimate.law for estimate in measure_laws(examination.usable))
    scenes, _ = scene_shots(examination, ScenesNormalisation(laws), seed=0)
    return record_noise(examination.usable, scenes, laws)


@pytest.mark.parametrize("noise", [photons(200), white(25), smeared(25)])
def test_other_shots_of_the_same_noise_are_near(noise, tmp_path):
    record = recorded(tmp_path, noise)

    found = [distance(estimate_noise(shot_of(noise, number)), "uint16", record) for number in range(10, 15)]

    assert sum(each.is_near for each in found) >= 4, [each.words for each in found]


def test_the_record_has_the_kind_of_images_and_of_noise(tmp_path):
    photon = recorded(tmp_path / "photons", photons(200))
    shared = recorded(tmp_path / "smeared", smeared(25))

    assert (photon.channels, photon.samples, photon.levels) == (1, "uint16", ())
    assert photon.laws[0][0].gain == pytest.approx(GAIN, rel=0.1)
    assert photon.correlation == (0, 0, 0)
    assert shared.laws == ()
    assert shared.correlation[0] == pytest.approx(0.5, abs=0.1)
    assert shared.levels[0][1] == pytest.approx(25, rel=0.15)
    assert 900 < shared.brightness[0] < 1000 < 1250 < shared.brightness[1] < 1400


def test_images_without_noise_have_no_record(tmp_path):
    for number in range(3):
        write(tmp_path, f"scene-{number}", shots(scene(number, SIDE), lambda light, rng: 0 * light + 1000, 1, 0))

    assert record_noise(examine(tmp_path, "single").scenes, [], ()) is None
