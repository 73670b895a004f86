"""Batch planning: which image file is denoised to which. `-` means standard input or output."""

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path, PurePath

from engine.batch.finding import KNOWN_FORMATS, PIPE, detected, detected_format, each_of, files_of
from engine.imageio.formats import (
    FORMATS,
    SAME,
    SUFFIXES,
    SUPPORTED_OUTPUTS,
    WRITABLE_FORMATS,
    Format,
    TooManyPages,
    suffix_of,
)
from engine.imageio.read import read_info
from engine.storage.bucket import FileStamp
from engine.storage.locations import Location, ObjectPath, file_stamp, location
from engine.system.file_names import DENOISED, name_key

PNG = "png"
# The input's format if it can hold the result, else PNG, or TIFF for several pages. The default.
KEEP = "keep"
# File names that an error lists.
NAMES_IN_ERRORS = 5


@dataclass(frozen=True)
class Task:
    """An image file, the file for the denoised image, and its format.

    short, whole: the two names that the output may have in a folder: b.png and b.jpg.png for b.jpg.
    """

    source: Location
    target: Location
    format: str = PNG
    short: str = field(default="", compare=False)
    whole: str = field(default="", compare=False)


def plan_tasks(
    inputs: Sequence[Location],
    out: str | Location | None,
    overwrite: bool = False,
    format_: str | None = None,
    recursive: bool = False,
) -> list[Task]:
    """The tasks for image files and folders of them, also in buckets.

    In a bucket, a name's suffix tells the format, so that not every object must be read.

    out: a folder, created if needed, in which images keep their names with the format's suffix. Images that would
    have the same name there keep their whole name: a.dng.png and a.png.png. For one input file also a file's
    name, or PIPE; see is_folder. None writes one file's result beside it, as NAME.denoised.png.
    format_: one of WRITABLE_FORMATS, SAME or KEEP. By default a file's suffix decides; outputs that have no name
    yet are as KEEP says. recursive: also search subfolders; the outputs' folder gets the same subfolders.
    Raises ValueError naming inputs that do not exist, inputs with the same output, and outputs that exist;
    BucketNotFound; OSError.
    """
    if out is None:
        tasks = [_beside(source, format_ or KEEP) for source in files_of(inputs)]
    elif is_folder(out):
        tasks = _to_folder(inputs, location(out), format_ or KEEP, recursive)
    else:
        tasks = _to_file(inputs, location(out), format_)
    _refuse_clashes(tasks)
    if folders := [str(task.target) for task in tasks if isinstance(task.target, Path) and task.target.is_dir()]:
        raise ValueError(f"these outputs exist already, as folders: {join_some(folders)}; choose another output")
    if not overwrite and (existing := [str(task.target) for task in tasks if task.target.exists()]):
        resume = ", continue an earlier run with --resume" if out is not None and is_folder(out) else ""
        raise ValueError(
            f"these outputs exist already: {join_some(existing)}. "
            f"Replace them with --force{resume}, or choose another output"
        )
    return tasks


def is_folder(out: str | Location) -> bool:
    """Whether `out` means a folder, which need not exist: it has no suffix, or as text it ends with a slash."""
    path = location(out)
    if isinstance(path, ObjectPath):
        return path.means_folder or not path.suffix
    ends_with_slash = str(out).endswith(("/", os.sep))
    return ends_with_slash or (path != PIPE and (not path.suffix or path.is_dir()))


def _beside(source: Location, format_: str) -> Task:
    task = task_for(source.parent, source, format_)
    return replace(task, target=source.with_name(f"{source.stem}{DENOISED}{task.target.suffix}"))


def _to_file(inputs: Sequence[Location], out: Location, format_: str | None) -> list[Task]:
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


def _format_for_pipe(source: Location, format_: str | None) -> str:
    """The format of an image that goes to standard output. One from standard input is not known yet."""
    if format_ not in (None, KEEP):
        return str(format_)
    return KEEP if source == PIPE else kept_format(source).name


def _to_folder(inputs: Sequence[Location], out: Location, format_: str, recursive: bool) -> list[Task]:
    if isinstance(out, ObjectPath):
        # One listing tells which outputs exist.
        out.bucket.listed(out.prefix)
    elif out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file, not a folder; give another folder, or a file name like clean.png")
    if PIPE in inputs:
        raise ValueError(
            "an image from standard input has no name for a file in a folder; give a name like clean.png"
        )
    if not recursive:
        return tasks_for(out, files_of(inputs), format_)
    by_folder = defaultdict[Location, list[Location]](list)
    for path in inputs:
        is_dir = path.is_dir()
        for file in files_of([path], recursive, skip=out):
            by_folder[out / _inner_folder(file, path) if is_dir else out].append(file)
    return [task for folder, files in by_folder.items() for task in tasks_for(folder, files, format_)]


def _inner_folder(file: Location, folder: Location) -> PurePath:
    """Where in the folder the file is."""
    if isinstance(file, ObjectPath):
        assert isinstance(folder, ObjectPath)
        return file.parent.relative_to(folder)
    assert isinstance(folder, Path)
    return file.parent.relative_to(folder)


def tasks_for(folder: Location, sources: Sequence[Location], format_: str = KEEP) -> list[Task]:
    """The tasks for images whose outputs go into a folder.

    Images that would have the same name there keep their whole name: a.dng.png and a.png.png.
    """
    tasks = each_of(partial(task_for, folder, format_=format_), sources)
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


def task_for(folder: Location, source: Location, format_: str = KEEP) -> Task:
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


def kept_format(source: Location) -> Format:
    """The format in which an image is kept: its own if that can hold the result, else PNG or TIFF.

    Several pages and floats become TIFF if their own format is only read. So do formats that `kept_as` names.
    """
    try:
        stamp = file_stamp(source)
        return _kept_format(source, stamp) if stamp else FORMATS[PNG]
    except OSError:
        return FORMATS[PNG]


@lru_cache(KNOWN_FORMATS)
def _kept_format(source: Location, stamp: FileStamp) -> Format:
    kind = detected(source, stamp)
    if kind is None:
        return FORMATS[PNG]
    if kind.writes == kind.reads:
        return kind
    if kind.writes is None and (kind.reads.pages != "pages" or kind.kept_as != PNG):
        return FORMATS[kind.kept_as]
    # Some of what these formats hold is not written: deep AVIF, and Netpbm, which can have pages or floats.
    try:
        info = read_info(source.read_bytes(), max_pages=1 if kind.reads.pages == "pages" else 2**31)
    except TooManyPages:
        return FORMATS["tiff"]
    # The task itself will fail, and say why.
    except (ValueError, OSError):
        return FORMATS[PNG]
    if kind.writes and info.depth in kind.writes.depths:
        return kind
    return FORMATS["tiff" if info.depth == "float" else PNG]


def _writable_kind_of(source: Location) -> Format | None:
    kind = detected_format(source)
    return kind if kind and kind.writes else None


def has_whole_name(task: Task) -> bool:
    """Whether the output has its source's whole name, because another image has the same name without suffix."""
    return task.short != task.whole == task.target.name


def _output(task: Task) -> str:
    """What other outputs must not share: see `name_key`. Object stores compare names letter by letter."""
    name = str(task.target)
    return name if isinstance(task.target, ObjectPath) else name_key(name)


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
