"""Brightness: gain and offset between noisy shots, without bias."""

import pytest
import torch

from engine.adaptation.doctor.brightness import apply, fit_brightness
from tests.support.bursts import scene, shots, white


def pair(number, sigma, gain=1.0, offset=0.0):
    first, second = shots(scene(number, 128), white(sigma), 2, number)
    return gain * (second - 1000) + 1000 + offset, first


def test_noise_in_the_reference_does_not_make_the_gain_too_small():
    fits = [fit_brightness(*pair(number, 60)) for number in range(12)]

    # Plain regression would give about 0.5.
    known = [fit.gain for fit in fits if fit.gain_error < 0.05]
    assert known
    assert sum(known) / len(known) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize(("gain", "offset"), [(1.1, 0.0), (0.8, 20.0)])
def test_gain_and_offset_are_found_and_undone(gain, offset):
    shot, reference = pair(1, 5, gain, offset)

    fit = fit_brightness(shot, reference)
    back = apply(shot.unsqueeze(2), (fit,))

    assert fit.gain == pytest.approx(gain, abs=4 * fit.gain_error)
    assert float(back.mean()) == pytest.approx(float(reference.mean()), abs=0.2)


def test_of_a_flat_scene_the_level_alone_is_found(rng):
    reference, shot = (100 + torch.randn(128, 128, generator=rng).double() for _ in range(2))

    fit = fit_brightness(shot + 3, reference)

    assert fit.gain == 1
    assert fit.level == pytest.approx(3, abs=4 * fit.level_error)


def test_errors_are_as_large_as_estimates_scatter():
    deviations = torch.tensor([fit_brightness(*pair(3 + number, 25)).level for number in range(20)])
    error = fit_brightness(*pair(3, 25)).level_error

    assert 0.5 < float(deviations.std()) / error < 1.5
