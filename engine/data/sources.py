"""Sources of training pairs: two noisy views of one scene, and no clean target.

Photos and synthetic images get their noise as they are drawn. Recorded pairs already have theirs.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from engine.data.dead_leaves import dead_leaves
from engine.data.measured_scenes import measured_scene
from engine.data.noise.model import NoiseModel
from engine.data.patch_store import Concatenation, PatchBatch, PatchStore
from engine.data.patterns import patterns
from engine.data.rng import generator_on, seeded_generator

# One scene in this many is held out of training, for validation; of few scenes a quarter, up to the usual number.
HOLD_OUT_EVERY = 50
USUAL_HELD_OUT = 4
# Smallest side of the synthetic images, in pixels.
SYNTHETIC_SIDE = 256
# How many synthetic images are in use at a time.
SYNTHETIC_POOL = 48
# After this many steps a new synthetic image replaces the oldest.
SYNTHETIC_STEPS = 400
# Share of crops for which detail decides. The others keep skies and walls among the training data.
DETAIL_SHARE = 0.75


class Batch(NamedTuple):
    """noisy, target: float32 (N, H, W, 3); weight: (N,) or (N, H, W, 1), in the loss.

    shift: (N, 2), the part of a pixel by which each target's scene lies further down and right; None for none.
    """

    noisy: Tensor
    target: Tensor
    weight: Tensor
    shift: Tensor | None = None


class ValidationSet(NamedTuple):
    """Images held out of training. reference_noise: mean square of the reference's noise, 0 if it is clean."""

    noisy: Tensor
    reference: Tensor
    reference_noise: float


class BatchSource(Protocol):
    """An endless supply of batches."""

    def draw(self, step: int, count: int, rng: torch.Generator) -> Batch:
        """The batch of a step: the same for the same step and state of rng, which is on the CPU."""


class PairSource(BatchSource, Protocol):
    """A supply of batches that also holds images out for validation."""

    def validation(self, count: int) -> ValidationSet:
        """The same images at every call, none of which `draw` ever returns."""


class SceneSource(Protocol):
    """A supply of images to add noise to."""

    def draw(self, count: int, side: int, step: int, rng: torch.Generator) -> list[PatchBatch]:
        """That many patches of that side, in one or more batches. rng: on the CPU."""


class Photos:
    """Patches of photographs, from random places that prefer detail, flipped and turned at random.

    zoom: each crop is first scaled down by a factor between this and 1, which hides the noise and the halved
    chroma of compressed files. tries: of this many places the one with the most detail is taken, in a share
    DETAIL_SHARE of the crops. device: where the patches are used.
    """

    def __init__(
        self,
        photos: Iterable[Tensor] | Concatenation,
        zoom: float = 1.0,
        tries: int = 3,
        device: torch.device | str = "cpu",
    ) -> None:
        self.store, self.tries = PatchStore(photos, zoom, device), tries

    def draw(self, count: int, side: int, step: int, rng: torch.Generator) -> list[PatchBatch]:
        """Patches of that side. Raises ValueError if no photo is large enough."""
        rng = generator_on(self.store.device, rng)
        images = self.store.random_images((count, self.tries), side, rng)
        boxes = self.store.random_boxes(images, side, rng)
        if self.tries == 1:
            best = torch.zeros(count, dtype=torch.int64, device=rng.device)
        else:
            by_detail = torch.rand(count, generator=rng, device=rng.device) < DETAIL_SHARE
            best = self.store.detail(boxes, side).argmax(1) * by_detail
        return [self.store.random_patches(boxes.select(best), side, rng)]


class SyntheticImages:
    """Patches of synthetic images; every few steps a new image replaces the oldest.

    make: makes an image of (height, width) from a generator. Image number i depends only on the seed and i, so
    a resumed run sees the images that an uninterrupted one would. device: where the patches are used. dtype: of
    the images, as PatchStore takes them.
    """

    def __init__(
        self,
        make: Callable[[int, int, torch.Generator], Tensor],
        seed: int = 0,
        side: int = SYNTHETIC_SIDE,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.uint8,
    ) -> None:
        self.make, self.seed, self.side, self.pool = make, seed, side, SYNTHETIC_POOL
        blank = torch.zeros(side, side, 3, dtype=dtype)
        self.store = PatchStore([blank] * self.pool, device=device)
        # The number of the image at each index of the store: number i is at index i modulo the pool's size.
        self.numbers = [-1] * self.pool

    def draw(self, count: int, side: int, step: int, rng: torch.Generator) -> list[PatchBatch]:
        """Patches of that side."""
        numbers = step // SYNTHETIC_STEPS + torch.randint(self.pool, (count,), generator=rng)
        for number in sorted(set(numbers.tolist())):
            index = number % self.pool
            if self.numbers[index] != number:
                self.store.replace(index, self.make(self.side, self.side, seeded_generator(self.seed, number, 1)))
                self.numbers[index] = number
        rng = generator_on(self.store.device, rng)
        images = (numbers % self.pool).to(self.store.device, non_blocking=True)
        return [self.store.random_patches(self.store.random_boxes(images, side, rng), side, rng)]


class MixedScenes:
    """Scenes from one source, and a share of them from another."""

    def __init__(self, main: SceneSource, other: SceneSource, share: float) -> None:
        self.main, self.other, self.share = main, other, share

    def draw(self, count: int, side: int, step: int, rng: torch.Generator) -> list[PatchBatch]:
        """Patches of that side."""
        others = int((torch.rand(count, generator=rng) < self.share).sum())
        sources = ((self.main, count - others), (self.other, others))
        return [batch for source, number in sources if number for batch in source.draw(number, side, step, rng)]


class GeneratedPairs:
    """Pairs whose noise is drawn from a noise model. held_out_noise: another model, for validation."""

    def __init__(
        self,
        scenes: SceneSource,
        held_out: SceneSource,
        noise: NoiseModel,
        patch: int,
        held_out_noise: NoiseModel | None = None,
    ) -> None:
        self.scenes, self.held_out, self.noise, self.patch = scenes, held_out, noise, patch
        self.held_out_noise = held_out_noise or noise

    def draw(self, step: int, count: int, rng: torch.Generator) -> Batch:
        """Each sample has its own scene and its own noise.

        The scene is flipped and turned before the noise is added, so noise with a direction keeps it.
        """
        views = [
            self.noise.views(scenes, scale, generator_on(scenes.device, rng))
            for scale, scenes in self._draw_scenes(self.scenes, self.noise, step, count, rng)
        ]
        return Batch(*(_concatenate(parts) for parts in zip(*views, strict=True)))

    def validation(self, count: int) -> ValidationSet:
        """Held-out scenes. The reference is the clean image, which only validation may use."""
        rng = seeded_generator(0)
        noise, noisy, clean = self.held_out_noise, [], []
        for scale, scenes in self._draw_scenes(self.held_out, noise, 0, count, rng):
            noisy.append(noise.views(scenes, scale, generator_on(scenes.device, rng)).noisy)
            clean.append(noise.clean(scenes, scale))
        return ValidationSet(_concatenate(noisy), _concatenate(clean), 0.0)

    def _draw_scenes(
        self, source: SceneSource, noise: NoiseModel, step: int, count: int, rng: torch.Generator
    ) -> Iterator[tuple[int, PatchBatch]]:
        """Scales, each with scenes for views of that scale."""
        for scale, number in sorted(Counter(noise.draw_scales(count, rng)).items()):
            for scenes in source.draw(number, self.patch * scale, step, rng):
                yield scale, scenes


class RecordedPairs:
    """Patches of pairs of shots of the same scene, uint8 (H, W, 3) each.

    seed: decides which pairs are held out. device: where the patches are used. Raises ValueError if there are
    fewer than two pairs, the shots of a pair differ in size, or a shot is smaller than a patch.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[Tensor, Tensor]],
        patch: int,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        if len(pairs) < 2:
            raise ValueError(f"at least 2 pairs are needed, 1 of them for validation; got {len(pairs)}")
        for number, (first, second) in enumerate(pairs):
            if first.shape != second.shape:
                raise ValueError(f"pair {number}: the shots differ in size, {_size(first)} and {_size(second)}")
            if min(first.shape[:2]) < patch:
                raise ValueError(
                    f"pair {number}: {_size(first)} pixels are fewer than a patch of {patch} x {patch};"
                    " set a smaller patch"
                )
        chosen = set(drawn_order(len(pairs), seed)[: held_out_count(len(pairs))])
        # The two shots are cut, flipped and turned as one image of six channels.
        self.training, self.held_out = (
            PatchStore(
                (torch.cat(pair, 2) for number, pair in enumerate(pairs) if (number in chosen) == held_out),
                device=device,
            )
            for held_out in (False, True)
        )
        self.patch = patch

    def draw(self, step: int, count: int, rng: torch.Generator) -> Batch:
        """Draws a batch. Chance decides which of the two shots is the input and which the target."""
        first, second = self._draw_shots(self.training, count, rng)
        rng = generator_on(first.device, rng)
        swap = torch.rand((count, 1, 1, 1), generator=rng, device=first.device) < 0.5
        noisy, target = torch.where(swap, second, first), torch.where(swap, first, second)
        return Batch(noisy, target, torch.ones(count, device=first.device))

    def validation(self, count: int) -> ValidationSet:
        """Each shot is once the input and once the reference, whose noise is known only as the mean of both.

        The mean square of the shots' difference is the sum of both noises' variances, whatever the two are. One
        direction alone would need the variance of its own reference: a shot and a mean of many have unequal ones.
        Raises ValueError if the two shots of each held-out pair are the same.
        """
        first, second = self._draw_shots(self.held_out, count, seeded_generator(0))
        reference_noise = 0.5 * float((first - second).square().mean())
        if not reference_noise:
            raise ValueError("the two shots of each held-out pair are the same; pairs need noise that differs")
        return ValidationSet(torch.cat((first, second)), torch.cat((second, first)), reference_noise)

    def _draw_shots(self, store: PatchStore, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        rng = generator_on(store.device, rng)
        boxes = store.random_boxes(store.random_images((count,), self.patch, rng), self.patch, rng)
        both = store.random_patches(boxes, self.patch, rng).read()
        return both[..., :3].contiguous(), both[..., 3:].contiguous()


def held_out_count(scenes: int) -> int:
    """How many of these scenes are held out of training."""
    return max(1, min(USUAL_HELD_OUT, scenes // 4), scenes // HOLD_OUT_EVERY)


def drawn_order(count: int, seed: int) -> list[int]:
    """The numbers from 0 in an order that the seed decides. The first are held out."""
    # Three numbers, as those of no other generator.
    return torch.randperm(count, generator=seeded_generator(seed, 0, 2)).tolist()


def photo_source(
    parts: Sequence[Concatenation], zoom: float, tries: int, device: torch.device | str = "cpu"
) -> SceneSource:
    """Patches of photos, of one type or both types that a PatchStore takes. Each photo is drawn as often."""
    first, *others = (Photos(part, zoom, tries, device) for part in parts)
    if not others:
        return first
    return MixedScenes(first, others[0], len(others[0].store) / (len(first.store) + len(others[0].store)))


def generated_pairs(
    photos: tuple[SceneSource, SceneSource] | None,
    noise: NoiseModel,
    *,
    patch: int,
    seed: int,
    synthetic: float = 0.0,
    pattern_share: float = 0.0,
    measured_share: float = 0.0,
    device: torch.device | str = "cpu",
    held_out_noise: NoiseModel | None = None,
) -> GeneratedPairs:
    """Pairs with noise from the model. device: where batches are made and used.

    photos: for training and for validation. Without them all scenes are dead leaves; with them a share
    `synthetic` is. In both cases a share `pattern_share` of the scenes is patterns, and a share `measured_share`
    is measured scenes. held_out_noise: the model for validation, if it is not `noise`.
    """
    side = max(SYNTHETIC_SIDE, patch * noise.largest_scale)
    leaves = SyntheticImages(dead_leaves, seed, side, device)
    scenes, held_out = photos or (leaves, None)
    if photos and synthetic:
        scenes = MixedScenes(scenes, leaves, synthetic)
    if pattern_share:
        # The share is one of all scenes, and the measured ones are mixed in afterwards.
        part = pattern_share / (1 - measured_share) if measured_share < 1 else 0.0
        scenes = MixedScenes(scenes, SyntheticImages(patterns, seed, side, device), part)
    if measured_share:
        measured = SyntheticImages(measured_scene, seed, side, device, torch.float32)
        scenes = MixedScenes(scenes, measured, measured_share)
    # No run draws as many images as lie between this seed and that of training, so it never draws these.
    held_out = held_out or SyntheticImages(dead_leaves, seed + 2**40, side, device)
    return GeneratedPairs(scenes, held_out, noise, patch, held_out_noise)


def _concatenate(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _size(image: Tensor) -> str:
    return f"{image.shape[1]} x {image.shape[0]}"
