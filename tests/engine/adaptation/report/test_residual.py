from dataclasses import replace

import pytest
import torch

from engine.adaptation.report import residual
from engine.adaptation.report.residual import DISTANCES, REACH, residual_correlation
from engine.adaptation.result import DenoisedShot
from tests.support.pixels import generator


def test_white_noise_lies_in_its_band(shots):
    found = residual_correlation(shots)

    assert found.pixels == 2 * 300 * 320
    assert found.error == pytest.approx((2 * 300 * 320) ** -0.5)
    assert found.share_outside == pytest.approx(0.05, abs=0.05)
    assert found.at(0, 0) == 1
    assert not found.has_structure
    assert found.deviation == pytest.approx(1, abs=0.01)


def test_structure_in_the_residual_is_seen(shots):
    blurred = [
        replace(shot, denoised=shot.denoised.mean((0, 1), keepdim=True).expand(300, 320, 1)) for shot in shots
    ]

    found = residual_correlation(blurred)

    assert found.has_structure
    assert found.share_outside > 0.9
    assert found.at(0, 1) > 0.5
    assert found.deviation > 1.5


def test_a_correlation_has_its_place_and_its_mirror(shots):
    def shared(shot):
        noise = shot.residual
        return replace(shot, noisy=shot.noisy + 0.5 * noise.roll((2, -3), (0, 1)))

    found = residual_correlation([shared(shot) for shot in shots])

    assert found.largest == (2, -3)
    assert found.at(2, -3) == pytest.approx(0.4, abs=0.02)
    assert found.at(-2, 3) == found.at(2, -3)
    assert abs(found.at(2, 3)) < 0.02


def test_the_noise_of_two_shots_says_what_is_expected(shots):
    """Noise whose neighbours share it, removed as a whole."""

    def with_other(shot, number):
        noise = shot.residual + 0.5 * shot.residual.roll(1, 1)
        other = torch.randn(noise.shape, generator=generator(10 + number)) * shot.residual.std()
        other = other + 0.5 * other.roll(1, 1)
        return replace(shot, noisy=shot.denoised + noise, other=shot.denoised + other, laws=())

    pairs = [with_other(shot, number) for number, shot in enumerate(shots)]
    found = residual_correlation(pairs)
    alone = residual_correlation([replace(shot, other=None) for shot in pairs])

    assert found.expected_at(0, 1) == pytest.approx(0.4, abs=0.02)
    assert not found.has_structure
    assert found.share_outside < 0.12
    assert alone.has_structure


@pytest.mark.parametrize("strength", [1.0, 1.3])
def test_the_best_denoiser_has_what_is_expected_of_it(strength):
    """A scene of neighbours that are alike, in white noise: the best denoiser is Wiener's filter."""
    power = 2 + 2 * torch.cos(2 * torch.pi * torch.fft.fftfreq(300)).unsqueeze(1)
    filtered = 1 - strength / (power + 1)

    def shot(number):
        scene, *noise = torch.randn(3, 300, 300, generator=generator(20 + number))
        first, second = (scene + scene.roll(1, 0) + each for each in noise)
        best = torch.fft.irfft2(torch.fft.rfft2(first) * filtered, (300, 300))
        first, best, second = (each.unsqueeze(2) for each in (first, best, second))
        return DenoisedShot(f"{number}", first, best, other=second)

    found = residual_correlation([shot(number) for number in range(4)])

    assert abs(found.at(1, 0)) > 0.02
    assert found.has_structure == (strength != 1)


def test_noise_left_in_the_image_is_seen_in_the_spread(shots):
    half = [replace(shot, denoised=(shot.noisy + shot.denoised) / 2) for shot in shots]

    assert residual_correlation(half).deviation == pytest.approx(0.5, abs=0.02)


def test_without_a_law_the_residuals_own_spread_is_taken(shots):
    found = residual_correlation([replace(shot, laws=()) for shot in shots])

    assert found.deviation is None
    assert found.share_outside < 0.12


def test_masked_pixels_say_nothing(shots):
    masked = torch.zeros(300, 320, dtype=torch.bool)
    masked[100:160, 50:120] = True
    moved = [replace(shot, noisy=shot.noisy + 200 * masked.unsqueeze(2), masked=masked) for shot in shots]

    found = residual_correlation(moved)

    assert found.pixels == 2 * (300 * 320 - 60 * 70)
    assert found.share_outside < 0.12


def test_colour_is_one_plane_with_a_law_for_each_channel(shots):
    noise = [shot.noisy - shot.denoised for shot in (*shots, shots[0])]
    clean = shots[0].denoised.expand(-1, -1, 3)
    third = torch.cat([noise[0], noise[1], noise[0].flip(0)], 2)
    found = residual_correlation([replace(shots[0], noisy=clean + third, denoised=clean, laws=3 * shots[0].laws)])

    assert found.pixels == 300 * 320
    assert found.share_outside < 0.12


def test_of_a_large_shot_the_middle_is_looked_at(shots, monkeypatch):
    monkeypatch.setattr(residual, "MAX_SIDE", 100)
    masked = torch.ones(300, 320, dtype=torch.bool)
    masked[100:200, 110:210] = False

    found = residual_correlation([replace(shots[0], masked=masked)])

    assert found.pixels == 100 * 100


@pytest.mark.parametrize("size", [300, 2 * REACH])
def test_nothing_removed_or_too_small_is_none(size, shots):
    shot = shots[0]
    if size == 300:
        shot = replace(shot, denoised=shot.noisy)
    else:
        shot = replace(shot, noisy=shot.noisy[:size], denoised=shot.denoised[:size])

    assert residual_correlation([shot]) is None


def test_each_distance_is_counted_once():
    assert len(DISTANCES) == ((2 * REACH + 1) ** 2 - 1) / 2
    assert not any((-down, -across) in DISTANCES for down, across in DISTANCES)
