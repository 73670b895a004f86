"""Normalisation: offsets off, photon noise made even, and both undone exactly."""

import pytest
import torch

from engine.inference.normalisation import normalisation_for
from tests.support.measured import GAIN, LAW, as_counts, cells, expected, recorded
from tests.support.noise import leaves, noise


def photograph(channels=3):
    return leaves()[..., :channels]


@pytest.mark.parametrize("sigma", [0, 15, 50])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_photograph_is_not_normalised(sigma, channels):
    clean = photograph(channels)

    noisy = clean + sigma / 255 * noise(clean)

    assert normalisation_for(noisy) is None
    assert normalisation_for((noisy.clamp(0, 1) * 255).round().to(torch.uint8)) is None


@pytest.mark.parametrize("offset", [-100.0, -1.0, 3.0, 1e4])
@pytest.mark.parametrize("span", [1.0, 500.0])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_offset_is_taken_off_and_put_back(offset, span, channels):
    measured = offset + span * photograph(channels)

    normalisation = normalisation_for(measured)
    pixels = normalisation.forward(measured)

    assert -0.1 < pixels.min() < 0.1
    assert 0.9 < pixels.max() < 1.1
    error = (normalisation.inverse(pixels) - measured).abs().max()
    assert error < 1e-5 * span + 2e-7 * abs(offset)


def test_a_colour_image_has_one_offset_for_all_channels():
    measured = torch.tensor([300.0, 320.0, 340.0]) + 20 * photograph()

    normalisation = normalisation_for(measured)

    assert len(set(normalisation.low.tolist())) == 1
    assert "offset 3" in normalisation.words


def test_integers_with_a_pedestal_are_normalised():
    measured = (10_000 + 500 * photograph()).round().to(torch.int32).to(torch.uint16)

    normalisation = normalisation_for(measured)

    assert float(normalisation.low[0]) == pytest.approx(10_000, abs=60)
    assert (
        normalisation.inverse(normalisation.forward(measured))
        .round()
        .to(torch.int32)
        .equal(measured.to(torch.int32))
    )


@pytest.mark.parametrize("value", [0.0, 0.5, 70.0, -3.0])
def test_an_even_image_is_not_normalised(value):
    assert normalisation_for(torch.full((32, 32, 1), value)) is None


@pytest.mark.parametrize("photons", [5, 50, 500])
def test_photon_noise_has_one_level_afterwards(photons):
    scene = cells()
    normalisation = normalisation_for(as_counts(recorded(scene, photons)), [LAW])
    shots = torch.stack([normalisation.forward(as_counts(recorded(scene, photons, seed))) for seed in range(40)])

    sigma = shots.std(0).flatten() * normalisation.span

    dark, bright = scene.flatten() < 0.1, scene.flatten() > 0.5
    assert float(sigma[dark].mean()) == pytest.approx(1, abs=0.1)
    assert float(sigma[bright].mean()) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("photons", [2, 20, 200])
def test_the_mean_of_many_normalised_shots_comes_back_without_bias(photons):
    scene = cells(side=64, count=6)
    normalisation = normalisation_for(as_counts(recorded(scene, photons)), [LAW])
    mean = sum(normalisation.forward(as_counts(recorded(scene, photons, seed))) for seed in range(300)) / 300

    error = normalisation.inverse(mean)[..., 0] - expected(scene, photons)

    # In parts of the range.
    assert abs(float(error.mean())) < 0.002 * GAIN * photons + 0.01
