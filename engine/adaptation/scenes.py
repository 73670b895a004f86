"""Scenes: what a folder of noisy shots holds, and its shots, which are read when they are needed.

Names say which files may belong together. Where names leave it open, the shots are looked at: numbered files may
be a burst of one scene, or a camera's numbers for many scenes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from engine.adaptation.likeness import likeness, show_one_scene
from engine.data.shot_names import Group, group_by_name, group_folders, is_number
from engine.imageio.formats import SUPPORTED_FORMATS, detect_format
from engine.imageio.image import Image
from engine.imageio.mapped_file import map_file
from engine.imageio.read import is_image_name, page_places, read_pages

# What the shots of a scene are. A "mean" scene has noisy shots, and the mean of many others as its reference.
Kind = Literal["pair", "burst", "stack", "mean", "single"]
# What a folder can be taken for.
KindChoice = Literal["auto", "pair", "burst", "stack", "mean", "single"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Shot:
    """One noisy image. page: counted from 0, in files of several."""

    path: Path
    page: int = 0
    pages: int = 1

    @property
    def name(self) -> str:
        """Of the file, and the page's number from 1."""
        return self._named(self.path.name)

    def name_in(self, folder: Path) -> str:
        """The same with the path from the folder."""
        return self._named(self.path.relative_to(folder).as_posix())

    def _named(self, path: str) -> str:
        return path if self.pages == 1 else f"{path}, page {self.page + 1}"

    def read(self) -> Tensor:
        """float32 (H, W, C), in the file's units. C is 1 for grey, also if the file has it as three equal
        channels.

        Transparency is left out. Missing samples have values from their neighbours. Raises ValueError naming the
        file, or OSError.
        """
        return one_grey(self.open().samples).float()

    def missing(self) -> Tensor:
        """Bool (H, W): pixels of which the file lacks a sample. Raises as `read`."""
        image = self.open()
        if image.missing is None:
            return torch.zeros(image.samples.shape[:2], dtype=torch.bool)
        return (image.missing.codes > 0).any(2)

    def open(self) -> Image:
        """The image as its file has it. Raises as `read`."""
        try:
            with map_file(self.path) as data:
                [(image, _)] = read_pages(data, {self.page})
                return image
        except ValueError as error:
            raise type(error)(f"{self.path}: {error}") from error


def one_grey(samples: Tensor) -> Tensor:
    """(H, W, C): with one channel where all are equal."""
    is_grey = samples.shape[2] == 3 and bool((samples == samples[..., :1]).all())
    return samples[..., :1] if is_grey else samples


@dataclass(frozen=True)
class Scene:
    """Shots of one still scene, in order of time as their names tell it. All have one size and number of
    channels.

    reference: for the kind "mean", the mean of many shots. It is no noisy view of equal noise.
    """

    name: str
    kind: Kind
    shots: tuple[Shot, ...]
    size: tuple[int, int]
    channels: int
    reference: Shot | None = None


@dataclass(frozen=True)
class LeftOut:
    """A file that no scene has, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Folder:
    """What a folder holds."""

    path: Path
    scenes: tuple[Scene, ...]
    left_out: tuple[LeftOut, ...]


def find_scenes(folder: Path, kind: KindChoice = "auto") -> Folder:
    """What the folder and its subfolders hold.

    kind: what to take all of it for, in place of what names and images say. Raises ValueError for a path that is
    no folder, an unknown kind, or a folder without any scene.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder. Name a folder with noisy shots.")
    if kind not in ("auto", *KINDS):
        raise ValueError(f"There is no kind {kind!r} of shots. Choose one of auto, {', '.join(KINDS)}.")
    left_out: list[LeftOut] = []
    files = [file for file in _files(folder, left_out) if _is_readable(file, left_out)]
    scenes: list[Scene] = []
    if kind == "single":
        scenes = [scene for file in files for scene in _of_file(folder, file, "single", left_out)]
    else:
        scenes = [scene for group in _groups(folder, files) for scene in _of_group(folder, group, kind, left_out)]
    if not scenes:
        raise ValueError(_nothing_found(folder, kind, left_out))
    ordered = sorted(left_out, key=lambda each: each.path)
    return Folder(folder, tuple(sorted(scenes, key=lambda scene: scene.name)), tuple(ordered))


def _nothing_found(folder: Path, kind: KindChoice, left_out: Sequence[LeftOut]) -> str:
    if not left_out:
        return f"{folder}: no images in this folder. {SUPPORTED_FORMATS}."
    wanted = "shots" if kind in ("auto", "single") else f"scenes of the kind {kind!r}"
    first = left_out[0]
    example = f"{first.path.name}: {first.reason}"
    return f"{folder}: no {wanted} in this folder. {len(left_out)} files are left out, for example {example}."


def _files(folder: Path, left_out: list[LeftOut]) -> list[Path]:
    """Files with an image's suffix, in order of their paths. Hidden files are nobody's shots."""
    found = []
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if not path.is_file() or any(part.startswith((".", "~")) for part in parts):
            continue
        if is_image_name(path.name):
            found.append(path)
        else:
            left_out.append(LeftOut(path, "not an image, by its suffix"))
    return found


def _is_readable(file: Path, left_out: list[LeftOut]) -> bool:
    """Whether it begins like an image that can be read."""
    try:
        with file.open("rb") as opened:
            detect_format(opened.read(4096), file.stat().st_size)
    except (ValueError, OSError) as error:
        left_out.append(LeftOut(file, _without_list(str(error))))
        return False
    return True


def _without_list(text: str) -> str:
    """An error without the list of formats, and without its full stop."""
    return text.removesuffix(f" {SUPPORTED_FORMATS}.").rstrip(".")


def _groups(folder: Path, files: Sequence[Path]) -> list[Group]:
    """Files that may be shots of one scene, by their names and folders."""
    by_folder: dict[Path, list[Path]] = {}
    for file in files:
        by_folder.setdefault(file.parent, []).append(file)
    across = group_folders(by_folder)
    if across and _belong_across(across, by_folder):
        return across
    return [group for parent, members in by_folder.items() for group in group_by_name(members, parent != folder)]


def _belong_across(groups: Sequence[Group], by_folder: dict[Path, list[Path]]) -> bool:
    """Whether files of equal names show one scene, rather than the files of each folder.

    Names that are nothing but numbers are those of the shots of a folder, unless the images say otherwise.
    """
    if any(group.mean for group in groups):
        return True
    are_numbers = all(is_number(group.name) for group in groups)
    first_folder = next(iter(by_folder.values()))
    try:
        across = show_one_scene(*(Shot(file).read() for file in groups[0].files[:2]))
        within = len(first_folder) > 1 and show_one_scene(*(Shot(file).read() for file in first_folder[:2]))
    except (ValueError, OSError):
        return not are_numbers
    return across and not within if are_numbers else across or not within


def _of_group(folder: Path, group: Group, kind: KindChoice, left_out: list[LeftOut]) -> list[Scene]:
    """The scenes of files that may belong together."""
    if len(group.files) == 1 and group.mean is None:
        return _of_file(folder, group.files[0], kind, left_out)
    files = list(group.files)
    if kind == "stack" or (kind == "auto" and not _is_burst(group)):
        return [scene for file in files for scene in _of_file(folder, file, kind, left_out)]
    shots = [Shot(file) for file in files]
    name = group.name or _name(folder, files[0].parent)
    scene = _scene(name, kind, shots, Shot(group.mean) if group.mean else None, left_out)
    return [scene] if scene else []


def _is_burst(group: Group) -> bool:
    """Whether the files show one scene, by their names and the first two images."""
    if group.belief == "certain":
        return True
    try:
        first, second = (Shot(file).read() for file in group.files[:2])
    except (ValueError, OSError):
        # Each is named in the report when it is read alone.
        return False
    if group.belief == "open" or first.shape != second.shape:
        return show_one_scene(first, second)
    return not likeness(first, second).differs


def _of_file(folder: Path, file: Path, kind: KindChoice, left_out: list[LeftOut]) -> list[Scene]:
    """The scenes of a file alone: a stack, one for each place that it names, or single shots."""
    try:
        with map_file(file) as data:
            places = page_places(data)
    except (ValueError, OSError) as error:
        left_out.append(LeftOut(file, _without_list(str(error))))
        return []
    if kind in ("pair", "burst", "mean") and len(places) == 1:
        left_out.append(LeftOut(file, f"no other shot of its scene, and the kind {kind!r} needs one"))
        return []
    if kind == "stack" and len(places) == 1:
        left_out.append(LeftOut(file, "one page, and a stack has several"))
        return []
    name = _name(folder, file)
    shots = [Shot(file, page, len(places)) for page in range(len(places))]
    scenes = []
    for place in dict.fromkeys(places):
        frames = [shot for shot, each in zip(shots, places, strict=True) if each == place]
        scenes += _of_frames(f"{name}, {place}" if place else name, frames, kind, left_out)
    return scenes


def _of_frames(name: str, shots: Sequence[Shot], kind: KindChoice, left_out: list[LeftOut]) -> list[Scene]:
    """Pages of a file that may be frames of one scene."""
    if len(shots) > 1 and kind != "single" and (kind != "auto" or _pages_show_one_scene(shots)):
        scene = _scene(name, "stack", shots, None, left_out)
        return [scene] if scene else []
    names = [name] if len(shots) == 1 else [f"{name}, page {shot.page + 1}" for shot in shots]
    made = [_scene(each, "single", [shot], None, left_out) for each, shot in zip(names, shots, strict=True)]
    return [scene for scene in made if scene]


def _pages_show_one_scene(shots: Sequence[Shot]) -> bool:
    try:
        return show_one_scene(shots[0].read(), shots[1].read())
    except (ValueError, OSError):
        return False


def _name(folder: Path, path: Path) -> str:
    relative = path.relative_to(folder)
    return relative.with_suffix("").as_posix() if relative.parts else folder.name


def _scene(
    name: str, kind: KindChoice, shots: Sequence[Shot], reference: Shot | None, left_out: list[LeftOut]
) -> Scene | None:
    """The scene of those shots that have the size of the first. None if too few are left."""
    shapes = _shapes([*shots, *([reference] if reference else [])], left_out)
    if not shapes:
        return None
    fitting = [shot for shot, shape in shapes if shape == shapes[0][1]]
    for shot, shape in shapes:
        if shape != shapes[0][1]:
            words = f"{_size_words(shape)}, where the scene's first shot has {_size_words(shapes[0][1])}"
            left_out.append(LeftOut(shot.path, words))
    has_reference = reference is not None and reference in fitting
    noisy = tuple(shot for shot in fitting if shot is not reference)
    if not noisy:
        return None
    found = _kind_of(kind, len(noisy), has_reference)
    if found == "single" and kind in ("pair", "burst", "mean"):
        left_out.append(LeftOut(noisy[0].path, f"no other shot of its scene, and the kind {kind!r} needs one"))
        return None
    height, width, channels = shapes[0][1]
    return Scene(name, found, noisy, (width, height), channels, reference if has_reference else None)


def _kind_of(kind: KindChoice, shots: int, has_reference: bool) -> Kind:
    if kind == "stack" and shots > 1:
        return "stack"
    if has_reference:
        return "mean"
    return "single" if shots == 1 else "pair" if shots == 2 else "burst"


def _shapes(shots: Sequence[Shot], left_out: list[LeftOut]) -> list[tuple[Shot, tuple[int, ...]]]:
    """The shots that can be read, with their shapes. Pages of one file are read one after another."""
    if shots and shots[0].pages > 1 and all(shot.path == shots[0].path for shot in shots):
        return _shapes_of_pages(shots, left_out)
    found = []
    for shot in shots:
        try:
            found.append((shot, tuple(shot.read().shape)))
        except (ValueError, OSError) as error:
            reason = _without_list(str(error)).removeprefix(f"{shot.path}: ")
            left_out.append(LeftOut(shot.path, reason))
    return found


def _shapes_of_pages(shots: Sequence[Shot], left_out: list[LeftOut]) -> list[tuple[Shot, tuple[int, ...]]]:
    found = []
    chosen = {shot.page for shot in shots}
    try:
        with map_file(shots[0].path) as data:
            for shot, (image, _) in zip(shots, read_pages(data, chosen), strict=False):
                found.append((shot, tuple(one_grey(image.samples).shape)))
    except (ValueError, OSError) as error:
        reason = f"{_without_list(str(error))}; {len(found)} pages before that are used"
        left_out.append(LeftOut(shots[0].path, reason))
    return found


def _size_words(shape: tuple[int, ...]) -> str:
    height, width, channels = shape
    return f"{width} x {height} pixels, {'grey' if channels == 1 else 'colour'}"
