"""Measured images with a known truth: microscope, stars, offsets, clean graphics, impulses, fluorescence.

All but the recorded fluorescence are drawn from seeds. They are in an instrument's units, in their own depth, and
are denoised by all the steps that the service takes, from samples to samples.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from engine.data.dead_leaves import dead_leaves
from engine.data.rng import log_uniform, seeded_generator, uniform
from engine.data.text import TextLine, render
from engine.evaluation.benchmarks import Trial
from engine.evaluation.samples import Pair, Sample
from engine.imageio.image import LUMA
from engine.imageio.read import decode

# Side of the images, in pixels.
SIDE = 256
# How many images a row has.
IMAGES = 8
# Their seed, which no training uses.
SEED = 2**51
# Photons at the brightest point of a microscope's image.
PHOTONS = (5, 20, 50, 200)
# A scientific CMOS camera: samples per photon, the value of no light, and read noise in samples.
GAIN = 2.0
PEDESTAL = 100.0
READ_NOISE = 2.0
# Stars: photons of the ground, and the standard deviation of a star in pixels.
GROUND = 800.0
STAR_SIGMA = 1.4
# Standard deviation of the noise of photographs, as a part of the span: with an offset, and beside impulses.
OFFSET_NOISE = 20 / 255
IMPULSE_NOISE = 15 / 255
# Share of the pixels that are black, and as many that are white.
IMPULSES = 0.02
# Endings of the fluorescence images: one shot, and the mean of 400.
SHOT = "_noisy"
MEAN = "_avg400"


class Offset(NamedTuple):
    """A range of samples that does not begin at 0."""

    name: str
    low: float
    span: float
    kind: torch.dtype


NO_OFFSET = Offset("none", 0, 1, torch.float32)
OFFSETS = (
    Offset("pedestal 10000", 10_000, 500, torch.uint16),
    Offset("pedestal 32768", 32_768, 4095, torch.uint16),
    Offset("kelvin", 290, 20, torch.float32),
    Offset("centikelvin", 29_000, 2000, torch.uint16),
    Offset("heights", 1500, 100, torch.float32),
    Offset("-1 to 0", -1, 1, torch.float32),
    Offset("-1 to 1", -1, 2, torch.float32),
    Offset("-100 to -99", -100, 1, torch.float32),
)


@dataclass(frozen=True)
class Measurement:
    """A noisy image, uint8, uint16 or float32, (H, W) or (H, W, 3), and its truth in the same units.

    span: the range that errors are parts of. low: the value of no light. figures: what is measured of it beside
    PSNR and SSIM, by the names of FIGURES in `engine.evaluation.metrics`.
    """

    noisy: Tensor
    truth: Tensor
    span: float
    low: float = 0.0
    figures: Sequence[str] = ("rmse", "bias")

    def on_unit_range(self, samples: Tensor) -> Tensor:
        """float32 (H, W, 3), with low at 0 and low + span at 1."""
        pixels = ((samples.double() - self.low) / self.span).float()
        return pixels.unsqueeze(2).expand(-1, -1, 3) if pixels.dim() == 2 else pixels


@dataclass(frozen=True)
class MeasuredTrial(Trial):
    """A trial of measured images. measurements: one for each sample, made when it is needed."""

    measurements: Sequence[Callable[[], Measurement]] = ()

    def first(self, limit: int | None) -> "MeasuredTrial":
        """The trial with only the first that many images."""
        return replace(self, samples=self.samples[:limit], measurements=self.measurements[:limit])


def measured_trials(folder: Path) -> list[MeasuredTrial]:
    """All trials of measured images. Fluorescence is among them if the folder has `own/fluorescence`."""
    found = [
        *(_drawn("microscope", f"{n} photons", partial(_microscope, n, False)) for n in PHOTONS),
        *(_drawn("microscope", f"{n} photons + {PEDESTAL:g}", partial(_microscope, n, True)) for n in PHOTONS),
        _drawn("stars", "photons", _stars),
        _drawn("offsets", "white 20", partial(_offset, NO_OFFSET)),
        _offsets(),
        _drawn("pixel art", "none", _pixel_art),
        _drawn("screenshot", "none", _screenshot),
        _drawn("line art", "none", _line_art),
        _drawn("impulses", "4 %", partial(_impulses, 0.0)),
        _drawn("impulses", "4 %, white 15", partial(_impulses, IMPULSE_NOISE)),
    ]
    recorded = folder / "own" / "fluorescence"
    return [*found, _fluorescence(recorded)] if recorded.is_dir() else found


def _drawn(name: str, noise: str, make: Callable[[torch.Generator], Measurement]) -> MeasuredTrial:
    """A trial of images that are drawn. Image n of every trial has the same generator."""
    measurements = [partial(_seeded, make, number) for number in range(1, IMAGES + 1)]
    return _trial(name, noise, [f"{name} {n}" for n in range(1, IMAGES + 1)], measurements)


def _trial(
    name: str, noise: str, names: Sequence[str], measurements: Sequence[Callable[[], Measurement]]
) -> MeasuredTrial:
    samples = [Sample(name, partial(_as_pair, made)) for name, made in zip(names, measurements, strict=True)]
    return MeasuredTrial(name, noise, samples, measurements=measurements)


def _seeded(make: Callable[[torch.Generator], Measurement], number: int) -> Measurement:
    return make(seeded_generator(SEED, number))


def _as_pair(make: Callable[[], Measurement]) -> Pair:
    measurement = make()
    return measurement.on_unit_range(measurement.noisy), measurement.on_unit_range(measurement.truth)


# Photons


def _microscope(photons: float, offset: bool, rng: torch.Generator) -> Measurement:
    """Soft spots on a dark ground: photons as they are, or with a pedestal, gain and read noise."""
    scene = _cells(rng)
    gain, low = (GAIN, PEDESTAL) if offset else (1.0, 0.0)
    counts = torch.poisson(photons * scene, generator=rng)
    noise = READ_NOISE * torch.randn(scene.shape, generator=rng) if offset else torch.zeros(())
    noisy, truth = _to_type(low + gain * counts + noise, torch.uint16), low + gain * photons * scene
    return Measurement(noisy, truth, gain * photons, low, ("rmse", "total", "bias"))


def _cells(rng: torch.Generator, count: int = 25) -> Tensor:
    """(SIDE, SIDE) from 0.02 to 1."""
    sigma, height = uniform(3, 10, (count,), rng), uniform(0.3, 1, (count,), rng)
    made = _spots(torch.rand((2, count), generator=rng) * SIDE, sigma, height)
    return 0.02 + 0.98 * made / made.amax()


def _stars(rng: torch.Generator, count: int = 40) -> Measurement:
    """Points of light on an even ground."""
    place, height = uniform(5, SIDE - 6, (2, count), rng), uniform(500, 60_000, (count,), rng)
    truth = (GROUND + _spots(place, torch.full((count,), STAR_SIGMA), height)).clamp(max=65535)
    noisy = _to_type(torch.poisson(truth, generator=rng), torch.uint16)
    return Measurement(noisy, truth, 65535, GROUND, ("rmse", "flux", "ground", "bias"))


def _spots(place: Tensor, sigma: Tensor, height: Tensor) -> Tensor:
    """(SIDE, SIDE): the sum of round Gaussians. place: (2, N)."""
    rows, cols = (
        torch.exp(-(torch.arange(SIDE) - at[:, None]).square() / (2 * sigma[:, None] ** 2)) for at in place
    )
    return (rows.T * height) @ cols


# Photographs


def _offsets() -> MeasuredTrial:
    """Each image of the trial without offsets, with the same noise, in another range."""
    measurements = [partial(_seeded, partial(_offset, each), number) for number, each in enumerate(OFFSETS, 1)]
    return _trial("offsets", "white 20, moved", [each.name for each in OFFSETS], measurements)


def _offset(offset: Offset, rng: torch.Generator) -> Measurement:
    _, low, span, kind = offset
    clean = _photograph(rng)
    noisy = (clean + OFFSET_NOISE * torch.randn(clean.shape, generator=rng)).clamp(0, 1)
    return Measurement(_to_type(low + span * noisy.double(), kind), low + span * clean.double(), span, low)


def _impulses(sigma: float, rng: torch.Generator) -> Measurement:
    clean = _photograph(rng)
    hit = torch.rand(clean.shape, generator=rng)
    noisy = clean + sigma * torch.randn(clean.shape, generator=rng)
    noisy = noisy.masked_fill(hit < IMPULSES, 0).masked_fill(hit > 1 - IMPULSES, 1)
    return Measurement(_to_type(noisy * 255, torch.uint8), clean * 255, 255)


def _photograph(rng: torch.Generator) -> Tensor:
    """(SIDE, SIDE) on [0, 1]: dead leaves, which share the statistics of photographs."""
    return dead_leaves(SIDE, SIDE, rng).float() @ torch.tensor(LUMA) / 255


# Graphics


def _pixel_art(rng: torch.Generator) -> Measurement:
    """A sprite of few colours with a mirrored half, each of its pixels magnified to a square."""
    scale = int(2 ** torch.randint(1, 5, (), generator=rng))
    side = SIDE // scale
    palette = torch.randint(256, (int(torch.randint(3, 17, (), generator=rng)), 3), generator=rng)
    # Coarse patches with single pixels in between.
    coarse = torch.randint(len(palette), (side // 4 + 1, side // 4 + 1), generator=rng)
    sprite = coarse.repeat_interleave(4, 0).repeat_interleave(4, 1)[:side, :side]
    single = torch.rand((side, side), generator=rng) < 0.15
    sprite = torch.where(single, torch.randint(len(palette), (side, side), generator=rng), sprite)
    sprite = torch.cat((sprite[:, : side // 2], sprite[:, : side // 2].flip(1)), 1)
    return _graphic(palette[sprite].repeat_interleave(scale, 0).repeat_interleave(scale, 1).byte())


def _screenshot(rng: torch.Generator) -> Measurement:
    """Lines of text with soft edges, in one colour on another, and a bar in a third."""
    letters = torch.randint(97, 123, (16, 60), generator=rng)
    is_space = torch.rand(letters.shape, generator=rng) < 0.18
    texts = ["".join(map(chr, row)) for row in letters.masked_fill(is_space, 32).tolist()]
    size = int(torch.randint(10, 19, (), generator=rng))
    lines = [TextLine(28 + round(1.4 * size * n), size, text) for n, text in enumerate(texts)]
    paper, bar = uniform(200, 255, (3,), rng), uniform(40, 200, (3,), rng)
    ink = uniform(0, 80, (3,), rng)
    page = torch.lerp(paper, ink, render(lines, SIDE, SIDE).unsqueeze(2))
    page[:20] = bar
    return _graphic(page.round().byte())


def _line_art(rng: torch.Generator) -> Measurement:
    """Two values: black circles and lines, some filled, on white."""
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    ink = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    for _ in range(12):
        row, col = (uniform(0, SIDE, (2,), rng)).tolist()
        radius, width = float(log_uniform(4, 80, (), rng)), float(uniform(0.5, 2, (), rng))
        distance = ((y - row).square() + (x - col).square()).sqrt()
        ink |= (distance - radius).abs() < width
        angle = uniform(0, 3.1416, (), rng)
        ink |= ((y - row) * angle.cos() - (x - col) * angle.sin()).abs() < width / 2
        ink ^= (distance < radius / 4) & (torch.rand((), generator=rng) < 0.5)
    return _graphic(torch.where(ink, 0, 255).byte())


def _graphic(clean: Tensor) -> Measurement:
    return Measurement(clean, clean.float(), 255, figures=("changed",))


# Recorded


def _fluorescence(folder: Path) -> MeasuredTrial:
    """Single shots and the means of 400 shots, which may differ in gain and offset."""
    shots = sorted(file for file in folder.iterdir() if file.stem.endswith(SHOT))
    names = [shot.stem.removesuffix(SHOT) for shot in shots]
    means = [shot.with_name(name + MEAN + shot.suffix) for shot, name in zip(shots, names, strict=True)]
    measurements = [partial(_recorded, *pair) for pair in zip(shots, means, strict=True)]
    return _trial("fluorescence", "recorded", names, measurements)


def _recorded(shot: Path, mean: Path) -> Measurement:
    noisy, truth = (decode(file.read_bytes()).samples[..., 0] for file in (shot, mean))
    return Measurement(noisy, truth.double(), 255, figures=("fitted_gain",))


def _to_type(samples: Tensor, kind: torch.dtype) -> Tensor:
    """Rounded and clipped to 0 and the type's largest number, if it holds whole numbers."""
    if kind.is_floating_point:
        return samples.to(kind)
    return samples.round().clamp(0, torch.iinfo(kind).max).to(kind)
