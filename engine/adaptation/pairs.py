"""Pairs of noisy shots for training: every two shots of a scene, both ways, and single shots split in two.

Sources: Lehtinen et al., "Noise2Noise: Learning image restoration without clean data", ICML 2018 (a noisy image
as the target); Huang et al., "Neighbor2Neighbor: Self-supervised denoising from single noisy images", CVPR 2021
(random neighbours as input and target).
"""

import math
from collections.abc import Iterator, Sequence
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from engine.adaptation.shots import SceneShots
from engine.data.patch_store import CropBoxes, PatchBatch, PatchStore
from engine.data.sources import Batch, BatchSource
from engine.layers.subpixel_shift import REACH

# The patch store holds values on this scale, and returns them divided by it.
STORE_SCALE = 255.0
# Each shot of a long stack has targets among this many shots that follow it, and as many before.
MAX_PARTNERS = 32
# A smaller shift than this, in pixels, is left as it is.
MIN_SHIFT = 0.02
# The two pixels of each 2 x 2 cell that become input and target: neighbours in a row or in a column, both ways.
# Numbers of pixels: 0 1 above 2 3.
NEIGHBOURS = ((0, 1), (1, 0), (2, 3), (3, 2), (0, 2), (2, 0), (1, 3), (3, 1))


T = TypeVar("T")


class _Pair(NamedTuple, Generic[T]):
    """Numbers of an ordered pair of shots, or of many.

    first, second: the shots' numbers in the store. top, left, height, width: in the first, what both show.
    rows, columns: from there to the same place in the second, and down, right: what is left of that.
    """

    first: T
    second: T
    top: T
    left: T
    height: T
    width: T
    rows: T
    columns: T
    down: T
    right: T
    weight: T


class ShotPairs:
    """Patches of every ordered pair of shots of a scene.

    Shifts between shots are undone by whole pixels. What is left, half a pixel at most, is the shift of a batch.
    turn: whether patches may be transposed. Raises ValueError if no scene holds a patch.
    """

    def __init__(self, scenes: Sequence[SceneShots], patch: int, turn: bool = True) -> None:
        self.patch, self.turn = patch, turn
        self.store = _store(scenes)
        pairs = [pair for pair in _pairs(scenes) if min(pair.height, pair.width) >= patch]
        if not pairs:
            raise ValueError(f"No two shots of a scene share {patch} x {patch} pixels. Set a smaller patch.")
        columns = zip(*pairs, strict=True)
        self.pairs = _Pair(*(torch.tensor(values) for values in columns))

    def draw(self, step: int, count: int, rng: torch.Generator) -> Batch:
        """Patches from random places. A scene is drawn as often as it has pixels."""
        chosen = torch.multinomial(self.pairs.weight.double(), count, replacement=True, generator=rng)
        pair = _Pair(*(values[chosen] for values in self.pairs))
        down, right = torch.rand((2, count), generator=rng)
        top = pair.top + (down * (pair.height - self.patch + 1)).long()
        left = pair.left + (right * (pair.width - self.patch + 1)).long()
        orientation = _orientation(count, self.turn, rng)
        first = _read(self.store, pair.first, top, left, self.patch, orientation)
        second = _read(self.store, pair.second, top + pair.rows, left + pair.columns, self.patch, orientation)
        weight = (first[..., -1:] * second[..., -1:]).contiguous()
        shift = _oriented(torch.stack((pair.down, pair.right), 1), orientation)
        moves = shift.any(1)
        # What moves in over a border is not known.
        weight[moves] *= _inside(self.patch)
        batch = Batch(_as_colour(first[..., :-1]), _as_colour(second[..., :-1]), weight)
        return batch._replace(shift=shift) if bool(moves.any()) else batch


class SplitShots:
    """Patches of single shots, of which two neighbouring pixels of each 2 x 2 cell become input and target.

    The noise of neighbours must be independent. turn: whether patches may be transposed. Raises ValueError if no
    shot holds a patch, which covers twice as many pixels a side.
    """

    def __init__(self, scenes: Sequence[SceneShots], patch: int, turn: bool = True) -> None:
        self.patch, self.turn = patch, turn
        sizes = torch.tensor([scene.size for scene in scenes])
        if not bool((sizes.amin(1) >= 2 * patch).any()):
            raise ValueError(f"No single shot has {2 * patch} x {2 * patch} pixels. Set a smaller patch.")
        self.store = _store(scenes)
        self.heights, self.widths = sizes.unbind(1)
        self.weights = sizes.prod(1).double() * (sizes.amin(1) >= 2 * patch)

    def draw(self, step: int, count: int, rng: torch.Generator) -> Batch:
        """Patches from random places. A shot is drawn as often as it has pixels."""
        image = torch.multinomial(self.weights, count, replacement=True, generator=rng)
        side = 2 * self.patch
        down, right = torch.rand((2, count), generator=rng)
        top = (down * (self.heights[image] - side + 1)).long()
        left = (right * (self.widths[image] - side + 1)).long()
        patches = _read(self.store, image, top, left, side, _orientation(count, self.turn, rng))
        first, second = split(patches, rng)
        weight = first[..., -1:] * second[..., -1:]
        return Batch(_as_colour(first[..., :-1]), _as_colour(second[..., :-1]), weight.contiguous())


class MixedPairs:
    """Batches whose samples come from several sources, each in its share."""

    def __init__(self, sources: Sequence[BatchSource], shares: Sequence[float]) -> None:
        self.sources, self.shares = sources, torch.tensor(shares, dtype=torch.float64)

    def draw(self, step: int, count: int, rng: torch.Generator) -> Batch:
        """A batch with as many samples of each source as chance decides."""
        chosen = torch.multinomial(self.shares, count, replacement=True, generator=rng)
        numbers = torch.bincount(chosen, minlength=len(self.sources)).tolist()
        batches = [
            source.draw(step, number, rng) for source, number in zip(self.sources, numbers, strict=True) if number
        ]
        whole = Batch(*(torch.cat(parts) for parts in zip(*(batch[:3] for batch in batches), strict=True)))
        if all(batch.shift is None for batch in batches):
            return whole
        shifts = [torch.zeros(len(batch.noisy), 2) if batch.shift is None else batch.shift for batch in batches]
        return whole._replace(shift=torch.cat(shifts))


def pair_source(scenes: Sequence[SceneShots], patch: int, turn: bool = True) -> BatchSource:
    """The source for scenes of all kinds, each drawn as often as it has pixels. Raises ValueError without any."""
    several = [scene for scene in scenes if scene.use != "single"]
    single = [scene for scene in scenes if scene.use == "single" and min(scene.size) >= 2 * patch]
    sources: list[BatchSource] = []
    shares = []
    if several:
        sources.append(ShotPairs(several, patch, turn))
        shares.append(_pixels(several))
    if single:
        sources.append(SplitShots(single, patch, turn))
        shares.append(_pixels(single))
    if not sources:
        raise ValueError(
            f"No scene holds patches of {patch} x {patch} pixels. Record larger shots, or set a smaller patch."
        )
    return sources[0] if len(sources) == 1 else MixedPairs(sources, shares)


def split(patches: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """(N, 2 H, 2 W, C) -> two of (N, H, W, C): of each 2 x 2 cell, two random pixels that are neighbours."""
    count, height, width, channels = patches.shape
    cells = patches.view(count, height // 2, 2, width // 2, 2, channels).transpose(2, 3).flatten(3, 4)
    choice = torch.randint(len(NEIGHBOURS), cells.shape[:3], generator=rng)
    numbers = torch.tensor(NEIGHBOURS)[choice]
    first, second = (
        cells.gather(3, number[..., None, None].expand(-1, -1, -1, 1, channels)).squeeze(3)
        for number in numbers.unbind(3)
    )
    return first, second


def _store(scenes: Sequence[SceneShots]) -> PatchStore:
    """All shots, normalised, and as a last channel which of their pixels are usable."""
    channels = max(scene.channels for scene in scenes)

    def images() -> Iterator[Tensor]:
        for scene in scenes:
            for shot, usable in zip(scene.shots, scene.usable, strict=True):
                pixels = scene.normalisation.forward(shot)
                yield torch.cat((pixels.expand(-1, -1, channels), usable.float().unsqueeze(2)), 2) * STORE_SCALE

    return PatchStore(images())


def _pairs(scenes: Sequence[SceneShots]) -> "Iterator[_Pair[float]]":
    """Every ordered pair of shots that do not share noise."""
    start = 0
    for scene in scenes:
        count = len(scene.shots)
        numbers = [
            (i, j)
            for i in range(count)
            for j in range(max(0, i - scene.lag - MAX_PARTNERS), min(count, i + scene.lag + MAX_PARTNERS + 1))
            if i != j and (abs(i - j) >= scene.lag or scene.use == "drawn")
        ]
        height, width = scene.size
        weight = height * width * count / max(len(numbers), 1)
        for i, j in numbers:
            down, right = (b - a for a, b in zip(scene.shifts[i], scene.shifts[j], strict=True))
            rows, columns = round(down), round(right)
            still = math.hypot(down - rows, right - columns) < MIN_SHIFT
            remains = (0.0, 0.0) if still else (down - rows, right - columns)
            shared = (height - abs(rows), width - abs(columns))
            place = (max(0, -rows), max(0, -columns))
            yield _Pair(start + i, start + j, *place, *shared, rows, columns, *remains, weight)
        start += count


def _pixels(scenes: Sequence[SceneShots]) -> float:
    return float(sum(scene.size[0] * scene.size[1] * len(scene.shots) for scene in scenes))


def _orientation(count: int, turn: bool, rng: torch.Generator) -> Tensor:
    """As a PatchBatch has it. Without `turn` rows stay rows."""
    orientation = torch.rand((3, count), generator=rng) < 0.5
    if not turn:
        orientation[2] = False
    return orientation


def _oriented(shift: Tensor, orientation: Tensor) -> Tensor:
    """(N, 2): a shift of the scene, as it appears in patches of that orientation."""
    turned = torch.where(orientation[:2].mT, -shift, shift)
    return torch.where(orientation[2][:, None], turned.flip(1), turned)


def _inside(side: int) -> Tensor:
    """(side, side, 1): 1 where a moved output is made of pixels inside the patch alone, else 0."""
    inside = torch.zeros(side, side, 1)
    inside[REACH : side - REACH, REACH : side - REACH] = 1
    return inside


def _read(store: PatchStore, image: Tensor, top: Tensor, left: Tensor, side: int, orientation: Tensor) -> Tensor:
    boxes = CropBoxes(image, top, left, torch.full(image.shape, float(side)))
    return PatchBatch(store, boxes, side, orientation).read()


def _as_colour(pixels: Tensor) -> Tensor:
    """(N, H, W, 1 or 3) -> (N, H, W, 3), grey in three equal channels."""
    return pixels.expand(-1, -1, -1, 3).contiguous()
