"""Images as sensors record them, with a known noise law."""

import torch

from engine.data.noise.anscombe import NoiseLaw
from tests.support.pixels import generator

PEDESTAL = 100.0
GAIN = 2.0
READ_NOISE = 2.0
LAW = NoiseLaw(GAIN, PEDESTAL, READ_NOISE**2)


def cells(seed=0, side=192, count=16):
    """Soft spots on a dark ground, (side, side) from 0.02 to 1."""
    rng = generator(seed)
    axis = torch.arange(side, dtype=torch.float64)
    scene = torch.zeros(side, side, dtype=torch.float64)
    for _ in range(count):
        row, column = (side * float(x) for x in torch.rand(2, generator=rng))
        size, height = (
            3 + 7 * float(torch.rand((), generator=rng)),
            0.3 + 0.7 * float(torch.rand((), generator=rng)),
        )
        scene += height * torch.outer(*((-((axis - at) ** 2) / (2 * size**2)).exp() for at in (row, column)))
    return 0.02 + 0.98 * scene / scene.max()


def recorded(scene, photons, seed=0):
    """A shot of a scene, float64 counts, unrounded: LAW, with that many photons where the scene is 1."""
    rng = generator(seed)
    counts = torch.poisson(photons * scene, generator=rng)
    return PEDESTAL + GAIN * counts + READ_NOISE * torch.randn(scene.shape, dtype=scene.dtype, generator=rng)


def expected(scene, photons):
    """The expected shot."""
    return PEDESTAL + GAIN * photons * scene


def as_counts(values):
    """uint16 (H, W, 1)."""
    return values.round().clamp(0, 65535).to(torch.int32).to(torch.uint16).unsqueeze(2)
