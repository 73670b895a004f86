"""Names of shots: which files of a folder may show one scene, by their names alone."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

# The number of a shot at the end of a name: plug_1, frame-07, "cells 3", cells.t12.
_NUMBERED = re.compile(
    r"(?P<base>.*?)(?:(?:^|[ _.-])(?:t|z|shot|frame|img|image|take|exp)?[ _-]?)?(?P<n>\d{1,6})$", re.I
)
_FOUR_DIGITS = re.compile(r"\d{4}$")
# Words for one noisy shot beside a mean, and for the mean of many shots or another view with little noise.
_NOISY_WORDS = r"noisy|real|raw|single|low|lq|noise|short"
_MEAN_WORDS = r"(?:avg|mean|average|averaged|sum|gt|clean|truth|ground[ _-]?truth|reference|ref|hq|high|long)\d*"
_NOISY = re.compile(rf"(?P<base>.*?)[ _.-]?(?:{_NOISY_WORDS})$", re.I)
_MEAN = re.compile(rf"(?P<base>.*?)[ _.-]?(?:{_MEAN_WORDS})$", re.I)
# How sure names alone make us that files show one scene. "open": only if the images certainly do. "likely":
# unless they certainly do not.
Belief = Literal["open", "likely", "certain"]


@dataclass(frozen=True)
class Group:
    """Files that may show one scene, in the order of their numbers.

    name: empty for that of the folder. mean: by its name, the mean of many shots.
    """

    name: str
    files: tuple[Path, ...]
    belief: Belief = "open"
    mean: Path | None = None


def group_by_name(files: Sequence[Path], own_folder: bool) -> list[Group]:
    """The groups of one folder's files. own_folder: whether it may be the folder of one scene."""
    rest = list(files)
    groups = _with_means(rest, own_folder)
    numbered: dict[str, list[tuple[int, Path]]] = {}
    for file in rest:
        found = _NUMBERED.match(file.stem)
        numbered.setdefault(found["base"] if found else file.stem, []).append((_number_of(file), file))
    counts = [len(members) for members in numbered.values()]
    if rest and own_folder and len(counts) > 1 and max(counts) == 1:
        # Names that have nothing in common, in a folder of their own.
        return [*groups, Group("", tuple(sorted(rest)))]
    for base, members in numbered.items():
        ordered = sorted(members, key=_by_number)
        whole = tuple(file for _, file in ordered)
        if len(counts) > 1 and base:
            belief: Belief = "certain" if _counts_shots(ordered) else "open"
        else:
            # Nothing but numbers, or the only base of its folder: a camera's numbers, mostly of four digits.
            counts_shots = _counts_shots(ordered) and (own_folder or not _FOUR_DIGITS.search(whole[0].stem))
            belief = "likely" if counts_shots else "open"
        is_folder = own_folder and len(counts) == 1 and len(whole) > 1
        groups.append(Group("" if is_folder else base.rstrip(" _.-") or _without_number(whole), whole, belief))
    return groups


def _without_number(files: Sequence[Path]) -> str:
    stem = files[0].stem
    return stem if len(files) == 1 else stem.rstrip("0123456789").rstrip(" _.-") or stem


def is_number(stem: str) -> bool:
    """Whether a name is nothing but the number of a shot, as frame-07 is."""
    found = _NUMBERED.match(stem)
    return found is not None and not found["base"]


def _counts_shots(ordered: Sequence[tuple[int, Path]]) -> bool:
    """Whether the numbers are 0, 1, 2 or 1, 2, 3 and so on. Other numbers may be those of a camera."""
    numbers = [number for number, _ in ordered]
    return numbers in (list(range(len(numbers))), list(range(1, len(numbers) + 1)))


def _by_number(member: tuple[int, Path]) -> tuple[int, str]:
    return member[0], member[1].name


def _with_means(rest: list[Path], own_folder: bool) -> list[Group]:
    """Noisy shots with the mean of their name. What is grouped is taken off `rest`."""
    means = {found["base"].lower(): file for file in rest if (found := _MEAN.match(file.stem))}
    groups = []
    for base, mean in means.items():
        others = [file for file in rest if file not in means.values()]
        noisy = [file for file in others if (found := _NOISY.match(file.stem)) and found["base"].lower() == base]
        noisy = noisy or [file for file in others if base and file.stem.lower() == base]
        if not noisy and base:
            noisy = [file for file in others if _base_of(file).lower() == base]
        if not noisy and not base and own_folder:
            # "truth" beside the frames of its folder.
            noisy = others
        if noisy:
            ordered = sorted(noisy, key=lambda file: _by_number((_number_of(file), file)))
            groups.append(Group("" if not base else noisy[0].name[: len(base)], tuple(ordered), "certain", mean))
            for file in (*noisy, mean):
                rest.remove(file)
    return groups


def _base_of(file: Path) -> str:
    found = _NUMBERED.match(file.stem)
    return found["base"].rstrip(" _.-") if found else file.stem


def _number_of(file: Path) -> int:
    found = _NUMBERED.match(file.stem)
    return int(found["n"]) if found else 0


def group_folders(by_folder: Mapping[Path, Sequence[Path]]) -> list[Group]:
    """Groups of files with one name in several folders, such as first/a.png and second/a.png.

    None unless all files lie in two or more folders beside each other, with the same names in each.
    """
    folders = list(by_folder)
    if len(folders) < 2 or len({folder.parent for folder in folders}) > 1:
        return []
    names = [{file.stem: file for file in by_folder[folder]} for folder in folders]
    if any(each.keys() != names[0].keys() for each in names):
        return []
    means = [folder for folder in folders if _MEAN.match(folder.name)]
    if len(means) == 1 and len(folders) > 1:
        mean = folders.index(means[0])
        noisy = [each for number, each in enumerate(names) if number != mean]
        return [Group(stem, _each(noisy, stem), "certain", names[mean][stem]) for stem in names[0]]
    return [Group(stem, _each(names, stem), "certain") for stem in names[0]]


def _each(names: Sequence[Mapping[str, Path]], stem: str) -> tuple[Path, ...]:
    return tuple(each[stem] for each in names)
