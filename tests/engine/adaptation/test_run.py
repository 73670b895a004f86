"""Adaptation: from noisy shots to weights that are better, or to a clear word and none."""

import hashlib
import itertools
import time

import pytest
import tifffile
import torch

from engine.adaptation import adapt, start
from engine.inference.adapted_noise import laws_in
from engine.layers import parameters
from engine.models import checkpoint
from engine.models.networks import build_network
from engine.models.unet import UNetConfig
from tests.support.bursts import photons, scene, shots, white, write

SIDE = 96
SCENES = 10
STEPS = 120
CONFIG = UNetConfig((16, 16), (1, 1, 1))


@pytest.fixture(scope="module")
def identity(tmp_path_factory):
    """Weights in service whose network returns its input, so there is much to gain."""
    path = tmp_path_factory.mktemp("start") / "identity.safetensors"
    checkpoint.save(path, build_network(CONFIG, torch.Generator().manual_seed(0)), CONFIG, {"terms": "free"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(start, "CANDIDATES", {1: (str(path),)})
        yield str(path)


def noisy_scenes(folder, noise, count=2, scenes=SCENES):
    for number in range(scenes):
        write(folder, f"scene-{number}", shots(scene(number, SIDE), noise, count, number))
    return folder


@pytest.fixture(scope="module")
def adapted(tmp_path_factory, identity):
    folder = noisy_scenes(tmp_path_factory.mktemp("shots"), photons(200))
    seen = []
    result = adapt(folder, folder / "mine.safetensors", start=identity, steps=STEPS, on_progress=seen.append)
    return result, seen


def test_pairs_of_noisy_shots_make_better_weights(adapted):
    result, _ = adapted

    assert result.passed, result.verdict.reasons
    assert result.verdict.improvement.low > 0
    assert result.verdict.after.value > 1.5
    assert result.verdict.before.value == pytest.approx(0, abs=0.01)
    assert result.weights.name == "mine.safetensors"


def test_the_result_says_how_it_came_about(adapted, identity):
    result, _ = adapted

    assert len(result.held_out) == len(result.errors) == 4
    assert "by further noisy shots" in result.judged_by
    assert result.steps == STEPS
    assert result.digest == hashlib.sha256(result.weights.read_bytes()).hexdigest()
    assert result.start == identity
    assert f"--steps {STEPS}" in result.command
    assert result.versions["torch"]


def test_the_learning_curve_begins_at_the_start_and_rises(adapted):
    result, seen = adapted

    assert result.curve[0].step == 0
    assert result.curve[0].gain.value == pytest.approx(0, abs=0.01)
    assert max(point.gain.value for point in result.curve) > 1.5
    assert [progress.look.point for progress in seen if progress.look] == list(result.curve)
    assert list(dict.fromkeys(progress.stage for progress in seen)) == [
        "examining",
        "preparing",
        "training",
        "judging",
    ]


def test_the_weights_carry_the_noise_law(adapted):
    result, _ = adapted
    model = checkpoint.load(result.weights)

    assert model.config == CONFIG
    assert laws_in(model.metadata) == tuple(estimate.law for estimate in result.laws)
    assert model.metadata["terms"] == "free"
    assert "identity" in model.metadata["start"]


def test_the_same_seed_and_steps_make_the_same_weights(tmp_path, identity):
    folder = noisy_scenes(tmp_path / "shots", white(25))

    first, second = (
        checkpoint.load(adapt(folder, tmp_path / f"{name}.safetensors", start=identity, steps=12).weights)
        for name in "ab"
    )

    assert all(
        torch.equal(a.value, b.value) for a, b in zip(parameters(first.net), parameters(second.net), strict=True)
    )


RANGES = {
    "uint16": lambda shot: shot.numpy().astype("uint16"),
    "int16": lambda shot: (shot - 1100).numpy().astype("int16"),
    "float32": lambda shot: ((shot - 1100) * 1e-4).numpy().astype("float32"),
    "far offset": lambda shot: (shot + 60000).numpy().astype("uint16"),
}


def test_no_range_of_the_samples_costs_gain(tmp_path, identity):
    gains = {}
    for name, stored in RANGES.items():
        for number in range(SCENES):
            place = tmp_path / name / f"scene-{number}"
            place.mkdir(parents=True)
            for index, shot in enumerate(shots(scene(number, SIDE), white(25), 2, number)):
                tifffile.imwrite(place / f"frame-{index}.tif", stored(shot))
        result = adapt(tmp_path / name, tmp_path / "out.safetensors", start=identity, steps=STEPS // 2)
        gains[name] = result.verdict.after.value

    assert max(gains.values()) > 1
    assert min(gains.values()) > gains["uint16"] - 0.05


def test_single_shots_are_learnt_from(tmp_path, identity):
    for number in range(SCENES):
        [shot] = shots(scene(number, 2 * SIDE), white(40), 1, number)
        tifffile.imwrite(tmp_path / f"{'abcdefghij'[number]}view.tif", shot.numpy().astype("uint16"))

    result = adapt(tmp_path, tmp_path / "out.safetensors", start=identity, steps=STEPS, kind="single")

    assert result.verdict.after.value > 1
    assert "cannot be known from single shots" in result.judged_by


def test_weights_that_are_not_better_are_kept_aside(tmp_path, adapted):
    folder = noisy_scenes(tmp_path / "shots", photons(200))

    result = adapt(folder, tmp_path / "out.safetensors", start=str(adapted[0].weights), steps=1)

    assert not result.passed
    assert not (tmp_path / "out.safetensors").exists()
    assert result.weights == tmp_path / "out.refused.safetensors"
    assert result.weights.exists()


def test_too_few_scenes_are_refused(tmp_path, identity):
    folder = noisy_scenes(tmp_path / "shots", white(25), scenes=2)

    with pytest.raises(ValueError, match="Record at least 3 scenes"):
        adapt(folder, tmp_path / "out.safetensors", start=identity, steps=1)


@pytest.mark.parametrize(
    ("out", "minutes", "words"),
    [("out.bin", 1, "must end in .safetensors"), ("out.safetensors", 0, "more than 0")],
)
def test_a_wrong_output_or_length_is_refused(out, minutes, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        adapt(tmp_path, tmp_path / out, minutes)


def test_an_error_of_the_check_ends_the_work(tmp_path, identity):
    folder = noisy_scenes(tmp_path / "shots", white(25))
    seen = []

    def check():
        if any(progress.look for progress in seen):
            raise InterruptedError("cancelled")

    with pytest.raises(InterruptedError):
        adapt(
            folder, tmp_path / "out.safetensors", start=identity, steps=50, on_progress=seen.append, check=check
        )

    assert [path.name for path in tmp_path.iterdir()] == ["shots"]


def test_minutes_stand_still_while_training_waits(tmp_path, identity):
    folder = noisy_scenes(tmp_path / "shots", white(25), scenes=4)

    result = adapt(folder, tmp_path / "out.safetensors", start=identity, steps=10, check=lambda: time.sleep(0.2))

    assert result.minutes < 10 * 0.2 / 60


def test_minutes_are_those_of_the_clock(tmp_path, identity):
    folder = noisy_scenes(tmp_path / "shots", white(25))
    ticks = itertools.count()

    result = adapt(folder, tmp_path / "out.safetensors", 1, start=identity, clock=lambda: float(next(ticks)))

    assert 1 <= result.minutes < 2
    assert 60 * result.minutes < next(ticks)


def test_weights_are_compared_with_those_in_service(tmp_path, identity):
    folder = noisy_scenes(tmp_path / "shots", white(25))

    result = adapt(folder, tmp_path / "out.safetensors", start="photo-small", steps=1)
    again = adapt(folder, tmp_path / "out.safetensors", start=identity, steps=1)

    # Of the weights to begin from and those in service, the better ones.
    assert (result.start, result.in_service) == ("photo-small", "photo-small")
    assert (again.start, again.in_service) == (identity, identity)


def test_noise_alone_teaches_nothing(tmp_path):
    for number in range(6):
        frames = shots(torch.zeros(SIDE, SIDE).double(), white(25), 2, number)
        write(tmp_path / "shots", f"scene-{number}", frames)

    result = adapt(tmp_path / "shots", tmp_path / "out.safetensors", start="photo-grey", steps=20)

    assert result.verdict.reasons
    assert not (tmp_path / "out.safetensors").exists()


def test_shots_of_other_scenes_are_no_pairs(tmp_path, identity):
    for number in range(6):
        numbers = (10 * number, 10 * number + 1)
        frames = [shots(scene(each, SIDE), white(25), 1, each)[0] for each in numbers]
        write(tmp_path / "shots", f"scene-{number}", frames)

    result = adapt(tmp_path / "shots", tmp_path / "out.safetensors", steps=2)

    assert {check.scene.kind for check in result.examination.scenes} == {"single"}
    assert "cannot be known from single shots" in result.judged_by
