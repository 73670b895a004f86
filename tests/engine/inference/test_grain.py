"""Grain: which part of the removed noise comes back."""

import pytest
import torch

from engine.imageio.image import Image
from engine.inference.denoise import OutputOptions, denoise
from engine.inference.grain import SIDE, STRIP_ROWS, local_mean, put_back_grain
from tests.support.networks import NETWORKS, Averaging

LUMA = torch.tensor([0.299, 0.587, 0.114])


def noise(height, width, channels, seed=0):
    return torch.randn(height, width, channels, generator=torch.Generator().manual_seed(seed)) / 20


def with_grain(clean, noisy, share):
    result = clean.clone()
    put_back_grain(result, noisy, share)
    return result


def test_fine_noise_of_brightness_comes_back_in_that_share():
    clean, grain = torch.full((90, 80, 3), 0.5), noise(90, 80, 1)

    added = with_grain(clean, clean + grain, 0.25) - clean

    fine = grain.squeeze(2) - local_mean(grain.squeeze(2), SIDE)
    torch.testing.assert_close(added, 0.25 * fine.unsqueeze(2).expand(-1, -1, 3), atol=1e-6, rtol=0)
    assert float(added.square().mean() / (0.25 * grain).square().mean()) > 0.9


def test_colour_noise_stays_away():
    clean, colour = torch.full((40, 50, 3), 0.5), noise(40, 50, 3)
    colour -= (colour @ LUMA).unsqueeze(2)

    torch.testing.assert_close(with_grain(clean, clean + colour, 1.0), clean, atol=1e-6, rtol=0)


def test_blotches_stay_away():
    blotches = noise(8, 8, 1).repeat_interleave(40, 0).repeat_interleave(40, 1)
    clean = torch.full((320, 320, 1), 0.5)

    added = with_grain(clean, clean + blotches, 1.0) - clean

    assert float(added.square().mean()) < 0.1 * float(blotches.square().mean())


@pytest.mark.parametrize("height", [1, STRIP_ROWS, STRIP_ROWS + 1, 2 * STRIP_ROWS + 2])
def test_strips_of_rows_leave_no_seam(height):
    clean, grain = torch.zeros(height, 20, 1), noise(height, 20, 1)

    added = with_grain(clean, grain, 1.0)

    fine = grain.squeeze(2) - local_mean(grain.squeeze(2), SIDE)
    torch.testing.assert_close(added.squeeze(2), fine, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
def test_whole_numbers_are_clipped_and_rounded(dtype):
    white = torch.iinfo(dtype).max
    clean = torch.tensor([0.0, 0.5, 1.0]).repeat_interleave(20).expand(60, -1).unsqueeze(2)
    noisy = clean + noise(60, 60, 1)
    samples, given = ((x.clamp(0, 1) * white).round().to(dtype) for x in (clean, noisy))

    result = with_grain(samples, given, 1.0)

    exact = with_grain(samples.float(), given.float(), 1.0)
    assert torch.equal(result.float(), exact.clamp(0, white).round())


def test_a_result_in_floats_gets_the_grain_of_its_counts():
    counts = (1000 + 400 * noise(50, 60, 1)).round().to(torch.uint16)
    clean = torch.full((50, 60, 1), 1000.0)

    assert torch.equal(with_grain(clean, counts, 0.5), with_grain(clean, counts.float(), 0.5))


def test_denoising_with_grain_adds_it_to_the_result():
    noisy = Image(torch.rand(70, 60, 3, generator=torch.Generator().manual_seed(0)))
    smooth = denoise(NETWORKS[0], noisy).samples

    grainy = denoise(NETWORKS[0], noisy, options=OutputOptions(grain=0.5)).samples

    torch.testing.assert_close(grainy, with_grain(smooth, noisy.samples, 0.5))


def test_the_residual_lacks_the_grain_that_was_kept():
    noisy = Image(0.5 + noise(70, 60, 1))
    power = []
    for grain in (0.0, 0.5):
        options = OutputOptions(output="residual", grain=grain)
        power.append(float((denoise(Averaging(5), noisy, options=options).samples - 0.5).square().mean()))

    assert 0.2 < power[1] / power[0] < 0.4


def test_transparent_pixels_get_no_grain():
    alpha = torch.ones(40, 50)
    alpha[10:20] = 0
    noisy = Image(torch.rand(40, 50, 3), alpha)

    grainy = denoise(NETWORKS[0], noisy, options=OutputOptions(grain=1.0)).samples

    assert torch.equal(grainy[10:20], noisy.samples[10:20])
