"""Images with known noise, for tests of the noise estimator."""

import io
from functools import cache
from pathlib import Path

import pytest
import torch
from PIL import Image

from engine.data.dead_leaves import dead_leaves
from engine.imageio.read import decode
from tests.support.pixels import generator

DATA = Path(__file__).parents[2].parent / "shared" / "data"
needs_kodak = pytest.mark.skipif(not (DATA / "kodak24").is_dir(), reason="Kodak24 is not in ../shared/data")
needs_polyu = pytest.mark.skipif(not (DATA / "polyu").is_dir(), reason="PolyU is not in ../shared/data")


@cache
def leaves(seed=0, side=320):
    return dead_leaves(side, side, generator(seed)).float() / 255


def ramp(height=256, width=256, channels=3, low=0.2, high=0.8):
    """A plain image whose brightness rises from left to right."""
    return torch.linspace(low, high, width).view(1, -1, 1).expand(height, -1, channels)


def noise(image, seed=0, channels=None):
    return torch.randn(*image.shape[:2], channels or image.shape[2], generator=generator(seed))


def in_8_bits(image):
    return (image.clamp(0, 1) * 255).round() / 255


def as_jpeg(image, quality):
    file = io.BytesIO()
    Image.fromarray((in_8_bits(image) * 255).to(torch.uint8).numpy()).save(file, "JPEG", quality=quality)
    return decode(file.getvalue()).pixels


def blurred(noise, taps=(1, 2, 1)):
    """Filtered by these taps along both sides, scaled to keep the variance of white noise."""
    power = sum(tap**2 for tap in taps) ** 0.5
    for axis in (0, 1):
        noise = sum(tap / power * noise.roll(step, axis) for step, tap in enumerate(taps))
    return noise


def cells(seed=0, side=256):
    """Blurred discs on a dark ground, as a microscope sees them: (side, side, 1) on [0.02, 1]."""
    rng = generator(seed)
    rows, columns = torch.arange(side).view(-1, 1), torch.arange(side)
    scene = torch.zeros(side, side)
    for _ in range(25):
        row, column, size, light = torch.rand(4, generator=rng).tolist()
        squared = (rows - side * row) ** 2 + (columns - side * column) ** 2
        scene += (0.3 + 0.7 * light) * (-squared / (2 * (3 + 7 * size) ** 2)).exp()
    return (0.02 + 0.98 * scene / scene.max()).unsqueeze(2)


def as_counts(clean, peak, read=1.0, gain=2.0, offset=100.0, seed=0):
    """A sensor's samples of this image: `peak` electrons at 1, `read` electrons of read noise."""
    rng = generator(seed)
    electrons = torch.poisson(peak * clean, generator=rng) + read * torch.randn(clean.shape, generator=rng)
    return offset + gain * electrons
