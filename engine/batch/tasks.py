"""Batch tasks: denoises image files one after another, as planned, and notes in a journal what is done."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from threading import Event
from typing import Any, BinaryIO

from engine.batch.files import output_file, source_bytes, write_output
from engine.batch.journal import Journal
from engine.batch.planning import KEEP, PNG, Task, join_some
from engine.batch.progress import OnProgress, TaskProgress, ignore_progress
from engine.batch.reading import READ_HERE, Reader
from engine.batch.stack import TIFF, StackOptions, denoise_stack, stack_pages
from engine.defaults import COLOUR, MEMORY_BUDGET, PNG_LEVEL, Colour
from engine.imageio.codecs.jpeg import JpegSettings, read_jpeg_settings
from engine.imageio.formats import FORMATS, SAME, Format, detect_format, output_format
from engine.imageio.image import ImageSequence
from engine.imageio.write import encode, refuse_unfit
from engine.inference.adapted_noise import AdaptedNoise
from engine.inference.denoise import DEFAULT_OUTPUT, OutputOptions, denoise
from engine.inference.model_selection import (
    NO_ADAPTED,
    Choice,
    NetworkSelector,
    Selection,
    fixed_selector,
    select_for_pages,
)
from engine.inference.mosaic import (
    DEVELOPED_MODEL,
    MosaicNets,
    denoise_mosaic,
    law_of,
    requested_share,
    steps_after_mosaic,
)
from engine.inference.noise_estimation import sentence
from engine.inference.preparation import (
    DEFAULT_PREPARATION,
    PreparationOptions,
    prepare_pages,
    steps_for,
    words_of,
)
from engine.layers import Module
from engine.storage.bucket import FileStamp
from engine.storage.locations import Location, file_stamp
from engine.system.os_errors import describe, reason

# The error of a file that was given up.
HOPELESS = (
    "given up until it changes: two attempts ended with the process, which crashed or was killed, "
    "perhaps because this image needs more memory than there is"
)
# Pages of a stack up to which another process reads it whole.
WHOLE_PAGES = 100


@dataclass(frozen=True)
class Outcome:
    """A finished task.

    error: what went wrong, if anything did. changed: what was done, and what the output's format cannot hold.
    noise: what was found, and the model that was taken, in words. pixels: of all pages.
    """

    task: Task
    error: str | None = None
    changed: tuple[str, ...] = ()
    noise: str = ""
    pixels: int = 0

    @property
    def words(self) -> tuple[str, ...]:
        """What was done with an image, for people."""
        is_unchanged = any(words.startswith("unchanged: ") for words in self.changed)
        return self.changed if is_unchanged or not self.noise else (self.noise, *self.changed)


@dataclass(frozen=True)
class DenoisedFile:
    """An image file's bytes. changed, noise, pixels: as in Outcome."""

    data: bytes
    changed: tuple[str, ...]
    noise: str
    pixels: int


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
            "replace them with --force, or choose another output folder"
        )
    return remaining


def _is_done(task: Task, journal: Journal) -> bool:
    stamp = file_stamp(task.source)
    entry = journal.finished(task.source, stamp) if stamp else None
    if not entry or entry.error:
        return False
    # It may have been made under its other name, before or while another image had the same one.
    names = {task.target.name, task.short, task.whole}
    targets = {journal.name_of(task.target.with_name(name)) for name in names if name}
    made = journal.folder / entry.target
    return entry.target in targets and entry.options == journal.options and made.exists()


def denoise_files(
    select: NetworkSelector,
    tasks: Iterable[Task],
    options: DenoiseOptions | None = None,
    journal: Journal | None = None,
    on_progress: OnProgress = ignore_progress,
    stopping: Event | None = None,
) -> Iterator[Outcome]:
    """Run the tasks one after another. An error ends only its own task; the outcome has it.

    stopping: once it is set, no further task begins.
    """
    for task in tasks:
        if stopping and stopping.is_set():
            return
        try:
            yield denoise_file(select, task, options, journal, on_progress=on_progress)
        except OSError as error:
            yield Outcome(task, words_of_error(task, error))


def words_of_error(task: Task, error: OSError) -> str:
    """What went wrong with a task. Its source's name is left out, which is told anyway."""
    own = error.filename is not None and str(error.filename) == str(task.source)
    return reason(error) if own else describe(error)


def denoise_file(
    select: NetworkSelector,
    task: Task,
    options: DenoiseOptions | None = None,
    journal: Journal | None = None,
    reader: Reader = READ_HERE,
    on_progress: OnProgress = ignore_progress,
) -> Outcome:
    """Run one task. Raises OSError if a file cannot be read or written, and SourceChanged: try again later.

    A source that has ended the process too often, as the journal says, is given up.
    """
    on_progress(TaskProgress(task))
    if journal is None:
        return run_task(select, task, options, None, reader, on_progress)
    if journal.is_hopeless(task.source):
        journal.give_up(task.source, task.target, HOPELESS)
        return Outcome(task, HOPELESS)
    entry = journal.begin(task.source, task.target)
    try:
        outcome = run_task(select, task, options, entry.source_stamp, reader, on_progress)
        journal.finish(entry, outcome.error)
    except (OSError, KeyboardInterrupt):
        journal.withdraw(entry)
        raise
    return outcome


def run_task(
    select: NetworkSelector,
    task: Task,
    options: DenoiseOptions | None,
    source_stamp: FileStamp | None,
    reader: Reader = READ_HERE,
    on_progress: OnProgress = ignore_progress,
) -> Outcome:
    """Run one task, without a journal. source_stamp: that the source had at first; None to take it as it is.

    Raises OSError if a file cannot be read or written, and SourceChanged.
    """

    def refuse_changed_source() -> None:
        if source_stamp and file_stamp(task.source) not in (None, source_stamp):
            raise SourceChanged(f"{task.source}: the file was changed while it was processed; try again")

    def tell(selection: Selection, pages_done: int, pages: int) -> None:
        on_progress(TaskProgress(task, _noise_words(selection), pages_done, pages))

    outcome = Outcome(task)
    try:
        with source_bytes(task.source) as data:
            count = _streamed_pages(data, task, options or DenoiseOptions(), reader)
            if count:
                with output_file(task.target) as file:
                    outcome = _run_stack(select, task, data, count, file, options or DenoiseOptions(), tell)
                    refuse_changed_source()
            else:
                denoised = denoise_bytes(select, data, task.format, options, reader, tell)
                refuse_changed_source()
                write_output(task.target, denoised.data)
                outcome = Outcome(task, None, denoised.changed, denoised.noise, denoised.pixels)
    # torch raises RuntimeError when it gets no memory.
    except (ValueError, RuntimeError, MemoryError) as fault:
        outcome = Outcome(task, str(fault) or type(fault).__name__)
    if outcome.error:
        refuse_changed_source()
    return outcome


def _streamed_pages(data: bytes, task: Task, options: DenoiseOptions, reader: Reader) -> int:
    """How many pages of a file are denoised one after another; 0 if it is read whole.

    A stack that another process can read whole is left to it.
    """
    if options.page is not None or task.format not in (TIFF.name, SAME, KEEP):
        return 0
    if task.format == SAME and detect_format(data) != TIFF:
        return 0
    count = stack_pages(data)
    return count if reader is READ_HERE or count > WHOLE_PAGES else 0


def _run_stack(
    select: NetworkSelector,
    task: Task,
    data: bytes,
    count: int,
    file: BinaryIO,
    options: DenoiseOptions,
    tell: Callable[..., None],
) -> Outcome:
    stack_options = StackOptions(options.output, options.preparation, options.memory_budget)
    on_page = partial(tell, pages=count)
    result = denoise_stack(select, data, count, file, stack_options, on_page)
    return Outcome(task, None, result.changed, _noise_words(result.selection), result.pixels)


def denoise_bytes(
    select: NetworkSelector,
    data: bytes,
    format_: str = PNG,
    options: DenoiseOptions | None = None,
    reader: Reader = READ_HERE,
    on_page: Callable[[Selection, int, int], None] = lambda *_: None,
) -> DenoisedFile:
    """An image file's bytes -> the denoised file's. The first page that is not drawn or blank decides.

    on_page: called once the noise is measured, and after each page, with the number of pages that are done and
    that of all pages. Raises ValueError if the image cannot be read or written.
    """
    options = options or DenoiseOptions()
    file, mosaic_words = _read_file(data, options, reader)
    kind = _kept_kind(file) if format_ == KEEP else output_format(format_, file.kind)
    refuse_unfit(file, kind)
    settings = _source_settings(data, file.kind, kind, options)
    pages = list(file.pages)
    # A second reference to each page would keep its memory until the end.
    file = replace(file, pages=())
    samples = [page.samples for page in pages]
    nets = options.mosaic_nets if mosaic_words else None
    selection = (fixed_selector(nets.developed, DEVELOPED_MODEL) if nets else select)(samples)
    on_page(selection, 0, len(pages))
    steps = steps_for(options.preparation, kind, options.output.output, pages)
    if nets:
        steps = steps_after_mosaic(steps)
    preparations = prepare_pages(samples, selection.estimate, steps)
    pixels = sum(page.shape[0] * page.shape[1] for page in samples)
    samples.clear()
    run = partial(denoise, selection.net, memory_budget=options.memory_budget, options=options.output)
    for number, preparation in enumerate(preparations):
        pages[number] = run(pages[number], preparation=preparation)
        on_page(selection, number + 1, len(pages))
    result = replace(file, pages=tuple(pages))
    if settings:
        written = encode(result, kind, settings.quality, subsampling=settings.subsampling)
    else:
        written = encode(result, kind, options.quality, options.png_level)
    own_words = (settings.words,) if settings else ()
    changed = (*written.changed, *own_words, *mosaic_words, *words_of(preparations))
    return DenoisedFile(written.data, changed, _noise_words(selection), pixels)


def _kept_kind(file: ImageSequence) -> Format:
    """The format in which an image is kept that had no name when its output was planned."""
    kind, first = file.kind, file.pages[0]
    if kind.writes and first.depth in kind.writes.depths:
        return kind
    is_stack = len(file.pages) > 1 and not file.durations
    return TIFF if is_stack or first.depth == "float" else FORMATS[kind.kept_as]


def _source_settings(data: bytes, source: Format, kind: Format, options: DenoiseOptions) -> JpegSettings | None:
    """The settings of a JPEG file that stays one, unless another quality is asked for."""
    is_jpeg = source.name == kind.name == "jpeg"
    return read_jpeg_settings(data) if is_jpeg and options.quality is None else None


def _noise_words(selection: Selection) -> str:
    """The noise that was found, and the model that was taken."""
    noise = sentence(selection.estimate).removesuffix(".")
    return f"{noise}; model {selection.name}" if selection.name else noise


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
    source: Location,
    page: int = 1,
    nets: Mapping[str, Module] | None = None,
    adapted: Mapping[str, AdaptedNoise] = NO_ADAPTED,
) -> Choice:
    """The model for an image file, and the noise found. Raises ValueError, OSError.

    nets: for a trial where the noise alone does not decide; see `select_for_pages`. adapted: as there.
    """
    with source_bytes(source) as data:
        [image] = READ_HERE.read(data, page, COLOUR).pages
        return select_for_pages([image.samples], nets=nets, adapted=adapted)
