"""What clients send, and what the engine makes of it with each of the weights that may serve meanwhile.

The weights: `photo-small` is the one that ships, whose clients wait for the network. All others are tiny, so that
two cores get through thousands of requests, and what is around the network has most of the work.
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
from engine.inference.denoise import Finish, denoise
from engine.inference.model_selection import AUTO
from engine.layers import parameters
from engine.models import checkpoint
from engine.models.checkpoint import SUFFIX, Model
from engine.models.networks import UNetConfig, build_network
from engine.models.precision import resolve
from service.params import DenoiseParams

TINY = UNetConfig(channels=(8, 16), blocks=(1, 1, 1))
# One type, the same each time: which is the faster is measured anew by each process.
PRECISION = "float32"
# What serves where none is asked for, and is another from one moment to the next.
MODEL = "photo"
# One step of 8 bits, and what float32 rounds. Samples that differ by one before JPEG's coder were seen to
# differ by 3 after it in float32, and by 8 where a fourteenth of the samples did.
STEP = 1.01 / 255
JPEG_STEPS = 8


@dataclass(frozen=True)
class Kind:
    """A sort of image, and how it is wanted back. weight: how often it is sent, beside others."""

    weight: float
    height: int
    width: int
    format: str = "png"
    wishes: Mapping[str, Any] = field(default_factory=dict)
    depth: torch.dtype = torch.uint8
    channels: int = 3
    alpha: bool = False
    pages: int = 1


KINDS = (
    Kind(8, 32, 32),
    Kind(3, 48, 80, "jpeg", {"model": "auto"}),
    Kind(6, 33, 47, "jpeg", {"format": "jpeg", "quality": 100}),
    Kind(6, 64, 64, "webp", {"format": "same"}),
    Kind(6, 64, 64, wishes={"strength": 0.5}),
    Kind(5, 120, 90, channels=1),
    Kind(5, 128, 128, "jpeg"),
    Kind(5, 97, 201, wishes={"output": "residual"}),
    Kind(4, 200, 150, "tiff", {"format": "same"}, depth=torch.uint16),
    Kind(4, 256, 256, wishes={"model": "photo-small"}),
    Kind(4, 256, 256, "png", {"output": "compare", "format": "webp"}),
    Kind(4, 240, 320, "jpeg", {"luma": 0.7, "chroma": 0.9}),
    Kind(3, 240, 320, alpha=True),
    Kind(3, 300, 400, "tiff", {"page": 2}, pages=3),
    Kind(2, 160, 160, "tiff", {"format": "tiff"}, pages=3),
    Kind(2, 480, 640, wishes={"model": "photo-small", "format": "jpeg", "quality": 100}),
    Kind(2, 480, 640, "jpeg", {"model": "auto"}),
    Kind(2, 600, 800, depth=torch.uint16),
    Kind(1, 768, 1024, "webp"),
    Kind(0.5, 1200, 1600, "jpeg", {"model": "photo-gaussian"}),
    Kind(0.3, 1600, 2400, "png", {"format": "same"}),
)


@dataclass(frozen=True)
class Sample:
    """An image to send. made: by the digest of the weights, the engine's own answer, as a file."""

    name: str
    weight: float
    body: bytes
    wishes: Mapping[str, Any]
    pixels: int
    made: Mapping[str, bytes]

    @cached_property
    def query(self) -> str:
        """As it follows a path."""
        return f"?{urlencode(self.wishes)}" if self.wishes else ""

    def fault(self, digest: str, answer: bytes) -> str | None:
        """What is wrong with an answer that these weights made, if anything is."""
        if digest not in self.made:
            return f"made by other weights than it should be, {digest[:8]}"
        expected = self.made[digest]
        if answer == expected:
            return None
        try:
            ours, theirs = read(expected), read(answer)
        except ValueError as error:
            return f"no image: {error}"
        if theirs.kind != ours.kind or len(theirs.pages) != len(ours.pages):
            return f"{len(theirs.pages)} pages of {theirs.kind.title}, not {len(ours.pages)} of {ours.kind.title}"
        most = STEP * (JPEG_STEPS if ours.kind is FORMATS["jpeg"] else 1)
        faults = (_difference(a, b, most) for a, b in zip(ours.pages, theirs.pages, strict=True))
        return next(filter(None, faults), None)


def _difference(ours: Image, theirs: Image, most: float) -> str | None:
    if ours.samples.shape != theirs.samples.shape or ours.samples.dtype != theirs.samples.dtype:
        return f"{tuple(theirs.samples.shape)} of {theirs.depth}, not {tuple(ours.samples.shape)} of {ours.depth}"
    steps = float((to_pixels(ours.samples) - to_pixels(theirs.samples)).abs().max())
    return f"differs by {steps * 255:.2f} steps of 8 bits" if steps > most else None


class Folder:
    """A weights folder. `photo` is one of two networks, and can be the other from one moment to the next."""

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
        """Put the other network's file in the place of the one that is there. Gives its digest."""
        now, self._next = self._next, 1 - self._next
        beside = self.path / ".photo"
        shutil.copy(self._photos[now], beside)
        beside.replace(self.path / f"{MODEL}{SUFFIX}")
        return self.models[now].digest

    def spoil(self) -> None:
        """Put a file there that is no good."""
        (self.path / f"broken{SUFFIX}").write_bytes(b"no weights")


def _save(path: Path, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    net = build_network(TINY, rng)
    for parameter in parameters(net):
        parameter.layer.params[parameter.key] = torch.randn(parameter.value.shape, generator=rng) * 0.08
    checkpoint.save(path, net, TINY, {})


def samples(models: Sequence[Model], largest: int) -> Iterator[Sample]:
    """One of each kind with so many pixels at most."""
    for number, kind in enumerate(KINDS):
        if kind.height * kind.width <= largest:
            yield _sample(kind, models, number)


def _sample(kind: Kind, models: Sequence[Model], seed: int) -> Sample:
    rng = torch.Generator().manual_seed(seed)
    pages = tuple(_image(kind, rng) for _ in range(kind.pages))
    format_ = FORMATS[kind.format]
    body = encode(ImageSequence(format_, pages), format_, 90 if kind.format == "jpeg" else None).data
    file, wishes = read(body), DenoiseParams(**kind.wishes)
    if wishes.page:
        file = read(body, page=wishes.page)
    name = wishes.model or MODEL
    if name == AUTO:
        name = model_selection.choose(file.pages[0].samples)[0]
    made = {model.digest: _made(model, file, wishes) for model in models if model.name == name}
    title = f"{kind.width}x{kind.height} {kind.format} {dict(kind.wishes)}"
    return Sample(title, kind.weight, body, kind.wishes, len(file.pages) * kind.height * kind.width, made)


def _made(model: Model, file: ImageSequence, wishes: DenoiseParams) -> bytes:
    finish = Finish(wishes.strength, wishes.luma, wishes.chroma, wishes.output)
    pages = tuple(denoise(model.net, page, finish=finish) for page in file.pages)
    kind = output_format(wishes.target, file.kind)
    return encode(replace(file, pages=pages), kind, wishes.quality).data


def _image(kind: Kind, rng: torch.Generator) -> Image:
    """Waves and noise, as photographs have slopes and noise."""
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
    """One of them, by their weights."""
    return rng.choices(among, [sample.weight for sample in among])[0]
