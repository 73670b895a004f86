"""Batch planning: which image file is denoised to which. `-` means standard input or output."""

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from engine.batch.journal import FileStamp, file_stamp
from engine.imageio.formats import (
    FORMATS,
    SAME,
    SUFFIXES,
    SUPPORTED_FORMATS,
    SUPPORTED_OUTPUTS,
    WRITABLE_FORMATS,
    Format,
    TooManyPages,
    detect_format,
    suffix_of,
)
from engine.imageio.read import is_image_name, read_info
from engine.system.file_names import DENOISED, earlier_results, name_key

# Standard input as a source, standard output as a target.
PIPE = Path("-")
PNG = "png"
# The input's format if it can hold the result, else PNG, or TIFF for several pages. The default.
KEEP = "keep"
# File names that an error lists.
NAMES_IN_ERRORS = 5
# First bytes of a file that tell its format.
_HEAD_BYTES = 4096
# Files whose formats are kept in memory.
_KNOWN_FORMATS = 2**16


@dataclass(frozen=True)
class Task:
    """An image file, the file for the denoised image, and its format.

    short, whole: the two names that the output may have in a folder: b.png and b.jpg.png for b.jpg.
    """

    source: Path
    target: Path
    format: str = PNG
    short: str = field(default="", compare=False)
    whole: str = field(default="", compare=False)


@dataclass
class FoundFiles:
    """The image files in a folder. left_out: other files. folders: subfolders that were not searched.

    results: images that were made from others of the folder; see `earlier_results`.
    """

    images: list[Path] = field(default_factory=list)
    results: list[Path] = field(default_factory=list)
    left_out: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)


def plan_tasks(
    inputs: Sequence[Path],
    out: str | Path | None,
    overwrite: bool = False,
    format_: str | None = None,
    recursive: bool = False,
) -> list[Task]:
    """The tasks for image files and folders of them.

    out: a folder, created if needed, in which images keep their names with the format's suffix. Images that would
    have the same name there keep their whole name: a.dng.png and a.png.png. For one input file also a file's
    name, or PIPE; see is_folder. None writes one file's result beside it, as NAME.denoised.png.
    format_: one of WRITABLE_FORMATS, SAME or KEEP. By default a file's suffix decides; outputs that have no name
    yet are as KEEP says. recursive: also search subfolders; the outputs' folder gets the same subfolders.
    Raises ValueError naming inputs that do not exist, inputs with the same output, and outputs that exist.
    """
    if out is None:
        tasks = [_beside(source, format_ or KEEP) for source in files_of(inputs)]
    elif is_folder(out):
        tasks = _to_folder(inputs, Path(out), format_ or KEEP, recursive)
    else:
        tasks = _to_file(inputs, Path(out), format_)
    _refuse_clashes(tasks)
    if folders := [str(task.target) for task in tasks if task.target.is_dir()]:
        raise ValueError(f"these outputs exist already, as folders: {join_some(folders)}; choose another output")
    if not overwrite and (existing := [str(task.target) for task in tasks if task.target.exists()]):
        resume = ", continue an earlier run with --resume" if out is not None and is_folder(out) else ""
        raise ValueError(
            f"these outputs exist already: {join_some(existing)}. "
            f"Replace them with --force{resume}, or choose another output"
        )
    return tasks


def is_folder(out: str | Path) -> bool:
    """Whether `out` means a folder, which need not exist: it has no suffix, or as text it ends with a slash."""
    path = Path(out)
    ends_with_slash = str(out).endswith(("/", os.sep))
    return ends_with_slash or (path != PIPE and (not path.suffix or path.is_dir()))


def _beside(source: Path, format_: str) -> Task:
    task = task_for(source.parent, source, format_)
    return replace(task, target=source.with_name(f"{source.stem}{DENOISED}{task.target.suffix}"))


def _to_file(inputs: Sequence[Path], out: Path, format_: str | None) -> list[Task]:
    if len(inputs) != 1 or inputs[0].is_dir():
        raise ValueError(f"{out} is one file, but the inputs may be several images; give an output folder")
    if out == PIPE:
        return [Task(source, out, _format_for_pipe(source, format_)) for source in files_of(inputs)]
    by_suffix = [name for name in WRITABLE_FORMATS if out.suffix.lower() in FORMATS[name].suffixes]
    if not by_suffix and format_ != SAME:
        raise ValueError(
            f"{out}: images cannot be written with the suffix {out.suffix}. {SUPPORTED_OUTPUTS}. "
            f"If you mean a folder, end its name with a slash: {out}/"
        )
    if format_ and format_ not in (SAME, KEEP, *by_suffix):
        suffix = suffix_of(FORMATS[format_])
        raise ValueError(f"{out}: the suffix does not fit the format {format_}; it must be {suffix}")
    kind = _writable_kind_of(inputs[0]) if format_ == SAME and inputs[0] != PIPE else None
    if kind and kind.name not in by_suffix and out.suffix.lower() in SUFFIXES:
        raise ValueError(
            f"{out}: the suffix does not fit the format of {inputs[0]}, {kind.title}; "
            f"it must be {suffix_of(kind)}"
        )
    return [
        Task(source, out, SAME if format_ == SAME else by_suffix[0], out.name, out.name)
        for source in files_of(inputs)
    ]


def _format_for_pipe(source: Path, format_: str | None) -> str:
    """The format of an image that goes to standard output. One from standard input is not known yet."""
    if format_ not in (None, KEEP):
        return str(format_)
    return KEEP if source == PIPE else kept_format(source).name


def _to_folder(inputs: Sequence[Path], out: Path, format_: str, recursive: bool) -> list[Task]:
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file, not a folder; give another folder, or a file name like clean.png")
    if PIPE in inputs:
        raise ValueError(
            "an image from standard input has no name for a file in a folder; give a name like clean.png"
        )
    if not recursive:
        return tasks_for(out, files_of(inputs), format_)
    by_folder = defaultdict[Path, list[Path]](list)
    for path in inputs:
        for file in files_of([path], recursive, skip=out):
            by_folder[out / file.parent.relative_to(path) if path.is_dir() else out].append(file)
    return [task for folder, files in by_folder.items() for task in tasks_for(folder, files, format_)]


def tasks_for(folder: Path, sources: Sequence[Path], format_: str = KEEP) -> list[Task]:
    """The tasks for images whose outputs go into a folder.

    Images that would have the same name there keep their whole name: a.dng.png and a.png.png.
    """
    tasks = [task_for(folder, source, format_) for source in sources]
    # A whole name may be another image's: a.jpg.png is also what becomes of a.jpg.tif.
    while True:
        count = Counter(map(_output, tasks))
        named = [
            replace(task, target=task.target.with_name(task.whole)) if count[_output(task)] > 1 else task
            for task in tasks
        ]
        if named == tasks:
            return tasks
        tasks = named


def task_for(folder: Path, source: Path, format_: str = KEEP) -> Task:
    """The task for an image whose output goes into a folder."""
    name, kind = format_, FORMATS.get(format_)
    if format_ == KEEP:
        kind = kept_format(source)
        name = kind.name
    elif format_ == SAME:
        kind = _writable_kind_of(source)
    keeps_suffix = kind is None or (format_ in (KEEP, SAME) and source.suffix.lower() in kind.suffixes)
    suffix = source.suffix if keeps_suffix or kind is None else suffix_of(kind)
    short = f"{source.stem}{suffix}"
    whole = source.name if format_ == SAME and suffix == source.suffix else f"{source.name}{suffix}"
    return Task(source, folder / short, name, short, whole)


def kept_format(source: Path) -> Format:
    """The format in which an image is kept: its own if that can hold the result, else PNG.

    Several pages become TIFF if their own format is only read.
    """
    try:
        stamp = file_stamp(source)
        return _kept_format(source, stamp) if stamp else FORMATS[PNG]
    except OSError:
        return FORMATS[PNG]


@lru_cache(_KNOWN_FORMATS)
def _kept_format(source: Path, stamp: FileStamp) -> Format:
    kind = _detected(source, stamp)
    if kind is None:
        return FORMATS[PNG]
    if kind.writes == kind.reads:
        return kind
    if kind.reads.pages != "pages" and kind.writes is None:
        return FORMATS[PNG]
    # Some of what these formats hold is not written: deep AVIF, and Netpbm, which can have pages.
    try:
        info = read_info(source.read_bytes(), max_pages=1 if kind.reads.pages == "pages" else 2**31)
    except TooManyPages:
        return FORMATS["tiff"]
    # The task itself will fail, and say why.
    except (ValueError, OSError):
        return FORMATS[PNG]
    return kind if kind.writes and info.depth in kind.writes.depths else FORMATS[PNG]


def detected_format(source: Path) -> Format | None:
    """The format of a file, by its first bytes; None if it is no image, or cannot be read."""
    try:
        stamp = file_stamp(source)
    except OSError:
        return None
    return _detected(source, stamp) if stamp else None


@lru_cache(_KNOWN_FORMATS)
def _detected(source: Path, stamp: FileStamp) -> Format | None:
    try:
        with source.open("rb") as file:
            return detect_format(file.read(_HEAD_BYTES), stamp[0])
    except (ValueError, OSError):
        return None


def _writable_kind_of(source: Path) -> Format | None:
    kind = detected_format(source)
    return kind if kind and kind.writes else None


def has_whole_name(task: Task) -> bool:
    """Whether the output has its source's whole name, because another image has the same name without suffix."""
    return task.short != task.whole == task.target.name


def _output(task: Task) -> str:
    """What other outputs must not share: see `name_key`."""
    return name_key(str(task.target))


def files_of(inputs: Sequence[Path], recursive: bool = False, skip: Path | None = None) -> list[Path]:
    """Image files and folders of them -> the files. Raises ValueError naming an input that does not exist.

    recursive: also those in subfolders. skip: a folder that is not searched.
    """
    files: list[Path] = []
    for path in inputs:
        if path.is_dir():
            found = find_images(path, recursive, skip)
            if not found.images:
                hint = "; its subfolders were not searched" if found.folders else ""
                raise ValueError(f"{path}: no images in this folder{hint}. {SUPPORTED_FORMATS}.")
            files += found.images
        elif path == PIPE or path.is_file():
            files.append(path)
        else:
            raise ValueError(f"{path}: no such file or folder")
    return files


def find_images(folder: Path, recursive: bool = False, skip: Path | None = None) -> FoundFiles:
    """The image files in a folder, sorted by name, and what is left out. Hidden files are not mentioned.

    recursive: also those in subfolders. skip: a folder that is not searched, such as the outputs'.
    """
    found = FoundFiles()
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            if path.name.startswith(".") or (skip and skip.exists() and path.samefile(skip)):
                continue
            # A link to a folder above would never end.
            if not recursive or path.is_symlink():
                found.folders.append(path)
                continue
            inner = find_images(path, recursive, skip)
            found.images += inner.images
            found.results += inner.results
            found.left_out += inner.left_out
            found.folders += inner.folders
        elif is_image_file(path):
            found.images.append(path)
        elif not path.name.startswith("."):
            found.left_out.append(path)
    results = earlier_results(found.images)
    found.results += sorted(results)
    found.images = [path for path in found.images if path not in results]
    return found


def is_image_file(path: Path) -> bool:
    """Whether a file is an image, by its suffix or without one by its content, and not hidden or temporary."""
    if path.suffix:
        return is_image_name(path.name)
    return not path.name.startswith((".", "~")) and detected_format(path) is not None


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
