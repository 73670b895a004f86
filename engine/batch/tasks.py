"""Batch tasks: plans which file is denoised to which, and denoises them. `-` means standard input or output."""

import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from engine.batch.journal import Journal, JournalEntry, file_stamp
from engine.batch.reading import Reader, read_here
from engine.defaults import COLOUR, MEMORY_BUDGET, PNG_LEVEL, Colour
from engine.imageio.formats import FORMATS, SAME, SUPPORTED_OUTPUTS, WRITABLE_FORMATS, output_format, suffix_of
from engine.imageio.image import EncodedImage
from engine.imageio.read import image_files
from engine.imageio.write import encode
from engine.inference.denoise import DEFAULT_OUTPUT, OutputOptions, denoise
from engine.inference.model_selection import NetworkSelector, select_model
from engine.inference.noise_estimation import NoiseEstimate
from engine.inference.preparation import (
    DEFAULT_PREPARATION,
    PreparationOptions,
    finer_allowed,
    prepare_pages,
    words_of,
)
from engine.system.atomic_file import write_atomically
from engine.system.os_errors import describe, reason

# Standard input as a source, standard output as a target.
PIPE = Path("-")
PNG = "png"
# File names that an error lists.
NAMES_IN_ERRORS = 5
# The error of a file that was given up.
HOPELESS = (
    "given up until it changes: two attempts ended with the process, which crashed or was killed, "
    "perhaps because this image needs more memory than there is"
)


@dataclass(frozen=True)
class Task:
    """An image file, the file for the denoised image, and its format."""

    source: Path
    target: Path
    format: str = PNG


@dataclass(frozen=True)
class Outcome:
    """A finished task.

    error: what went wrong, if anything did. changed: what the output's format cannot hold.
    """

    task: Task
    error: str | None = None
    changed: tuple[str, ...] = ()


@dataclass(frozen=True)
class DenoiseOptions:
    """Options for denoising a file.

    quality, png_level: as in `encode`. page: only this page or frame, counted from 1. memory_budget: in bytes.
    colour: what camera raw files are developed to.
    """

    quality: int | None = None
    page: int | None = None
    png_level: int = PNG_LEVEL
    output: OutputOptions = DEFAULT_OUTPUT
    memory_budget: int = MEMORY_BUDGET
    colour: Colour = COLOUR
    preparation: PreparationOptions = DEFAULT_PREPARATION

    def fingerprint(self, digest: str) -> dict[str, Any]:
        """For a journal: all that an output depends on besides its source. digest: of the weights."""
        options = asdict(self)
        del options["memory_budget"]
        return {"digest": digest, **options}


class SourceChanged(OSError):
    """A source that was written to while it was processed."""


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
        raise ValueError(f"these outputs exist already, as folders: {_some(folders)}; choose another output")
    if not overwrite and (existing := [str(task.target) for task in tasks if task.target.exists()]):
        raise ValueError(
            f"these outputs exist already: {_some(existing)}; allow overwriting, or choose another output"
        )
    return tasks


def is_folder(out: str | Path) -> bool:
    """Whether `out` means a folder, which need not exist: it has no suffix, or as text it ends with a slash."""
    path = Path(out)
    ends_with_slash = str(out).endswith(("/", os.sep))
    return ends_with_slash or (path != PIPE and (not path.suffix or path.is_dir()))


def remaining_tasks(tasks: Iterable[Task], journal: Journal, overwrite: bool = False) -> list[Task]:
    """The tasks that are not done, or whose source or options have changed since.

    Those that were interrupted come last: they may have ended the process, and may do so again.
    Raises ValueError naming existing outputs that the journal does not know, or that were changed since.
    """
    remaining = [task for task in tasks if not _is_done(task, journal)]
    remaining.sort(key=lambda task: task.source.absolute() in journal.interrupted)
    foreign = [str(task.target) for task in remaining if not journal.may_replace(task.source, task.target)]
    if foreign and not overwrite:
        raise ValueError(
            f"these outputs exist already and were made or changed by something else: {_some(foreign)}; "
            "allow overwriting, or choose another output folder"
        )
    return remaining


def _is_done(task: Task, journal: Journal) -> bool:
    stamp = file_stamp(task.source)
    entry = journal.finished(task.source, stamp) if stamp else None
    if not entry or entry.error:
        return False
    # It may have been made under its other name, before or while another image had the same one.
    names = {task.target.name, *(each.target.name for each in _both_names(task))}
    made = task.target.with_name(entry.target)
    return entry.target in names and entry.options == journal.options and made.exists()


def denoise_files(
    select: NetworkSelector,
    tasks: Iterable[Task],
    options: DenoiseOptions | None = None,
    journal: Journal | None = None,
) -> Iterator[Outcome]:
    """Run the tasks one after another. An error ends only its own task; the outcome has it."""
    for task in tasks:
        try:
            yield denoise_file(select, task, options, journal)
        except OSError as error:
            own = error.filename is not None and str(error.filename) == str(task.source)
            yield Outcome(task, reason(error) if own else describe(error))


def denoise_file(
    select: NetworkSelector,
    task: Task,
    options: DenoiseOptions | None = None,
    journal: Journal | None = None,
    reader: Reader = read_here,
) -> Outcome:
    """Run one task. Raises OSError if a file cannot be read or written, and SourceChanged: try again later.

    A source that has ended the process too often, as the journal says, is given up.
    """
    if journal is None:
        return _run(select, task, options, None, None, reader)
    if journal.is_hopeless(task.source):
        journal.give_up(task.source, task.target, HOPELESS)
        return Outcome(task, HOPELESS)
    entry = journal.begin(task.source, task.target)
    try:
        return _run(select, task, options, journal, entry, reader)
    except (OSError, KeyboardInterrupt):
        journal.withdraw(entry)
        raise


def _run(
    select: NetworkSelector,
    task: Task,
    options: DenoiseOptions | None,
    journal: Journal | None,
    entry: JournalEntry | None,
    reader: Reader,
) -> Outcome:
    written, error = None, None
    try:
        written = denoise_bytes(select, _read(task.source), task.format, options, reader)
    # torch raises RuntimeError when it gets no memory.
    except (ValueError, RuntimeError, MemoryError) as fault:
        error = str(fault) or type(fault).__name__
    if entry and file_stamp(task.source) not in (None, entry.source_stamp):
        raise SourceChanged(f"{task.source}: the file was changed while it was processed; try again")
    if written:
        _write(task.target, written.data)
    if journal and entry:
        journal.finish(entry, error)
    return Outcome(task, error, written.changed if written else ())


def denoise_bytes(
    select: NetworkSelector,
    data: bytes,
    format_: str = PNG,
    options: DenoiseOptions | None = None,
    reader: Reader = read_here,
) -> EncodedImage:
    """An image file's bytes -> the denoised file's. The first page that is not drawn or blank decides.

    Raises ValueError if the image cannot be read or written.
    """
    options = options or DenoiseOptions()
    file = reader(data, options.page, options.colour)
    kind = output_format(format_, file.kind)
    pages = list(file.pages)
    # A second reference to each page would keep its memory until the end.
    file = replace(file, pages=())
    samples = [page.samples for page in pages]
    selection = select(samples)
    steps = replace(options.preparation, finer=finer_allowed(kind, options.output.output, pages))
    preparations = prepare_pages(samples, selection.estimate, steps)
    samples.clear()
    run = partial(denoise, selection.net, memory_budget=options.memory_budget, options=options.output)
    for number, preparation in enumerate(preparations):
        pages[number] = run(pages[number], preparation=preparation)
    written = encode(replace(file, pages=tuple(pages)), kind, options.quality, options.png_level)
    return replace(written, changed=(*written.changed, *words_of(preparations)))


def estimate_file(source: Path, page: int = 1) -> tuple[str, NoiseEstimate]:
    """The name of the model for an image file, and the noise found. Raises ValueError, OSError."""
    return select_model(read_here(_read(source), page, COLOUR).pages[0].samples)


def _read(source: Path) -> bytes:
    return sys.stdin.buffer.read() if source == PIPE else source.read_bytes()


def _write(target: Path, data: bytes) -> None:
    if target == PIPE:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        write_atomically(target, data)


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
    """The task for an image whose output goes into a folder, and whose name no other image has."""
    suffix = source.suffix if format_ == SAME else suffix_of(FORMATS[format_])
    return Task(source, folder / f"{source.stem}{suffix}", format_)


def has_whole_name(task: Task) -> bool:
    """Whether the output has its source's whole name, because another image has the same name without suffix."""
    short, whole = _both_names(task)
    return short.target != whole.target == task.target


def _with_whole_name(task: Task) -> Task:
    suffix = "" if task.format == SAME else suffix_of(FORMATS[task.format])
    return replace(task, target=task.target.with_name(f"{task.source.name}{suffix}"))


def _both_names(task: Task) -> tuple[Task, Task]:
    """The task with the two outputs that it may have in a folder."""
    return task_for(task.target.parent, task.source, task.format), _with_whole_name(task)


def _output(task: Task) -> str:
    """The output's path. Some systems do not distinguish names by case."""
    return str(task.target).casefold()


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
            f"these inputs would be written to the same output: {_some(clash)}; rename one, or denoise them apart"
        )


def _some(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - NAMES_IN_ERRORS
    return ", ".join(names[:NAMES_IN_ERRORS]) + (f" and {more} more" if more > 0 else "")
