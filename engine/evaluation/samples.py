"""Pairs of a noisy and a clean image to evaluate on: recorded ones, and clean images with white noise."""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from engine.data.readers import PAIR_FILES, read_pair_file
from engine.imageio.read import image_files, read_rgb

# (noisy, clean), float32 (H, W, 3) on [0, 1]; the noisy one may be outside.
Pair = tuple[Tensor, Tensor]

# The endings of a pair's file names, the noisy one first. The second line is PolyU's.
PAIR_ENDINGS = (("_noisy", "_clean"), ("_real", "_mean"))


@dataclass(frozen=True)
class Sample:
    """A pair that is opened when it is needed. name: that of its file, or its number in a file of many."""

    name: str
    open: Callable[[], Pair]


def gaussian_samples(folder: Path, sigma: float) -> list[Sample]:
    """The folder's images with white noise, not clipped. sigma: standard deviation, 0-255 scale.

    An image's noise depends only on its file's name, so it is the same in every run, whatever other images there
    are. Raises ValueError naming the folder if it has no images.
    """
    if sigma < 0:
        raise ValueError(f"sigma must be at least 0; got {sigma:g}")
    return [Sample(file.stem, partial(_open_with_noise, file, sigma)) for file in image_files(folder)]


def gaussian_pairs(folder: Path, sigma: float, limit: int | None = None) -> Iterator[Pair]:
    """The pairs of gaussian_samples, opened one by one. limit: open only this many."""
    return (sample.open() for sample in gaussian_samples(folder, sigma)[:limit])


def recorded_samples(path: Path) -> list[Sample]:
    """The pairs of a .pkl or .pt file that `read_pair_file` reads, or of a folder.

    In a folder, pairs are NAME_noisy with NAME_clean, NAME_real with NAME_mean as in PolyU, or equal names in
    its folders noisy and clean. Raises ValueError saying what is wrong with which path.
    """
    if path.is_file() and path.suffix in PAIR_FILES:
        pairs = enumerate(read_pair_file(path), 1)
        return [Sample(str(number), partial(_to_floats, *pair)) for number, pair in pairs]
    if not path.is_dir():
        raise ValueError(f"{path}: expected a folder or a file of pairs ({' or '.join(PAIR_FILES)})")
    named = _pairs_in_folders(path) if (path / "noisy").is_dir() else _pairs_by_ending(path)
    return [Sample(name, partial(_open_pair, *pair)) for name, pair in named.items()]


def with_noise(clean: Tensor, name: str, sigma: float, channels: int = 3) -> Tensor:
    """An image (H, W, 3) with white noise seeded by its name, not clipped.

    channels: 3, or 1 for the same noise in all channels.
    """
    rng = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return clean + sigma / 255 * torch.randn(*clean.shape[:2], channels, generator=rng)


def _open_with_noise(file: Path, sigma: float) -> Pair:
    clean = read_rgb(file).float() / 255
    return with_noise(clean, file.name, sigma), clean


def _to_floats(noisy: Tensor, clean: Tensor) -> Pair:
    return noisy.float() / 255, clean.float() / 255


def _open_pair(noisy: Path, clean: Path) -> Pair:
    pair = _to_floats(read_rgb(noisy), read_rgb(clean))
    if pair[0].shape != pair[1].shape:
        sizes = [f"{image.shape[1]} x {image.shape[0]}" for image in pair]
        raise ValueError(f"{noisy} and {clean.name} differ in size: {sizes[0]} and {sizes[1]}")
    return pair


def _pairs_in_folders(folder: Path) -> dict[str, tuple[Path, Path]]:
    if not (folder / "clean").is_dir():
        raise ValueError(f"{folder}: has a folder noisy, but no folder clean")
    noisy, clean = ({f.stem: f for f in image_files(folder / part)} for part in ("noisy", "clean"))
    if unpaired := sorted(noisy.keys() ^ clean.keys()):
        raise ValueError(f"{folder}: only one of its folders noisy and clean has {', '.join(unpaired)}")
    return {stem: (noisy[stem], clean[stem]) for stem in noisy}


def _pairs_by_ending(folder: Path) -> dict[str, tuple[Path, Path]]:
    files = {file.stem: file for file in image_files(folder)}
    for noisy, clean in PAIR_ENDINGS:
        names = [stem.removesuffix(noisy) for stem in files if stem.endswith(noisy)]
        if unpaired := [name + noisy for name in names if name + clean not in files]:
            raise ValueError(f"{folder}: no {clean} image for {', '.join(unpaired)}")
        if names:
            return {name: (files[name + noisy], files[name + clean]) for name in names}
    endings = " or ".join(f"NAME{noisy} with NAME{clean}" for noisy, clean in PAIR_ENDINGS)
    raise ValueError(f"{folder}: no pairs found; expected {endings}, or equal names in folders noisy and clean")
