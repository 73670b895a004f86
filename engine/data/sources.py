"""Where training pairs come from: two noisy views of one scene, and no clean target.

Photos and synthetic images get their noise as they are drawn; recorded pairs bring their own.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from engine.data.dead_leaves import dead_leaves
from engine.data.noise.model import Noise
from engine.data.patch_store import PatchBatch, PatchStore
from engine.data.patterns import patterns
from engine.data.readers import read_pairs
from engine.data.rng import generator_on, seeded_generator
from engine.imageio.read import image_files, read_rgb

# One image in so many is kept from training, to measure on.
HELD_OUT = 50
# Least side of the synthetic images, how many are at hand, and after how many steps a new one takes a place.
SYNTHETIC_SIDE, SYNTHETIC_POOL, SYNTHETIC_STEPS = 256, 48, 400


class Batch(NamedTuple):
    """noisy, target: float32 (N, H, W, 3); weight: (N,), each sample's weight in the loss."""

    noisy: Tensor
    target: Tensor
    weight: Tensor


class Validation(NamedTuple):
    """Images kept from training. noise: mean square of the reference's own noise, 0 where it is clean."""

    noisy: Tensor
    reference: Tensor
    noise: float


class Source(Protocol):
    """Gives pairs without end."""

    def draw(self, step: int, batch: int, rng: torch.Generator) -> Batch:
        """The batch of a step: the same for the same step and state of rng, which is on the CPU."""

    def validation(self, count: int) -> Validation:
        """The same images at every call, none of them ever drawn."""


class Scenes(Protocol):
    """Gives images to put noise on."""

    def cut(self, count: int, side: int, step: int, rng: torch.Generator) -> list[PatchBatch]:
        """As many squares of that side, in parts. rng: on the CPU."""


class Photos:
    """Squares cut from photographs, at random places that prefer detail, turned and flipped by chance.

    zoom: each cut is first scaled down by a factor drawn between this and 1, which hides the noise and the
    halved chroma of compressed files. tries: of so many places the one with the most detail is taken, in three
    cuts of four: the fourth keeps skies and walls in the diet. device: where the squares are wanted.
    """

    def __init__(
        self, photos: Iterable[Tensor], zoom: float = 1.0, tries: int = 3, device: torch.device | str = "cpu"
    ) -> None:
        self.album, self.tries = PatchStore(photos, zoom, device), tries

    def cut(self, count: int, side: int, step: int, rng: torch.Generator) -> list[PatchBatch]:
        """Squares of that side. Raises ValueError if no photo is large enough."""
        near = generator_on(self.album.device, rng)
        shape = (count, self.tries)
        places = self.album.places(self.album.picks(shape, side, near), side, near)
        if self.tries == 1:
            best = torch.zeros(count, dtype=torch.int64, device=near.device)
        else:
            picky = torch.rand(count, generator=near, device=near.device) < 0.75
            best = self.album.detail(places, side).argmax(1) * picky
        return [self.album.cut(places.chosen(best), side, near)]


class Synthetic:
    """Squares cut from synthetic images; every few steps a new image takes the place of the oldest.

    draw: makes an image of (height, width) from a generator. Image number i is made from the seed and i alone,
    so a resumed run sees what an uninterrupted one would have. device: where the squares are wanted.
    """

    def __init__(
        self,
        draw: Callable[[int, int, torch.Generator], Tensor],
        seed: int = 0,
        side: int = SYNTHETIC_SIDE,
        device: torch.device | str = "cpu",
    ) -> None:
        self.draw, self.seed, self.side, self.pool = draw, seed, side, SYNTHETIC_POOL
        blank = torch.zeros(side, side, 3, dtype=torch.uint8)
        self.album = PatchStore([blank] * self.pool, device=device)
        # Image number i is in place i modulo their count.
        self.made = [-1] * self.pool

    def cut(self, count: int, side: int, step: int, rng: torch.Generator) -> list[PatchBatch]:
        """Squares of that side."""
        numbers = step // SYNTHETIC_STEPS + torch.randint(self.pool, (count,), generator=rng)
        for number in sorted(set(numbers.tolist())):
            if self.made[number % self.pool] != number:
                image = self.draw(self.side, self.side, seeded_generator(self.seed, number, 1))
                self.album.put(number % self.pool, image)
                self.made[number % self.pool] = number
        near = generator_on(self.album.device, rng)
        which = (numbers % self.pool).to(self.album.device, non_blocking=True)
        return [self.album.cut(self.album.places(which, side, near), side, near)]


class Mixed:
    """Mostly from one kind of scenes, and a share from another."""

    def __init__(self, main: Scenes, other: Scenes, share: float) -> None:
        self.main, self.other, self.share = main, other, share

    def cut(self, count: int, side: int, step: int, rng: torch.Generator) -> list[PatchBatch]:
        """Squares of that side."""
        others = int((torch.rand(count, generator=rng) < self.share).sum())
        shares = ((self.main, count - others), (self.other, others))
        return [squares for scenes, part in shares if part for squares in scenes.cut(part, side, step, rng)]


class DrawnPairs:
    """Pairs whose noise is drawn on the fly, from a noise model."""

    def __init__(self, scenes: Scenes, held_out: Scenes, noise: Noise, patch: int) -> None:
        self.scenes, self.held_out, self.noise, self.patch = scenes, held_out, noise, patch

    def draw(self, step: int, batch: int, rng: torch.Generator) -> Batch:
        """Each sample has a scene and a noise of its own.

        It is the scene that is turned, before the noise: noise keeps the direction that it may have.
        """
        views = [
            self.noise.views(scenes, scale, generator_on(scenes.device, rng))
            for scale, scenes in self._scenes(self.scenes, step, batch, rng)
        ]
        return Batch(*(_joined(parts) for parts in zip(*views, strict=True)))

    def validation(self, count: int) -> Validation:
        """Held-out scenes; their clean image is the reference, to measure against only."""
        rng = seeded_generator(0)
        noisy, clean = [], []
        for scale, scenes in self._scenes(self.held_out, 0, count, rng):
            noisy.append(self.noise.views(scenes, scale, generator_on(scenes.device, rng)).noisy)
            clean.append(self.noise.clean(scenes, scale))
        return Validation(_joined(noisy), _joined(clean), 0.0)

    def _scenes(
        self, scenes: Scenes, step: int, count: int, rng: torch.Generator
    ) -> Iterator[tuple[int, PatchBatch]]:
        """Scales, and scenes for views of each."""
        for scale, number in sorted(Counter(self.noise.draw_scales(count, rng)).items()):
            for squares in scenes.cut(number, self.patch * scale, step, rng):
                yield scale, squares


class RecordedPairs:
    """Pairs of shots of the same scene, uint8 (H, W, 3) each, cut to patches.

    device: where the patches are wanted. Raises ValueError if there are fewer than two pairs, the shots of a pair
    differ in size, or a shot is smaller than a patch.
    """

    def __init__(
        self, pairs: Sequence[tuple[Tensor, Tensor]], patch: int, device: torch.device | str = "cpu"
    ) -> None:
        if len(pairs) < 2:
            raise ValueError(f"at least 2 pairs are needed, 1 to measure on; got {len(pairs)}")
        for number, (first, second) in enumerate(pairs):
            if first.shape != second.shape:
                raise ValueError(f"pair {number}: the shots differ in shape, {_size(first)} and {_size(second)}")
            if min(first.shape[:2]) < patch:
                raise ValueError(
                    f"pair {number}: {_size(first)} pixels are fewer than a patch of {patch} x {patch};"
                    " set a smaller patch"
                )
        held_out = max(1, len(pairs) // HELD_OUT)
        # The two shots are cut, turned and flipped as one image of six channels.
        self.pairs, self.held_out = (
            PatchStore((torch.cat(pair, 2) for pair in part), device=device)
            for part in (pairs[:-held_out], pairs[-held_out:])
        )
        self.patch = patch

    def draw(self, step: int, batch: int, rng: torch.Generator) -> Batch:
        """Either shot is the input, the other the target."""
        first, second = self._cut(self.pairs, batch, rng)
        near = generator_on(first.device, rng)
        swap = torch.rand((batch, 1, 1, 1), generator=near, device=first.device) < 0.5
        noisy, target = torch.where(swap, second, first), torch.where(swap, first, second)
        return Batch(noisy, target, torch.ones(batch, device=first.device))

    def validation(self, count: int) -> Validation:
        """Against the second shot, whose noise is estimated as half the mean square of the two's difference."""
        noisy, reference = self._cut(self.held_out, count, seeded_generator(0))
        noise = 0.5 * float((noisy - reference).square().mean())
        return Validation(noisy, reference, noise)

    def _cut(self, album: PatchStore, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        near = generator_on(album.device, rng)
        places = album.places(album.picks((count,), self.patch, near), self.patch, near)
        both = album.cut(places, self.patch, near).whole()
        return both[..., :3].contiguous(), both[..., 3:].contiguous()


def open_source(
    data: Sequence[Path],
    noise: Noise,
    patch: int,
    seed: int,
    synthetic: float,
    zoom: float,
    tries: int,
    device: torch.device | str = "cpu",
    pattern_share: float = 0.0,
) -> Source:
    """The source that the paths call for. device: where batches are wanted, and made.

    A .pkl or .pt file, or one folder of pairs: recorded pairs. Folders of photos: noise drawn from the model, a
    share `synthetic` of the scenes dead leaves. Nothing: dead leaves alone. Of these or photos, a share
    `pattern_share` are patterns instead.
    Raises ValueError saying what is wrong with which path, and OSError if there is no room for the images.
    """
    recorded = [pairs for path in data if (pairs := read_pairs(path)) is not None]
    if recorded and len(recorded) < len(data):
        raise ValueError("recorded pairs and photos cannot be mixed; give one or the other")
    if recorded:
        return RecordedPairs([pair for pairs in recorded for pair in pairs], patch, device)
    side = max(SYNTHETIC_SIDE, patch * noise.largest_scale)
    leaves = Synthetic(dead_leaves, seed, side, device)
    scenes, held_out = _photographed(data, zoom, tries, device) if data else (leaves, None)
    if data and synthetic:
        scenes = Mixed(scenes, leaves, synthetic)
    if pattern_share:
        scenes = Mixed(scenes, Synthetic(patterns, seed, side, device), pattern_share)
    # Never drawn: as many images lie between these and those of training as a run can have.
    return DrawnPairs(scenes, held_out or Synthetic(dead_leaves, seed + 2**40, side, device), noise, patch)


def _photographed(
    data: Sequence[Path], zoom: float, tries: int, device: torch.device | str
) -> tuple[Scenes, Scenes]:
    """Photos to train on and photos to measure on. Raises ValueError if there are too few."""
    files = [file for folder in data for file in image_files(folder)]
    if len(files) < 2:
        raise ValueError(f"at least 2 photos are needed, 1 to measure on; found {len(files)}")
    training = [file for number, file in enumerate(files) if number % HELD_OUT]
    # Decoded once, each as it is needed: all of them may be more than memory holds.
    return (
        Photos(map(read_rgb, training), zoom, tries, device),
        Photos(map(read_rgb, files[::HELD_OUT]), zoom, tries, device),
    )


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _size(image: Tensor) -> str:
    return f"{image.shape[1]} x {image.shape[0]}"
