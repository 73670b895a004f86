import math

import pytest
import torch

from engine.imageio.read import read_rgb
from engine.inference.noise_estimation.ceiling import noise_ceiling
from tests.support.noise import DATA, as_jpeg, blurred, generator, in_8_bits, leaves, needs_kodak, noise, ramp


@pytest.mark.parametrize("sigma", [1, 5, 15, 50])
@pytest.mark.parametrize("seed", range(4))
def test_the_ceiling_is_above_white_noise(sigma, seed):
    clean = leaves(seed)

    assert noise_ceiling(in_8_bits(clean + sigma / 255 * noise(clean))) >= 0.98 * sigma


@pytest.mark.parametrize("sigma", [5, 20])
def test_the_ceiling_is_near_the_noise_of_a_plain_image(sigma):
    clean = ramp()

    assert noise_ceiling(clean + sigma / 255 * noise(clean)) == pytest.approx(1.1 * sigma, rel=0.1)


def test_the_ceiling_is_above_correlated_noise():
    clean = ramp()

    assert noise_ceiling(clean + 10 / 255 * blurred(noise(clean))) >= 9.8


@pytest.mark.parametrize("shot", [0.001, 0.006])
def test_the_ceiling_is_above_photon_noise(shot):
    clean = ramp(384, 384, low=0.05, high=0.9)
    variance = shot * clean + 1e-5

    ceiling = noise_ceiling(clean + variance.sqrt() * noise(clean))

    assert 1 <= ceiling / (255 * float(variance.mean().sqrt())) < 1.3


def test_noise_of_16_bits_has_a_ceiling():
    counts = (1000 + 3 * torch.randn(256, 256, 1, generator=generator())).round().to(torch.uint16)

    assert noise_ceiling(counts) * 257 == pytest.approx(3.2, rel=0.1)


def test_constant_bars_do_not_lower_the_ceiling():
    clean = leaves()
    noisy = in_8_bits(clean + 15 / 255 * noise(clean))
    noisy[:80] = noisy[240:] = 0.0627

    assert noise_ceiling(noisy) >= 15


@pytest.mark.parametrize("quality", [60, 90])
def test_jpeg_does_not_lower_the_ceiling(quality):
    clean = leaves()
    image = as_jpeg(clean + 15 / 255 * noise(clean), quality)

    left = 255 * float((image - as_jpeg(clean, quality)).square().mean().sqrt())
    assert noise_ceiling(image) >= 0.9 * left


def test_a_smooth_image_has_a_low_ceiling():
    assert noise_ceiling(in_8_bits(ramp(low=0.4, high=0.5))) < 1


@pytest.mark.parametrize("shape", [(5, 40, 3), (64, 64, 1)])
def test_without_noise_or_size_there_is_no_ceiling(shape):
    assert noise_ceiling(torch.full(shape, 0.5)) == math.inf


@needs_kodak
def test_kodaks_clean_images_have_a_low_ceiling():
    ceilings = sorted(noise_ceiling(read_rgb(file)) for file in sorted((DATA / "kodak24").glob("*.png")))

    assert ceilings[12] < 2.6
    assert ceilings[-1] < 9
