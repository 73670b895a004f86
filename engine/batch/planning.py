"""Batch planning: which image file is denoised to which. `-` means standard input or output."""

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from engine.imageio.formats import (
    FORMATS,
    SAME,
    SUFFIXES,
    SUPPORTED_OUTPUTS,
    WRITABLE_FORMATS,
    Format,
    detect_format,
    suffix_of,
)
from engine.imageio.read import image_files
from engine.system.file_names import name_key

# Standard input as a source, standard output as a target.
PIPE = Path("-")
PNG = "png"
# File names that an error lists.
NAMES_IN_ERRORS = 5
# First bytes of a file that tell its format.
_HEAD_BYTES = 4096


@dataclass(frozen=True)
class Task:
    """An image file, the file for the denoised image, and its format."""

    source: Path
    target: Path
    format: str = PNG


def plan_tasks(
    inputs: Sequence[Path], out: str | Path, overwrite: bool = False, format_: str | None = None
) -> list[Task]:
    """The tasks for image files and folders of them. Subfolders are not searched.

    out: a folder, created if needed, in which images keep their names with the format's suffix. Images that would
    have the same name there keep their whole name: a.jpg.png and a.tif.png. For one input file also a file's
    name, or PIPE; see is_folder.
    format_: one of WRITABLE_FORMATS, or SAME. By default a file's suffix decides; outputs in a folder are PNG.
    Raises ValueError naming inputs that do not exist, inputs with the same output, and outputs that exist.
    """
    path = Path(out)
    tasks = _to_folder(inputs, path, format_ or PNG) if is_folder(out) else _to_file(inputs, path, format_)
    _refuse_clashes(tasks)
    if folders := [str(task.target) for task in tasks if task.target.is_dir()]:
        raise ValueError(f"these outputs exist already, as folders: {join_some(folders)}; choose another output")
    if not overwrite and (existing := [str(task.target) for task in tasks if task.target.exists()]):
        raise ValueError(
            f"these outputs exist already: {join_some(existing)}; allow overwriting, or choose another output"
        )
    return tasks


def is_folder(out: str | Path) -> bool:
    """Whether `out` means a folder, which need not exist: it has no suffix, or as text it ends with a slash."""
    path = Path(out)
    ends_with_slash = str(out).endswith(("/", os.sep))
    return ends_with_slash or (path != PIPE and (not path.suffix or path.is_dir()))


def _to_file(inputs: Sequence[Path], out: Path, format_: str | None) -> list[Task]:
    if len(inputs) != 1 or inputs[0].is_dir():
        raise ValueError(f"{out} is one file, but the inputs may be several images; give an output folder")
    if out == PIPE:
        return [Task(source, out, format_ or PNG) for source in files_of(inputs)]
    by_suffix = [name for name in WRITABLE_FORMATS if out.suffix.lower() in FORMATS[name].suffixes]
    if not by_suffix and format_ != SAME:
        raise ValueError(
            f"{out}: images cannot be written with the suffix {out.suffix}; {SUPPORTED_OUTPUTS}. "
            f"If you mean a folder, end its name with a slash: {out}/"
        )
    if format_ and format_ not in (SAME, *by_suffix):
        suffix = suffix_of(FORMATS[format_])
        raise ValueError(f"{out}: the suffix does not fit the format {format_}; it must be {suffix}")
    kind = _kind_of(inputs[0]) if format_ == SAME and inputs[0] != PIPE else None
    if kind and kind.name not in by_suffix and out.suffix.lower() in SUFFIXES:
        raise ValueError(
            f"{out}: the suffix does not fit the format of {inputs[0]}, {kind.title}; "
            f"it must be {suffix_of(kind)}"
        )
    return [Task(source, out, format_ or by_suffix[0]) for source in files_of(inputs)]


def _to_folder(inputs: Sequence[Path], out: Path, format_: str) -> list[Task]:
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file, not a folder; give another folder, or a file name like clean.png")
    if PIPE in inputs:
        raise ValueError(
            "an image from standard input has no name for a file in a folder; give a name like clean.png"
        )
    return tasks_for(out, files_of(inputs), format_)


def tasks_for(folder: Path, sources: Sequence[Path], format_: str = PNG) -> list[Task]:
    """The tasks for images whose outputs go into a folder.

    Images that would have the same name there keep their whole name: a.jpg.png and a.tif.png.
    """
    tasks = [task_for(folder, source, format_) for source in sources]
    # A whole name may be another image's: a.jpg.png is also what becomes of a.jpg.tif.
    while True:
        count = Counter(map(_output, tasks))
        named = [_with_whole_name(task) if count[_output(task)] > 1 else task for task in tasks]
        if named == tasks:
            return tasks
        tasks = named


def task_for(folder: Path, source: Path, format_: str = PNG) -> Task:
    """The task for an image whose output goes into a folder."""
    kind = _kind_of(source) if format_ == SAME else FORMATS[format_]
    keeps = format_ == SAME and (not kind or source.suffix.lower() in kind.suffixes)
    suffix = source.suffix if keeps or not kind else suffix_of(kind)
    return Task(source, folder / f"{source.stem}{suffix}", format_)


def _kind_of(source: Path) -> Format | None:
    """The format of an image file, by its first bytes; None if it cannot be written, or is no image."""
    try:
        with source.open("rb") as file:
            kind = detect_format(file.read(_HEAD_BYTES), source.stat().st_size)
    # The task itself will fail, and say why.
    except (ValueError, OSError):
        return None
    return kind if kind.writes else None


def has_whole_name(task: Task) -> bool:
    """Whether the output has its source's whole name, because another image has the same name without suffix."""
    short, whole = both_names(task)
    return short.target != whole.target == task.target


def _with_whole_name(task: Task) -> Task:
    suffix = task_for(task.target.parent, task.source, task.format).target.suffix
    keeps = task.format == SAME and suffix == task.source.suffix
    return replace(task, target=task.target.with_name(f"{task.source.name}{'' if keeps else suffix}"))


def both_names(task: Task) -> tuple[Task, Task]:
    """The task with the two outputs that it may have in a folder."""
    return task_for(task.target.parent, task.source, task.format), _with_whole_name(task)


def _output(task: Task) -> str:
    """What other outputs must not share: see `name_key`."""
    return name_key(str(task.target))


def files_of(inputs: Sequence[Path]) -> list[Path]:
    """Image files and folders of them -> the files. Raises ValueError naming an input that does not exist."""
    files: list[Path] = []
    for path in inputs:
        if path.is_dir():
            files += image_files(path)
        elif path == PIPE or path.is_file():
            files.append(path)
        else:
            raise ValueError(f"{path}: no such file or folder")
    return files


def _refuse_clashes(tasks: Sequence[Task]) -> None:
    sources = defaultdict[str, list[str]](list)
    for task in tasks:
        sources[_output(task)].append(str(task.source))
    if clash := next((names for names in sources.values() if len(names) > 1), None):
        raise ValueError(
            f"these inputs would be written to the same output: {join_some(clash)}; "
            "rename one, or denoise them apart"
        )


def join_some(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - NAMES_IN_ERRORS
    return ", ".join(names[:NAMES_IN_ERRORS]) + (f" and {more} more" if more > 0 else "")
