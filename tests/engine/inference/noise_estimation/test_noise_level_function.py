import math

import pytest
import torch

from engine.inference.noise_estimation import estimate_noise
from tests.support.noise import blurred, noise, ramp
from tests.support.pixels import generator


@pytest.mark.parametrize("shot", [0.006, -0.004])
def test_noise_is_measured_at_each_brightness(shot):
    clean = ramp(384, 384)
    base = 0.0005 if shot > 0 else 0.004
    variance = shot * clean + base

    estimate = estimate_noise(clean + variance.sqrt() * noise(clean))

    assert len(estimate.noise_level_function) >= 6
    brightness = [level.brightness for level in estimate.noise_level_function]
    assert brightness == sorted(brightness)
    truth = [255 * math.sqrt(shot * at / 255 + base) for at in brightness]
    assert [level.sigma for level in estimate.noise_level_function] == pytest.approx(truth, rel=0.1)
    assert estimate.sigma == pytest.approx([255 * float(variance.mean().sqrt())] * 3, rel=0.05)


def test_texture_at_one_brightness_is_not_taken_for_noise():
    clean = ramp().clone()
    texture = 0.1 * blurred(noise(clean, 5, channels=1), (1, 4, 6, 4, 1))
    clean[:, 160:] += texture[:, 160:]

    estimate = estimate_noise(clean + 5 / 255 * noise(clean))

    assert estimate.sigma == pytest.approx([5] * 3, rel=0.1)
    assert max(level.brightness for level in estimate.noise_level_function) < 160
    assert 0.3 < estimate.flat < 0.7


def chequered(shares, side=256):
    """A chequered texture in squares of 16 pixels, each with one of these strengths, relative to noise of 5."""
    row, column = torch.arange(side).view(-1, 1, 1), torch.arange(side).view(-1, 1)
    chosen = torch.tensor(shares)[torch.randint(len(shares), (side // 16, side // 16), generator=generator())]
    strength = chosen.repeat_interleave(16, 0).repeat_interleave(16, 1).unsqueeze(2)
    return 5 / 255 * strength * (1 - 2 * ((row + column) % 2))


@pytest.mark.parametrize(("shares", "start"), [((4.0,), 192), ((0.0, 0.7), 128), ((0.0,) * 9 + (4.0,), 0)])
def test_fine_texture_is_not_taken_for_noise(shares, start):
    clean = ramp().clone()
    clean[:, start:] += chequered(shares)[:, start:]

    estimate = estimate_noise(clean + 5 / 255 * noise(clean))

    assert estimate.sigma == pytest.approx([5] * 3, rel=0.1)
