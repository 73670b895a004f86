"""Noise that weights were adapted to, and weights that carry it."""

from dataclasses import replace

import torch

from engine.data.noise.anscombe import NoiseLaw
from engine.inference.adapted_noise import GATE_KEY, PASSED, AdaptedNoise
from tests.support.bursts import GAIN, PEDESTAL, READ_NOISE, scene, shots

# Variance of rounding to whole numbers.
ROUNDING = 1 / 12
LAW = NoiseLaw(GAIN, PEDESTAL, READ_NOISE**2 + ROUNDING)
# The shots of bursts.photons(200), of bursts.white(25) and of `smeared`.
PHOTONS = AdaptedNoise(
    channels=1,
    samples="uint16",
    laws=((LAW,),),
    levels=(),
    correlation=(0.0, 0.0, 0.0),
    share=(0.035, 0.07),
    brightness=(95.0, 570.0),
)
WHITE = replace(
    PHOTONS, laws=(), levels=((1000.0, 25.0), (1250.0, 25.0)), share=(0.07, 0.1), brightness=(960, 1320)
)
SMEARED = replace(WHITE, correlation=(0.5, 0.0, 0.0))


def smeared(sigma):
    """Noise that each pixel shares with its neighbours, as tests.support.bursts has others."""

    def noisy(light, rng):
        noise = torch.randn(light.shape, generator=rng).double()
        noise = (noise + noise.roll(1, 0) + noise.roll(1, 1) + noise.roll((1, 1), (0, 1))) / 2
        return (1000 + 255 * light + sigma * noise).round()

    return noisy


def shot_of(noise, number=1, side=256, photograph=True):
    """uint16 (H, W, 1): a noisy shot of a made scene. noise: as tests.support.bursts has it."""
    [shot] = shots(scene(number, side, photograph), noise, 1, number)
    return shot.clamp(0, 65535).to(torch.uint16).unsqueeze(2)


def metadata_of(noise):
    """As `denoise adapt` writes it for weights that have passed its gate."""
    return {**noise.to_metadata(), GATE_KEY: PASSED}
