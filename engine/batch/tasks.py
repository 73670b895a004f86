"""Batch tasks: plans which file is denoised to which, and denoises them. `-` means standard input or output."""

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from engine.batch.journal import Journal, file_stamp
from engine.defaults import COLOUR, MEMORY_BUDGET, PNG_LEVEL, Colour
from engine.imageio.formats import (
    FORMATS,
    SAME,
    SUFFIXES,
    SUPPORTED_OUTPUTS,
    WRITABLE_FORMATS,
    Format,
    detect_format,
    output_format,
    suffix_of,
)
from engine.imageio.image import EncodedImage, ImageSequence
from engine.imageio.read import develop, image_files, read, read_mosaic
from engine.imageio.write import encode
from engine.inference.denoise import DEFAULT_OUTPUT, OutputOptions, denoise
from engine.inference.model_selection import NetworkSelector, fixed_selector, select_model
from engine.inference.mosaic import (
    DEVELOPED_MODEL,
    MosaicNets,
    denoise_mosaic,
    law_of,
    requested_share,
    steps_after_mosaic,
)
from engine.inference.noise_estimation import NoiseEstimate
from engine.inference.preparation import (
    DEFAULT_PREPARATION,
    PreparationOptions,
    finer_allowed,
    prepare_pages,
    words_of,
)
from engine.system.atomic_file import write_atomically
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
    colour: what camera raw files are developed to. mosaic_nets: the networks for their mosaics; None leaves
    mosaics as they are.
    """

    quality: int | None = None
    page: int | None = None
    png_level: int = PNG_LEVEL
    output: OutputOptions = DEFAULT_OUTPUT
    memory_budget: int = MEMORY_BUDGET
    colour: Colour = COLOUR
    preparation: PreparationOptions = DEFAULT_PREPARATION
    mosaic_nets: MosaicNets | None = None

    def fingerprint(self, digest: str) -> dict[str, Any]:
        """For a journal: all that an output depends on besides its source. digest: of the weights."""
        options = asdict(replace(self, mosaic_nets=None))
        # The digest stands for the networks.
        del options["memory_budget"], options["mosaic_nets"]
        return {"digest": digest, **options}


class SourceChanged(OSError):
    """A source that was written to while it was processed."""


def plan_tasks(
    inputs: Sequence[Path], out: Path, overwrite: bool = False, format_: str | None = None
) -> list[Task]:
    """The tasks for image files and folders of them. Subfolders are not searched.

    out: a folder, created if needed, in which images keep their names with the format's suffix. For one input
    file also a file's name, or PIPE.
    format_: one of WRITABLE_FORMATS, or SAME. By default a file's suffix decides; outputs in a folder are PNG.
    Raises ValueError naming inputs that do not exist, inputs with the same output, and outputs that exist.
    """
    tasks = _to_folder(inputs, out, format_ or PNG) if is_folder(out) else _to_file(inputs, out, format_)
    _refuse_clashes(tasks)
    if not overwrite and (existing := [str(task.target) for task in tasks if task.target.exists()]):
        raise ValueError(
            f"these outputs exist already: {_some(existing)}; allow overwriting, or choose another output"
        )
    return tasks


def is_folder(out: Path) -> bool:
    """Whether `out` means a folder, which need not exist."""
    return out != PIPE and (not out.suffix or out.is_dir())


def remaining_tasks(tasks: Iterable[Task], journal: Journal, overwrite: bool = False) -> list[Task]:
    """The tasks that are not done, or whose source or options have changed since.

    Raises ValueError naming existing outputs that the journal does not know, or that were changed since.
    """
    remaining = [task for task in tasks if not _is_done(task, journal)]
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
    return (entry.target, entry.options) == (task.target.name, journal.options) and task.target.exists()


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
            yield Outcome(task, str(error))


def denoise_file(
    select: NetworkSelector,
    task: Task,
    options: DenoiseOptions | None = None,
    journal: Journal | None = None,
) -> Outcome:
    """Run one task. Raises OSError if a file cannot be read or written, and SourceChanged: try again later."""
    entry = journal.begin(task.source, task.target) if journal else None
    written, error = None, None
    try:
        written = denoise_bytes(select, _read(task.source), task.format, options)
    except (ValueError, MemoryError) as fault:
        error = str(fault) or type(fault).__name__
    if entry and file_stamp(task.source) not in (None, entry.source_stamp):
        raise SourceChanged(f"{task.source}: the file was changed while it was processed; try again")
    if written:
        _write(task.target, written.data)
    if journal and entry:
        journal.finish(entry, error)
    return Outcome(task, error, written.changed if written else ())


def denoise_bytes(
    select: NetworkSelector, data: bytes, format_: str = PNG, options: DenoiseOptions | None = None
) -> EncodedImage:
    """An image file's bytes -> the denoised file's. The first page that is not drawn or blank decides.

    Raises ValueError if the image cannot be read or written.
    """
    options = options or DenoiseOptions()
    file, mosaic_words = _read_file(data, options)
    kind = output_format(format_, file.kind)
    pages = list(file.pages)
    # A second reference to each page would keep its memory until the end.
    file = replace(file, pages=())
    samples = [page.samples for page in pages]
    nets = options.mosaic_nets if mosaic_words else None
    selection = (fixed_selector(nets.developed, DEVELOPED_MODEL) if nets else select)(samples)
    steps = replace(options.preparation, finer=finer_allowed(kind, options.output.output, pages))
    if nets:
        steps = steps_after_mosaic(steps)
    preparations = prepare_pages(samples, selection.estimate, steps)
    samples.clear()
    run = partial(denoise, selection.net, memory_budget=options.memory_budget, options=options.output)
    for number, preparation in enumerate(preparations):
        pages[number] = run(pages[number], preparation=preparation)
    written = encode(replace(file, pages=tuple(pages)), kind, options.quality, options.png_level)
    return replace(written, changed=(*written.changed, *mosaic_words, *words_of(preparations)))


def _read_file(data: bytes, options: DenoiseOptions) -> tuple[ImageSequence, tuple[str, ...]]:
    """The file's pages, and in words what was done to the mosaic of a camera raw file before developing."""
    share = requested_share(options.output, options.preparation)
    is_raw = detect_format(data).name == "raw" and options.page in (None, 1)
    if is_raw and options.mosaic_nets and share:
        mosaic = read_mosaic(data)
        law = law_of(mosaic) if mosaic else None
        if mosaic and law:
            values = denoise_mosaic(options.mosaic_nets.mosaic, mosaic, law, share, options.memory_budget)
            if values is not None:
                return develop(data, values, colour=options.colour), (law.words,)
    return read(data, page=options.page, colour=options.colour), ()


def estimate_file(source: Path, page: int = 1) -> tuple[str, NoiseEstimate]:
    """The name of the model for an image file, and the noise found. Raises ValueError, OSError."""
    return select_model(read(_read(source), page=page).pages[0].samples)


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
        raise ValueError(f"{out}: images cannot be written with the suffix {out.suffix}; {SUPPORTED_OUTPUTS}")
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
        raise ValueError(f"{out} is a file without an image's suffix; give a folder, or a name like clean.png")
    if PIPE in inputs:
        raise ValueError(
            "an image from standard input has no name for a file in a folder; give a name like clean.png"
        )
    return [task_for(out, source, format_) for source in files_of(inputs)]


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
        sources[name_key(str(task.target))].append(str(task.source))
    if clash := next((names for names in sources.values() if len(names) > 1), None):
        raise ValueError(
            f"these inputs would be written to the same output: {_some(clash)}; rename one, or denoise them apart"
        )


def _some(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - NAMES_IN_ERRORS
    return ", ".join(names[:NAMES_IN_ERRORS]) + (f" and {more} more" if more > 0 else "")
