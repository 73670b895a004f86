"""Recognition of shots: whether a folder that was given as photos holds several shots of each scene.

Training on photos draws noise on each. Shots already have theirs, which an adaptation learns from.
"""

import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from engine.adaptation.likeness import MIN_LIKENESS, likeness, likeness_at, show_one_scene
from engine.adaptation.scenes import Kind, Shot
from engine.data.shot_names import Group, group_by_name, group_folders
from engine.imageio.mapped_file import map_file
from engine.imageio.read import count_pages, is_image_name
from engine.system.file_names import earlier_results

Item = TypeVar("Item")

# So many groups or files of a folder are looked at, spread evenly.
LOOKS = 6
# Side of the middle of an image that is looked at, in pixels.
SIDE = 512
WORDS: dict[Kind, str] = {
    "pair": "pairs of shots",
    "burst": "bursts of shots",
    "stack": "stacks of frames of one scene",
    "mean": "noisy shots with the mean of many",
}


class ShotsFound(ValueError):
    """Data for training are shots of scenes. The message has the command that learns from them."""


@dataclass(frozen=True)
class FoundShots:
    """Shots in a folder: what most of them are, and files of one scene as an example."""

    folder: Path
    kind: Kind
    example: tuple[str, ...]

    @property
    def words(self) -> str:
        """For people."""
        return f"{self.folder} holds {WORDS[self.kind]}, such as {' and '.join(self.example)}"


def refuse_shots(data: Sequence[Path], out: Path, options: Sequence[str] = ()) -> None:
    """Raises ShotsFound if a folder of the data holds shots. options: more of the command in the message."""
    for folder in data:
        found = find_shots(folder) if folder.is_dir() else None
        if found:
            command = shlex.join(["denoise", "adapt", str(folder), "--out", str(out), *options])
            raise ShotsFound(
                f"{found.words}, and training on photos would draw more noise on them. To learn from their own "
                f"noise: {command}. If they are photos of different scenes, add --as photos"
            )


def find_shots(folder: Path) -> FoundShots | None:
    """The shots in a folder, or in its subfolders if it holds no images itself; None if most images are photos.

    Names say which files may show one scene, and a few of these are looked at.
    """
    files = _images(folder.iterdir()) or _images(folder.rglob("*"))
    # A raw file and its JPEG are one shot.
    files = list({(file.parent, file.stem): file for file in reversed(files)}.values())[::-1]
    for groups in _groupings(folder, files):
        if shown := _shown(groups, len(files)):
            kind = Counter(map(_kind_of, shown)).most_common(1)[0][0]
            example = next(group for group in shown if _kind_of(group) == kind)
            return FoundShots(folder, kind, tuple(_name(folder, file) for file in _members(example)[:2]))
    some = _spread(files, LOOKS)
    stacks = [file for file in some if _pages_show_one_scene(file)]
    if 2 * len(stacks) > len(some):
        return FoundShots(folder, "stack", (_name(folder, stacks[0]),))
    return None


def _images(paths: Iterable[Path]) -> list[Path]:
    """The image files among paths, sorted, without earlier results of `denoise run`."""
    images = {path for path in paths if is_image_name(path.name) and path.is_file()}
    return sorted(images - earlier_results(images))


def _name(folder: Path, file: Path) -> str:
    return file.relative_to(folder).as_posix()


def _groupings(folder: Path, files: Sequence[Path]) -> list[list[Group]]:
    """Files of equal names in several folders may show one scene, or the files of each folder."""
    by_folder: dict[Path, list[Path]] = {}
    for file in files:
        by_folder.setdefault(file.parent, []).append(file)
    within = [
        group for parent, members in by_folder.items() for group in group_by_name(members, parent != folder)
    ]
    return [group_folders(by_folder), within]


def _shown(groups: Sequence[Group], files: int) -> list[Group]:
    """Groups that show one scene, if most of the files are in such groups, as far as a few of these tell."""
    several = [group for group in groups if len(_members(group)) > 1]
    if 2 * sum(len(_members(group)) for group in several) < files:
        return []
    looked = _spread(several, LOOKS)
    shown = [group for group in looked if _shows_one_scene(group)]
    return shown if 2 * len(shown) > len(looked) else []


def _members(group: Group) -> list[Path]:
    return [*group.files, *([group.mean] if group.mean else [])]


def _kind_of(group: Group) -> Kind:
    if group.mean:
        return "mean"
    return "pair" if len(group.files) == 2 else "burst"


def _shows_one_scene(group: Group) -> bool:
    """Whether the first image and three others of the group show one scene.

    Photos may have names like those of shots, and often the first two of a folder show the same. So, unlike where
    all is known to be shots, names alone never decide.
    """
    members = _members(group)
    first, *others = dict.fromkeys((0, 1, len(members) // 2, len(members) - 1))
    try:
        shot = _middle(Shot(members[first]).read())
        is_certain = group.belief == "certain"
        return all(_is_same(shot, _middle(Shot(members[other]).read()), is_certain) for other in others)
    except (ValueError, OSError):
        return False


def _is_same(first: Tensor, second: Tensor, has_certain_name: bool = False) -> bool:
    """Whether two images show one scene. A name that is certain holds where they are too noisy to tell."""
    if first.shape != second.shape:
        return False
    # Measuring the shift takes most of the time, and most shots lie on each other nearly.
    unmoved = likeness_at(first, second, None)
    if unmoved.is_certain and unmoved.correlation > MIN_LIKENESS:
        return True
    return not likeness(first, second).differs if has_certain_name else show_one_scene(first, second)


def _pages_show_one_scene(file: Path) -> bool:
    try:
        with map_file(file) as data:
            pages = count_pages(data)
        if pages < 2:
            return False
        first, *others = (_middle(Shot(file, page, pages).read()) for page in {0, 1, pages // 2})
        return all(_is_same(first, other) for other in others)
    except (ValueError, OSError):
        return False


def _middle(image: Tensor) -> Tensor:
    top, left = (max(0, (length - SIDE) // 2) for length in image.shape[:2])
    return image[top : top + SIDE, left : left + SIDE]


def _spread(items: Sequence[Item], count: int) -> list[Item]:
    count = min(len(items), count)
    return [items[index * len(items) // count] for index in range(count)]
