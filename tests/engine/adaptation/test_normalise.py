"""Normalisation for training: any range of samples becomes the same pixels, and the law of all scenes is kept."""

import pytest
import torch

from engine.adaptation import examine
from engine.adaptation.normalise import ScenesNormalisation, measure_laws
from engine.data.noise.anscombe import NoiseLaw
from engine.inference.normalisation import normalisation_for
from tests.support.bursts import GAIN, PEDESTAL, photons, scene, shots, white, write

LAW = NoiseLaw(2.0, 100.0, 4.0)


def shot(number=0, noise=None):
    return shots(scene(number, photograph=False), noise or photons(200), 1, number)[0].unsqueeze(2)


@pytest.mark.parametrize("offset", [-30000.0, 0.0, 500.0, 1e6])
def test_an_offset_changes_nothing(offset):
    samples = shot(noise=white(10)).float()

    pixels, moved = (ScenesNormalisation().of(each).forward(each) for each in (samples, samples + offset))

    assert torch.allclose(pixels, moved, atol=2e-3)


def test_a_law_makes_the_noise_even_and_comes_back():
    samples = shot().float()
    normalisation = ScenesNormalisation((LAW,)).of(samples)

    assert normalisation.transforms
    # The inverse is unbiased, so it is not the exact inverse.
    assert torch.allclose(normalisation.inverse(normalisation.forward(samples)), samples, atol=2 * GAIN)


def test_training_and_serving_share_one_normalisation():
    samples = shot().float()

    served, ours = normalisation_for(samples, [LAW]), ScenesNormalisation((LAW,)).of(samples)

    assert torch.equal(served.forward(samples), ours.forward(samples))


def test_a_photograph_stays_as_it_is():
    samples = (255 * torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(0))).to(torch.uint8)

    pixels = ScenesNormalisation().of(samples).forward(samples)

    assert torch.allclose(pixels, samples.float() / 255)


def test_the_law_is_measured_over_all_scenes(tmp_path):
    for number in range(4):
        write(tmp_path, f"scene-{number}", shots(scene(number, photograph=False), photons(200), 3, number))

    (estimate,) = measure_laws(examine(tmp_path).usable)

    assert estimate.law.gain == pytest.approx(GAIN, rel=0.1)
    assert estimate.law.pedestal == pytest.approx(PEDESTAL, abs=30)


def test_white_noise_has_no_law(tmp_path):
    for number in range(3):
        write(tmp_path, f"scene-{number}", shots(scene(number), white(20), 2, number))

    assert measure_laws(examine(tmp_path).usable) == ()
