"""Readers of recorded pairs: files of tensors, and folders of images paired by name."""

from pathlib import Path

import torch
from torch import Tensor

from engine.imageio.read import is_image_name, read_rgb
from engine.system.file_names import earlier_results

PAIR_FILES = (".pkl", ".pt")


def read_pairs(path: Path) -> list[tuple[Tensor, Tensor]] | None:
    """Recorded pairs, uint8 (H, W, 3) each, or None if the path is a folder of single photos.

    Raises ValueError if the path is neither a folder nor a file of pairs.
    """
    if path.is_file() and path.suffix in PAIR_FILES:
        return read_pair_file(path)
    if not path.is_dir():
        raise ValueError(f"{path}: expected a folder or a file of pairs ({' or '.join(PAIR_FILES)})")
    named = _pairs_by_suffix(path) or _pairs_by_folder(path)
    return [(read_rgb(a), read_rgb(b)) for a, b in named] or None


def read_pair_file(path: Path) -> list[tuple[Tensor, Tensor]]:
    """The pairs of a file that holds (first, second), each uint8 (N, 3, H, W). Returns uint8 (H, W, 3) pairs.

    The seed report's data set has this format.

    Only tensors are unpickled, so a file cannot run code. Raises ValueError naming the file and what it holds.
    """
    try:
        stacks = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # Bytes that are not a pickle may make an unpickler raise anything.
        raise ValueError(f"{path}: not a file of tensors alone: {error}") from error
    if not (isinstance(stacks, tuple | list) and len(stacks) == 2 and all(map(_is_stack, stacks))):
        raise ValueError(f"{path}: expected two uint8 tensors (first, second) of N x 3 x H x W")
    if stacks[0].shape != stacks[1].shape:
        raise ValueError(f"{path}: shapes differ, {tuple(stacks[0].shape)} and {tuple(stacks[1].shape)}")
    first, second = (stack.permute(0, 2, 3, 1).contiguous() for stack in stacks)
    return list(zip(first, second, strict=True))


def _is_stack(value: object) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.uint8 and value.dim() == 4 and value.shape[1] == 3


def _pairs_by_suffix(folder: Path) -> list[tuple[Path, Path]]:
    """name_1.png with name_2.png. Raises ValueError naming a shot without its partner."""
    files = {file.stem: file for file in _images(folder)}
    names = [stem[:-2] for stem in files if stem.endswith("_1") and f"{stem[:-2]}_2" in files]
    paired = {f"{name}_{shot}" for name in names for shot in (1, 2)}
    if names and (unpaired := [file.name for stem, file in files.items() if stem not in paired]):
        raise ValueError(f"{folder}: no partner for {', '.join(unpaired)}")
    return [(files[f"{name}_1"], files[f"{name}_2"]) for name in names]


def _pairs_by_folder(folder: Path) -> list[tuple[Path, Path]]:
    """Two folders with equal names. Raises ValueError naming a file that only one of them has."""
    folders = sorted(entry for entry in folder.iterdir() if entry.is_dir())
    if len(folders) != 2 or _images(folder):
        return []
    first, second = ({file.stem: file for file in _images(entry)} for entry in folders)
    if unpaired := sorted(first.keys() ^ second.keys()):
        raise ValueError(f"{folder}: only one of its two folders has {', '.join(unpaired)}")
    return [(first[name], second[name]) for name in sorted(first)]


def _images(folder: Path) -> list[Path]:
    images = {file for file in folder.iterdir() if file.is_file() and is_image_name(file.name)}
    return sorted(images - earlier_results(images))
