"""Where training pairs come from: two noisy views of one scene, and no clean target.

Photos and synthetic pictures get their noise as they are drawn; recorded pairs bring their own.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from engine import images
from engine.noise import Noise, Views
from engine.synthetic import dead_leaves

PAIR_FILES = (".pkl", ".pt")
# One picture in so many is kept from training, to measure on.
HELD_OUT = 50
# Least side of the synthetic pictures, how many are at hand, and after how many steps a new one takes a place.
LEAVES_SIDE, LEAVES_POOL, LEAVES_STEPS = 256, 48, 400


class Batch(NamedTuple):
    """noisy, target: float32 (N, H, W, 3); weight: (N,), each sample's weight in the loss."""

    noisy: Tensor
    target: Tensor
    weight: Tensor


class Validation(NamedTuple):
    """Pictures kept from training. noise: mean square of the reference's own noise, 0 where it is clean."""

    noisy: Tensor
    reference: Tensor
    noise: float


class Source(Protocol):
    """Gives pairs without end."""

    def draw(self, step: int, batch: int, rng: torch.Generator) -> Batch:
        """The batch of a step: the same for the same step and state of rng."""

    def validation(self, count: int) -> Validation:
        """The same pictures at every call, none of them ever drawn."""


class Scenes(Protocol):
    """Gives pictures to put noise on."""

    def cut(self, side: int, step: int, rng: torch.Generator) -> Tensor:
        """uint8 (side, side, 3)."""


class Photos:
    """Squares cut from photographs, at random places that prefer detail.

    zoom: each cut is first scaled down by a factor drawn between this and 1, which hides the noise and the
    halved chroma of compressed files. tries: of so many places the one with the most detail is taken, in three
    cuts of four: the fourth keeps skies and walls in the diet.
    """

    def __init__(self, photos: Sequence[Tensor], zoom: float = 1.0, tries: int = 3) -> None:
        self.photos, self.zoom, self.tries = photos, zoom, tries

    def cut(self, side: int, step: int, rng: torch.Generator) -> Tensor:
        """uint8 (side, side, 3). Raises ValueError if no photo is large enough."""
        fitting = [photo for photo in self.photos if min(photo.shape[:2]) >= side]
        if not fitting:
            raise ValueError(f"no photo is large enough to cut {side} x {side} pixels from")
        tries = self.tries if _draw(4, rng) else 1
        return max((self._place(fitting, side, rng) for _ in range(tries)), key=_detail)

    def _place(self, fitting: Sequence[Tensor], side: int, rng: torch.Generator) -> Tensor:
        photo = fitting[_draw(len(fitting), rng)]
        zoom = self.zoom + (1 - self.zoom) * float(torch.rand((), generator=rng))
        source = min(round(side / zoom), *photo.shape[:2])
        square = _square(photo, source, rng)
        return square if source == side else images.resize(square, side, side)


class DeadLeaves:
    """Squares cut from synthetic pictures; every few steps a new picture takes the place of the oldest.

    Picture number i is made from seed + i alone, so a resumed run sees what an uninterrupted one would have.
    """

    def __init__(self, seed: int = 0, side: int = LEAVES_SIDE) -> None:
        self.seed, self.side = seed, side
        self.pool: dict[int, Tensor] = {}

    def cut(self, side: int, step: int, rng: torch.Generator) -> Tensor:
        """uint8 (side, side, 3)."""
        oldest = step // LEAVES_STEPS
        number = oldest + _draw(LEAVES_POOL, rng)
        if number not in self.pool:
            self.pool = {n: picture for n, picture in self.pool.items() if n >= oldest}
            maker = torch.Generator().manual_seed(self.seed + number)
            self.pool[number] = dead_leaves(self.side, self.side, maker)
        return _square(self.pool[number], side, rng)


class Mixed:
    """Mostly from one kind of scenes, and a share from another."""

    def __init__(self, main: Scenes, other: Scenes, share: float) -> None:
        self.main, self.other, self.share = main, other, share

    def cut(self, side: int, step: int, rng: torch.Generator) -> Tensor:
        """uint8 (side, side, 3)."""
        chosen = self.other if float(torch.rand((), generator=rng)) < self.share else self.main
        return chosen.cut(side, step, rng)


class DrawnPairs:
    """Pairs whose noise is drawn on the fly, from a noise model."""

    def __init__(self, scenes: Scenes, held_out: Scenes, noise: Noise, patch: int) -> None:
        self.scenes, self.held_out, self.noise, self.patch = scenes, held_out, noise, patch

    def draw(self, step: int, batch: int, rng: torch.Generator) -> Batch:
        """Each sample has a scene, a noise and a turn of its own."""
        views = []
        for _ in range(batch):
            scale = self.noise.draw_scale(rng)
            pair = self.noise.views(self.scenes.cut(self.patch * scale, step, rng), scale, rng)
            views.append(augment(pair, self.noise.symmetric, rng))
        return _stack(views)

    def validation(self, count: int) -> Validation:
        """Held-out scenes; their clean picture is the reference, to measure against only."""
        rng = torch.Generator().manual_seed(0)
        noisy, clean = [], []
        for _ in range(count):
            scale = self.noise.draw_scale(rng)
            scene = self.held_out.cut(self.patch * scale, 0, rng)
            noisy.append(self.noise.views(scene, scale, rng).noisy)
            clean.append(self.noise.clean(scene, scale))
        return Validation(torch.stack(noisy), torch.stack(clean), 0.0)


class RecordedPairs:
    """Pairs of shots of the same scene, uint8 (H, W, 3) each, cut to patches.

    Raises ValueError if there are fewer than two pairs, the shots of a pair differ in size, or a shot is
    smaller than a patch.
    """

    def __init__(self, pairs: Sequence[tuple[Tensor, Tensor]], patch: int) -> None:
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
        self.pairs, self.held_out, self.patch = pairs[:-held_out], pairs[-held_out:], patch

    def draw(self, step: int, batch: int, rng: torch.Generator) -> Batch:
        """Either shot is the input, the other the target."""
        return _stack([augment(self._cut(self.pairs, rng), True, rng) for _ in range(batch)])

    def validation(self, count: int) -> Validation:
        """Against the second shot, whose noise is estimated as half the mean square of the two's difference."""
        rng = torch.Generator().manual_seed(0)
        batch = _stack([self._cut(self.held_out, rng) for _ in range(count)])
        noise = 0.5 * float((batch.noisy - batch.target).square().mean())
        return Validation(batch.noisy, batch.target, noise)

    def _cut(self, pairs: Sequence[tuple[Tensor, Tensor]], rng: torch.Generator) -> Views:
        first, second = pairs[_draw(len(pairs), rng)]
        both = _square(torch.cat((first, second), 2), self.patch, rng).float() / 255
        return Views(both[..., :3], both[..., 3:], 1.0)


def augment(pair: Views, symmetric: bool, rng: torch.Generator) -> Views:
    """A pair turned by quarters, flipped and, if its views have the same noise, swapped; each by chance."""
    noisy, target = pair.noisy, pair.target
    if symmetric and _draw(2, rng):
        noisy, target = target, noisy
    turns, flip = _draw(4, rng), _draw(2, rng)
    noisy, target = (torch.rot90(view.flip(1) if flip else view, turns, (0, 1)) for view in (noisy, target))
    return Views(noisy, target, pair.weight)


def open_source(
    data: Sequence[Path], noise: Noise, patch: int, seed: int, synthetic: float, zoom: float, tries: int
) -> Source:
    """The source that the paths call for.

    A .pkl or .pt file, or one folder of pairs: recorded pairs. Folders of photos: noise drawn from the model, a
    share `synthetic` of the scenes dead leaves. Nothing: dead leaves alone.
    Raises ValueError saying what is wrong with which path.
    """
    recorded = [pairs for path in data if (pairs := read_pairs(path)) is not None]
    if recorded and len(recorded) < len(data):
        raise ValueError("recorded pairs and photos cannot be mixed; give one or the other")
    if recorded:
        return RecordedPairs([pair for pairs in recorded for pair in pairs], patch)
    side = max(LEAVES_SIDE, patch * noise.largest_scale)
    leaves: Scenes = DeadLeaves(seed, side)
    if not data:
        # Never drawn: as many pictures lie between these and those of training as a run can have.
        return DrawnPairs(leaves, DeadLeaves(seed + 2**40, side), noise, patch)
    photos = [images.read_rgb(file) for folder in data for file in images.picture_files(folder)]
    if len(photos) < 2:
        raise ValueError(f"at least 2 photos are needed, 1 to measure on; found {len(photos)}")
    training = [photo for number, photo in enumerate(photos) if number % HELD_OUT]
    scenes: Scenes = Photos(training, zoom, tries)
    if synthetic:
        scenes = Mixed(scenes, leaves, synthetic)
    return DrawnPairs(scenes, Photos(photos[::HELD_OUT], zoom, tries), noise, patch)


def read_pairs(path: Path) -> list[tuple[Tensor, Tensor]] | None:
    """Recorded pairs, or None if the path is a folder of single photos.

    Raises ValueError if the path is neither a folder nor a file of pairs.
    """
    if path.is_file() and path.suffix in PAIR_FILES:
        return read_pair_file(path)
    if not path.is_dir():
        raise ValueError(f"{path}: neither a folder nor a file of pairs ({' or '.join(PAIR_FILES)})")
    named = _pairs_by_suffix(path) or _pairs_by_folder(path)
    return [(images.read_rgb(a), images.read_rgb(b)) for a, b in named] or None


def read_pair_file(path: Path) -> list[tuple[Tensor, Tensor]]:
    """The course's format: (first, second), uint8 (N, 3, H, W) each.

    Only tensors are unpickled, so a file cannot run code. Raises ValueError naming the file and what it holds.
    """
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # What an unpickler raises over bytes that are no pickle depends on the bytes.
        raise ValueError(f"{path}: not a file of tensors alone, refused: {error}") from error
    if not (isinstance(held, tuple | list) and len(held) == 2 and all(map(_is_stack, held))):
        raise ValueError(f"{path}: holds no (first, second) of uint8 N x 3 x H x W")
    if held[0].shape != held[1].shape:
        raise ValueError(f"{path}: shapes differ, {tuple(held[0].shape)} and {tuple(held[1].shape)}")
    first, second = (stack.permute(0, 2, 3, 1).contiguous() for stack in held)
    return list(zip(first, second, strict=True))


def _is_stack(value: object) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.uint8 and value.dim() == 4 and value.shape[1] == 3


def _pairs_by_suffix(folder: Path) -> list[tuple[Path, Path]]:
    """name_1.png with name_2.png. Raises ValueError naming a shot that has no partner."""
    files = {file.stem: file for file in sorted(folder.iterdir()) if _is_picture(file)}
    names = [stem[:-2] for stem in files if stem.endswith("_1") and f"{stem[:-2]}_2" in files]
    paired = {f"{name}_{shot}" for name in names for shot in (1, 2)}
    if names and (alone := [file.name for stem, file in files.items() if stem not in paired]):
        raise ValueError(f"{folder}: no partner for {', '.join(alone)}")
    return [(files[f"{name}_1"], files[f"{name}_2"]) for name in names]


def _pairs_by_folder(folder: Path) -> list[tuple[Path, Path]]:
    """Two folders with equal names. Raises ValueError naming a file that only one of them has."""
    folders = sorted(entry for entry in folder.iterdir() if entry.is_dir())
    if len(folders) != 2 or any(map(_is_picture, folder.iterdir())):
        return []
    first, second = ({f.stem: f for f in entry.iterdir() if _is_picture(f)} for entry in folders)
    if alone := sorted(first.keys() ^ second.keys()):
        raise ValueError(f"{folder}: only one of its two folders has {', '.join(alone)}")
    return [(first[name], second[name]) for name in sorted(first)]


def _is_picture(file: Path) -> bool:
    # Names with a leading dot are other systems' notes beside pictures.
    return file.is_file() and file.suffix.lower() in images.PICTURE_SUFFIXES and not file.name.startswith(".")


def _stack(views: Sequence[Views]) -> Batch:
    noisy, target, weight = zip(*views, strict=True)
    return Batch(torch.stack(noisy), torch.stack(target), torch.tensor(weight))


def _square(picture: Tensor, side: int, rng: torch.Generator) -> Tensor:
    y, x = (_draw(length - side + 1, rng) for length in picture.shape[:2])
    return picture[y : y + side, x : x + side]


def _detail(scene: Tensor) -> float:
    """Standard deviation of the green channel's diagonal differences: large where there is fine structure."""
    green = scene[..., 1].float()
    return float((green[1:, 1:] - green[:-1, :-1]).std())


def _size(picture: Tensor) -> str:
    return f"{picture.shape[1]} x {picture.shape[0]}"


def _draw(below: int, rng: torch.Generator) -> int:
    return int(torch.randint(below, (), generator=rng))
