"""Trial: the estimated error of a network is the true one, and the network with the least wins."""

import pytest
import torch

from engine.data.noise.anscombe import NoiseLaw
from engine.inference import trial
from engine.inference.noise_estimation import NoiseLevel
from engine.inference.normalisation import normalisation_for
from tests.support.measured import GAIN, LAW, PEDESTAL, as_counts, cells, recorded
from tests.support.networks import Averaging
from tests.support.noise import noise

SIDE = 384


NETS = {"none": Averaging(1), "some": Averaging(5), "much": Averaging(31)}


def shot(photons):
    return as_counts(recorded(cells(side=SIDE, count=50), photons))


@pytest.mark.parametrize("photons", [20, 300])
@pytest.mark.parametrize("name", NETS)
def test_the_estimated_error_is_the_true_one(photons, name):
    samples = shot(photons)
    normalisation = normalisation_for(samples, [LAW])
    windows = trial._windows(samples, normalisation)
    scene = as_counts(PEDESTAL + GAIN * photons * cells(side=SIDE, count=50))
    clean = trial._windows_at(scene, normalisation, trial._corners(samples))

    estimated = trial._risk(NETS[name], windows, trial._Noise.of(normalisation), is_grey=True)

    # The expected transformed value is a little below the transformed expected value.
    bias = 0.25 / scene.float().sub(PEDESTAL).div(GAIN).clamp(min=1).mean().sqrt()
    true = float((NETS[name].forward(windows) - clean).square().mean())
    assert estimated == pytest.approx(true, rel=0.1, abs=float((bias / normalisation.span) ** 2))


@pytest.mark.parametrize("photons", [20, 300])
def test_the_network_with_the_least_error_wins(photons):
    samples = shot(photons)

    assert trial.least_risk(NETS, samples, normalisation_for(samples, [LAW])) == "some"


def test_the_order_does_not_matter():
    samples = shot(50)
    backwards = dict(reversed(NETS.items()))

    assert trial.least_risk(backwards, samples, normalisation_for(samples, [LAW])) == "some"


def test_the_first_is_taken_where_no_window_fits():
    samples = shot(50)[:200, :100]

    assert trial.least_risk(NETS, samples, normalisation_for(samples, [LAW])) == "none"


def test_the_first_is_taken_at_a_few_photons_without_read_noise():
    scene = 0.3 * torch.ones(SIDE, SIDE, dtype=torch.float64)
    samples = as_counts(torch.poisson(scene, generator=torch.Generator().manual_seed(0)))
    normalisation = normalisation_for(samples, [NoiseLaw(1, 0, 0)])

    assert trial.least_risk(NETS, samples, normalisation) == "none"


def test_the_cost_is_bounded():
    windows = trial._windows(shot(50), normalisation_for(shot(50), [LAW]))

    assert windows[..., 0].numel() <= trial.MAX_SHARE * SIDE**2


def photograph(sigma):
    """A flat ground with squares at the right, and noise."""
    axis = torch.arange(SIDE)
    clean = torch.full((SIDE, SIDE, 3), 0.5)
    squares = 0.8 * ((axis // 6 + axis.unsqueeze(1) // 6) % 2) + 0.1
    clean[:, 2 * SIDE // 3 :] = squares[:, : SIDE // 3].unsqueeze(2)
    return clean + sigma / 255 * noise(clean)


EVEN = (NoiseLevel(128.0, 10.0),)


@pytest.mark.parametrize("sigma", [0, 5, 20])
def test_what_is_removed_where_an_image_is_calm_is_its_noise(sigma):
    share = trial.removed_where_calm(NETS["some"], photograph(sigma), EVEN)

    assert share == pytest.approx(sigma / 10, rel=0.1, abs=0.01)


def test_the_noise_is_that_of_the_calm_parts_brightness():
    levels = (NoiseLevel(25.0, 60.0), NoiseLevel(127.0, 20.0), NoiseLevel(229.0, 60.0))

    share = trial.removed_where_calm(NETS["some"], photograph(20), levels)

    assert share == pytest.approx(1, rel=0.1)


def test_what_is_removed_is_the_same_for_integers():
    samples = (photograph(20).clamp(0, 1) * 255).round()

    share = trial.removed_where_calm(NETS["some"], samples.to(torch.uint8), EVEN)

    assert share == pytest.approx(trial.removed_where_calm(NETS["some"], samples / 255, EVEN))


@pytest.mark.parametrize("shape", [(100, 300), (128, 128), (1, 1)])
def test_nothing_can_be_told_of_a_small_image(shape):
    assert trial.removed_where_calm(NETS["some"], torch.zeros(*shape, 3), EVEN) is None


@pytest.mark.parametrize("levels", [(), (NoiseLevel(128.0, 0.0),)])
def test_nothing_can_be_told_without_known_noise(levels):
    assert trial.removed_where_calm(NETS["some"], photograph(20), levels) is None


@pytest.mark.parametrize(("factor", "offset"), [(2000, -1000), (0.5, 300), (1, 0)])
def test_what_is_removed_does_not_depend_on_the_unit(factor, offset):
    samples = photograph(20)
    scaled = factor * samples + offset
    levels = (NoiseLevel(255 * (factor * 0.5 + offset), factor * 20.0),)

    share = trial.removed_where_calm(NETS["some"], scaled, levels, normalisation_for(scaled))

    assert share == pytest.approx(1, rel=0.1)
