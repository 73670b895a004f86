"""Strength above 1: a second pass of the network, which sees stronger noise, and a third one."""

import math

import pytest
import torch

from engine.imageio.image import Image
from engine.inference.denoise import OutputOptions, TiledDenoiser, denoise, denoise_image
from engine.inference.noise_estimation import estimate_noise
from engine.inference.preparation import Preparation, prepare
from tests.support.measured import as_counts, cells, recorded
from tests.support.networks import NETWORKS, Averaging, image

STRONGEST = OutputOptions(strength=1.5)


def three_passes(pixels, scale, net=NETWORKS[0], grey=False):
    """The result in the network's range, not clipped."""

    def run(x):
        y = denoise_image(net, x)
        return y.mean(2, keepdim=True).expand(-1, -1, 3) if grey else y

    first = run(pixels)
    second = run(first + scale * (pixels - first))
    return second + (scale - 1) / 0.5 * (run(second) - second)


@pytest.mark.parametrize("strength", [1.2, 1.5])
def test_strength_above_1_smooths_in_three_passes(strength):
    noisy = image(70, 60)

    found = denoise(NETWORKS[0], Image(noisy), options=OutputOptions(strength)).samples

    torch.testing.assert_close(found, three_passes(noisy, strength), atol=1e-5, rtol=0)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
def test_whole_numbers_are_rounded_only_at_the_end(dtype, channels):
    white = torch.iinfo(dtype).max
    samples = (image(70, 60)[..., :channels] * white).round().to(dtype)

    found = denoise(NETWORKS[0], Image(samples), options=STRONGEST).samples

    expected = three_passes(Image(samples).pixels, 1.5, grey=channels == 1)[..., :channels].clamp(0, 1)
    assert float((found.float() / white - expected).abs().max()) < 0.51 / white + 1e-5


def test_just_above_1_is_as_at_1():
    noisy = Image(image(70, 60))

    near = denoise(NETWORKS[0], noisy, options=OutputOptions(strength=1.000001)).samples

    torch.testing.assert_close(near, denoise(NETWORKS[0], noisy).samples, atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_shares_of_brightness_and_colour_are_of_the_whole_change(dtype):
    samples = image(70, 60) if dtype == torch.float32 else (image(70, 60) * 255).round().to(dtype)
    net = Averaging(3)
    change = denoise(net, Image(samples), options=STRONGEST).samples.float() - samples.float()

    half = denoise(net, Image(samples), options=OutputOptions(1.5, 0.5, 0.5)).samples.float()

    rounding = 1e-5 if dtype == torch.float32 else 1.0
    torch.testing.assert_close(half, samples + change / 2, atol=rounding, rtol=0)


def test_windows_of_all_passes_fit_together():
    noisy = Image((image(150, 130) * 255).round().to(torch.uint8))

    whole = denoise(NETWORKS[1], noisy, options=STRONGEST).samples
    tiled = denoise(NETWORKS[1], noisy, window_size=(1, 2), options=STRONGEST).samples

    assert int((whole.int() - tiled.int()).abs().max()) <= 1


def test_each_pass_has_windows_to_run():
    windows = [
        TiledDenoiser(NETWORKS[0], Image(image(70, 60)), options=OutputOptions(strength)).windows
        for strength in (0.0, 1.0, 1.5)
    ]

    assert [sum(window.pixels for window in each) for each in windows] == [0, 70 * 60, 3 * 70 * 60]


def test_counts_of_photons_are_amplified_where_their_noise_is_even():
    samples = as_counts(recorded(cells(), 30))
    preparation = prepare(samples, estimate_noise(samples))
    net = Averaging(3)
    normalised = preparation.normalisation.forward(samples).expand(-1, -1, 3)

    found = denoise(net, Image(samples), options=STRONGEST, preparation=preparation).samples

    expected = preparation.normalisation.inverse(three_passes(normalised, 1.5, net)[..., :1])
    # The mean of the noisy image is kept, which the inverse alone does not ensure.
    difference = found.float() - expected
    assert float((difference - difference.mean()).abs().max()) < 1.0


def test_a_bound_on_the_change_grows_with_the_strength():
    noisy = Image(0.5 + 0.05 * torch.randn(64, 64, 3, generator=torch.Generator().manual_seed(0)))
    change = []
    for strength in (1.0, 1.5):
        options, bound = OutputOptions(strength), Preparation(max_change=0.049)
        result = denoise(Averaging(9), noisy, options=options, preparation=bound).samples
        change.append(math.sqrt(float((result - noisy.samples).square().mean())))

    assert change[0] < 0.049 < change[1]
