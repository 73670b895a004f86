"""Batch tasks: denoises image files one after another, as planned, and notes in a journal what is done."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from engine.batch.journal import Journal, JournalEntry, file_stamp
from engine.batch.planning import PIPE, PNG, Task, both_names, join_some
from engine.batch.reading import READ_HERE, Reader
from engine.defaults import COLOUR, MEMORY_BUDGET, PNG_LEVEL, Colour
from engine.imageio.formats import (
    detect_format,
    output_format,
)
from engine.imageio.image import EncodedImage, ImageSequence
from engine.imageio.write import encode
from engine.inference.denoise import DEFAULT_OUTPUT, OutputOptions, denoise
from engine.inference.model_selection import NetworkSelector, fixed_selector, select_for_pages
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
from engine.layers import Module
from engine.system.atomic_file import write_atomically
from engine.system.os_errors import describe, reason

# The error of a file that was given up.
HOPELESS = (
    "given up until it changes: two attempts ended with the process, which crashed or was killed, "
    "perhaps because this image needs more memory than there is"
)


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
            f"these outputs exist already and were made or changed by something else: {join_some(foreign)}; "
            "allow overwriting, or choose another output folder"
        )
    return remaining


def _is_done(task: Task, journal: Journal) -> bool:
    stamp = file_stamp(task.source)
    entry = journal.finished(task.source, stamp) if stamp else None
    if not entry or entry.error:
        return False
    # It may have been made under its other name, before or while another image had the same one.
    names = {task.target.name, *(each.target.name for each in both_names(task))}
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
    reader: Reader = READ_HERE,
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
    reader: Reader = READ_HERE,
) -> EncodedImage:
    """An image file's bytes -> the denoised file's. The first page that is not drawn or blank decides.

    Raises ValueError if the image cannot be read or written.
    """
    options = options or DenoiseOptions()
    file, mosaic_words = _read_file(data, options, reader)
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


def _read_file(data: bytes, options: DenoiseOptions, reader: Reader) -> tuple[ImageSequence, tuple[str, ...]]:
    """The file's pages, and in words what was done to the mosaic of a camera raw file before developing."""
    share = requested_share(options.output, options.preparation)
    is_raw = detect_format(data).name == "raw" and options.page in (None, 1)
    if is_raw and options.mosaic_nets and share:
        mosaic = reader.read_mosaic(data)
        law = law_of(mosaic) if mosaic else None
        if mosaic and law:
            values = denoise_mosaic(options.mosaic_nets.mosaic, mosaic, law, share, options.memory_budget)
            if values is not None:
                return reader.develop(data, values, options.colour), (law.words,)
    return reader.read(data, options.page, options.colour), ()


def estimate_file(
    source: Path, page: int = 1, nets: Mapping[str, Module] | None = None
) -> tuple[str, NoiseEstimate]:
    """The name of the model for an image file, and the noise found. Raises ValueError, OSError.

    nets: for a trial where the noise alone does not decide; see `select_for_pages`.
    """
    [image] = READ_HERE.read(_read(source), page, COLOUR).pages
    return select_for_pages([image.samples], nets=nets)


def _read(source: Path) -> bytes:
    return sys.stdin.buffer.read() if source == PIPE else source.read_bytes()


def _write(target: Path, data: bytes) -> None:
    if target == PIPE:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        write_atomically(target, data)
