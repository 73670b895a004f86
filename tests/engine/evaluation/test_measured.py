from itertools import pairwise

import pytest
import torch
from PIL import Image

from engine.evaluation.measured import OFFSETS, SIDE, measured_trials
from engine.evaluation.metrics import FIGURES


@pytest.fixture(scope="module")
def trials(tmp_path_factory):
    """The trials without recorded ones, by set and noise."""
    return {(trial.set, trial.noise): trial for trial in measured_trials(tmp_path_factory.mktemp("sets"))}


def made(trials, name, noise, count=2):
    return [make() for make in trials[name, noise].first(count).measurements]


def residual(measurement):
    return measurement.noisy.double() - measurement.truth


def test_images_are_the_same_each_time_and_differ(trials):
    for trial in trials.values():
        first, again = ([make() for make in trial.first(3).measurements] for _ in range(2))
        assert all(torch.equal(one.noisy, other.noisy) for one, other in zip(first, again, strict=True))
        assert all(not torch.equal(one.noisy, other.noisy) for one, other in pairwise(first))


def test_every_image_has_its_sample_figures_and_size(trials):
    for trial in trials.values():
        assert len(trial.samples) == len(trial.measurements) == 8
        measurement = trial.measurements[0]()
        assert measurement.noisy.shape[:2] == (SIDE, SIDE)
        assert measurement.noisy.shape == measurement.truth.shape
        assert set(measurement.figures) <= FIGURES.keys()
        noisy, clean = next(trial.first(1).pairs())
        assert noisy.shape == clean.shape == (SIDE, SIDE, 3)
        assert noisy.dtype == clean.dtype == torch.float32


@pytest.mark.parametrize("photons", [5, 20, 50, 200])
def test_photons_have_the_variance_of_their_number(trials, photons):
    [plain] = made(trials, "microscope", f"{photons} photons", 1)
    [camera] = made(trials, "microscope", f"{photons} photons + 100", 1)

    for measurement, gain, low, read in ((plain, 1, 0, 0), (camera, 2, 100, 2)):
        assert measurement.noisy.dtype == torch.uint16
        error, variance = residual(measurement), gain * (measurement.truth - low) + read**2
        assert (measurement.low, measurement.span) == (low, gain * photons)
        assert abs(error.mean()) < 4 * variance.mean().sqrt() / SIDE
        # Rounding adds a twelfth.
        bright = measurement.truth - low > 0.3 * measurement.span
        part = error[bright].square().mean() / (variance[bright].mean() + (1 / 12 if read else 0))
        assert part.item() == pytest.approx(1, abs=0.08)


def test_stars_stand_on_an_even_ground(trials):
    [stars] = made(trials, "stars", "photons", 1)

    assert stars.truth.median() == 800
    assert (stars.truth > 5000).sum() > 100
    assert residual(stars)[stars.truth < 801].std().item() == pytest.approx(800**0.5, rel=0.03)


def test_moved_images_are_the_plain_ones_in_other_ranges(trials):
    plain, moved = made(trials, "offsets", "white 20", 8), made(trials, "offsets", "white 20, moved", 8)

    assert [sample.name for sample in trials["offsets", "white 20, moved"].samples] == [
        offset.name for offset in OFFSETS
    ]
    for one, other, offset in zip(plain, moved, OFFSETS, strict=True):
        assert other.noisy.dtype == offset.kind
        back = (other.noisy.double() - offset.low) / offset.span
        torch.testing.assert_close(back, one.noisy.double(), rtol=0, atol=0.51 / offset.span + 1e-4)


@pytest.mark.parametrize("name", ["pixel art", "screenshot", "line art"])
def test_graphics_are_clean_and_have_few_colours(trials, name):
    for graphic in made(trials, name, "none"):
        assert graphic.noisy.dtype == torch.uint8
        assert torch.equal(graphic.noisy.double(), graphic.truth.double())
        colours = len(graphic.noisy.reshape(SIDE * SIDE, -1).unique(dim=0))
        assert colours <= (2 if name == "line art" else 300)


def test_impulses_are_two_per_cent_black_and_as_many_white(trials):
    [pure] = made(trials, "impulses", "4 %", 1)
    [noisy] = made(trials, "impulses", "4 %, white 15", 1)

    hit = residual(pure).abs() > 0.6
    assert hit.double().mean().item() == pytest.approx(0.04, abs=0.004)
    assert set(pure.noisy[hit].tolist()) == {0, 255}
    rest = ~hit & (pure.truth > 60) & (pure.truth < 190)
    assert residual(noisy)[rest].std().item() == pytest.approx(15, rel=0.03)


def test_recorded_fluorescence_is_a_trial_if_it_is_there(tmp_path):
    folder = tmp_path / "own" / "fluorescence"
    folder.mkdir(parents=True)
    for name, value in (("001_0_noisy", 90), ("001_0_avg400", 30)):
        Image.new("L", (20, 16), value).save(folder / f"{name}.tif")

    trial = measured_trials(tmp_path)[-1]

    assert (trial.set, trial.noise) == ("fluorescence", "recorded")
    assert [sample.name for sample in trial.samples] == ["001_0"]
    measurement = trial.measurements[0]()
    assert measurement.noisy.shape == (16, 20)
    assert (int(measurement.noisy[0, 0]), float(measurement.truth[0, 0])) == (90, 30)
