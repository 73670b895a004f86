"""Samples: images to send, with the engine's own result for each of the weights that may serve them.

The weights `photo-small` are those that ship; their requests keep the network busy. All other weights are tiny,
so two cores can answer thousands of requests. Most of the work of these is outside the network.
"""

import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import torch
from torch import Tensor

from engine.imageio.formats import FORMATS, output_format
from engine.imageio.image import Image, ImageSequence, to_pixels
from engine.imageio.read import read
from engine.imageio.write import encode
from engine.inference import model_selection
from engine.inference.denoise import OutputOptions, denoise
from engine.inference.model_selection import AUTO
from engine.layers import parameters
from engine.models import checkpoint
from engine.models.checkpoint import SUFFIX, Model
from engine.models.networks import build_network
from engine.models.precision import resolve
from engine.models.unet import UNetConfig
from service.params import DenoiseParams

TINY = UNetConfig(channels=(8, 16), blocks=(1, 1, 1))
# Fixed: with "auto" each process measures which type is faster, and results could differ.
PRECISION = "float32"
# The default model. Its file is replaced during the run.
MODEL = "photo"
# Largest difference that is accepted: one step of 8 bits, and float32's rounding.
STEP = 1.01 / 255
# The same for JPEG, in steps. Samples that differ by one step before the JPEG coder were measured to differ by
# 3 steps after it in float32, and by 8 steps if one sample in fourteen differed.
JPEG_STEPS = 8


@dataclass(frozen=True)
class SampleKind:
    """An image's size and format, and the options of its request. weight: how often it is sent, relatively."""

    weight: float
    height: int
    width: int
    format: str = "png"
    options: Mapping[str, Any] = field(default_factory=dict)
    depth: torch.dtype = torch.uint8
    channels: int = 3
    alpha: bool = False
    pages: int = 1


KINDS = (
    SampleKind(8, 32, 32),
    SampleKind(3, 48, 80, "jpeg", {"model": "auto"}),
    SampleKind(6, 33, 47, "jpeg", {"format": "jpeg", "quality": 100}),
    SampleKind(6, 64, 64, "webp", {"format": "same"}),
    SampleKind(6, 64, 64, options={"strength": 0.5}),
    SampleKind(5, 120, 90, channels=1),
    SampleKind(5, 128, 128, "jpeg"),
    SampleKind(5, 97, 201, options={"output": "residual"}),
    SampleKind(4, 200, 150, "tiff", {"format": "same"}, depth=torch.uint16),
    SampleKind(4, 256, 256, options={"model": "photo-small"}),
    SampleKind(4, 256, 256, "png", {"output": "compare", "format": "webp"}),
    SampleKind(4, 240, 320, "jpeg", {"luma": 0.7, "chroma": 0.9}),
    SampleKind(3, 240, 320, alpha=True),
    SampleKind(3, 300, 400, "tiff", {"page": 2}, pages=3),
    SampleKind(2, 160, 160, "tiff", {"format": "tiff"}, pages=3),
    SampleKind(2, 480, 640, options={"model": "photo-small", "format": "jpeg", "quality": 100}),
    SampleKind(2, 480, 640, "jpeg", {"model": "auto"}),
    SampleKind(2, 600, 800, depth=torch.uint16),
    SampleKind(1, 768, 1024, "webp"),
    SampleKind(0.5, 1200, 1600, "jpeg", {"model": "photo-gaussian"}),
    SampleKind(0.3, 1600, 2400, "png", {"format": "same"}),
)


@dataclass(frozen=True)
class Sample:
    """An image to send. expected: the engine's own result as a file, by the digest of the weights."""

    name: str
    weight: float
    body: bytes
    options: Mapping[str, Any]
    pixels: int
    expected: Mapping[str, bytes]

    @cached_property
    def query(self) -> str:
        """The options as a query string, with its question mark."""
        return f"?{urlencode(self.options)}" if self.options else ""

    def fault(self, digest: str, answer: bytes) -> str | None:
        """What is wrong with a result of these weights. None if it is correct."""
        if digest not in self.expected:
            return f"made by unexpected weights {digest[:8]}"
        expected = self.expected[digest]
        if answer == expected:
            return None
        try:
            ours, theirs = read(expected), read(answer)
        except ValueError as error:
            return f"not an image: {error}"
        if theirs.kind != ours.kind or len(theirs.pages) != len(ours.pages):
            return (
                f"{len(theirs.pages)} pages of {theirs.kind.title}, "
                f"expected {len(ours.pages)} of {ours.kind.title}"
            )
        most = STEP * (JPEG_STEPS if ours.kind is FORMATS["jpeg"] else 1)
        faults = (_difference(a, b, most) for a, b in zip(ours.pages, theirs.pages, strict=True))
        return next(filter(None, faults), None)


def _difference(ours: Image, theirs: Image, most: float) -> str | None:
    if ours.samples.shape != theirs.samples.shape or ours.samples.dtype != theirs.samples.dtype:
        return (
            f"{tuple(theirs.samples.shape)} of {theirs.depth}, "
            f"expected {tuple(ours.samples.shape)} of {ours.depth}"
        )
    steps = float((to_pixels(ours.samples) - to_pixels(theirs.samples)).abs().max())
    return f"differs by {steps * 255:.2f} steps of 8 bits" if steps > most else None


class WeightsFolder:
    """A weights folder whose file `photo` can be swapped between two networks."""

    def __init__(self, path: Path) -> None:
        path.mkdir()
        self.path, self._spare = path, path.with_name("spare")
        self._spare.mkdir()
        compute, self._next = resolve(PRECISION), 1
        shutil.copy(checkpoint.weights_folder() / f"photo-small{SUFFIX}", path)
        _save(path / f"photo-gaussian{SUFFIX}", 2)
        _save(path / f"photo-grey{SUFFIX}", 3)
        self._photos = [self._spare / str(seed) / f"{MODEL}{SUFFIX}" for seed in range(2)]
        for seed, photo in enumerate(self._photos):
            photo.parent.mkdir()
            _save(photo, seed)
        shutil.copy(self._photos[0], path)
        others = [path / f"{name}{SUFFIX}" for name in ("photo-gaussian", "photo-grey", "photo-small")]
        self.models: list[Model] = [checkpoint.load(each, compute=compute) for each in (*self._photos, *others)]
        self.first, self.second = (model.digest for model in self.models[:2])

    def swap(self) -> str:
        """Replace `photo` with the other network's file. Returns the digest of that file."""
        now, self._next = self._next, 1 - self._next
        beside = self.path / ".photo"
        shutil.copy(self._photos[now], beside)
        beside.replace(self.path / f"{MODEL}{SUFFIX}")
        return self.models[now].digest

    def add_broken_file(self) -> None:
        """Add a file that does not hold weights."""
        (self.path / f"broken{SUFFIX}").write_bytes(b"no weights")


def _save(path: Path, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    net = build_network(TINY, rng)
    for parameter in parameters(net):
        parameter.layer.params[parameter.key] = torch.randn(parameter.value.shape, generator=rng) * 0.08
    checkpoint.save(path, net, TINY, {})


def samples(models: Sequence[Model], largest: int) -> Iterator[Sample]:
    """One sample of each kind that has at most `largest` pixels."""
    for number, kind in enumerate(KINDS):
        if kind.height * kind.width <= largest:
            yield _sample(kind, models, number)


def _sample(kind: SampleKind, models: Sequence[Model], seed: int) -> Sample:
    rng = torch.Generator().manual_seed(seed)
    pages = tuple(_image(kind, rng) for _ in range(kind.pages))
    format_ = FORMATS[kind.format]
    body = encode(ImageSequence(format_, pages), format_, 90 if kind.format == "jpeg" else None).data
    file, options = read(body), DenoiseParams(**kind.options)
    if options.page:
        file = read(body, page=options.page)
    name = options.model or MODEL
    if name == AUTO:
        name = model_selection.select_model(file.pages[0].samples)[0]
    expected = {model.digest: _made(model, file, options) for model in models if model.name == name}
    title = f"{kind.width}x{kind.height} {kind.format} {dict(kind.options)}"
    pixels = len(file.pages) * kind.height * kind.width
    return Sample(title, kind.weight, body, kind.options, pixels, expected)


def _made(model: Model, file: ImageSequence, wishes: DenoiseParams) -> bytes:
    options = OutputOptions(wishes.strength, wishes.luma, wishes.chroma, wishes.output, wishes.grain)
    pages = tuple(denoise(model.net, page, options=options) for page in file.pages)
    kind = output_format(wishes.target, file.kind)
    return encode(replace(file, pages=pages), kind, wishes.quality).data


def _image(kind: SampleKind, rng: torch.Generator) -> Image:
    """Waves and noise, which resemble the slopes and the noise of photos."""
    y, x = torch.arange(kind.height).view(-1, 1, 1), torch.arange(kind.width).view(1, -1, 1)
    slope = torch.rand(2, kind.channels, generator=rng) / 5
    noise = torch.randn((kind.height, kind.width, kind.channels), generator=rng) * 12
    samples = 128 + 50 * torch.sin(y * slope[0]) + 50 * torch.cos(x * slope[1]) + noise
    if kind.depth == torch.uint16:
        samples = samples * 257
    alpha = (x + y).squeeze(2).remainder(256).to(kind.depth) if kind.alpha else None
    return Image(_clamped(samples, kind.depth), alpha)


def _clamped(samples: Tensor, depth: torch.dtype) -> Tensor:
    return samples.round().clamp(0, torch.iinfo(depth).max).to(depth)


def pick(rng: random.Random, among: Sequence[Sample]) -> Sample:
    """Draw a sample with a probability proportional to its weight."""
    return rng.choices(among, [sample.weight for sample in among])[0]
