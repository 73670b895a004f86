"""`denoise run`: denoises image files, folders of them, or an image from a pipe."""

import sys
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine import defaults
from engine.imageio.formats import FORMATS, SAME, WRITABLE_FORMATS, CannotWrite, format_name, output_format
from service.cli.batch_progress import BatchProgress, file_line
from service.cli.console import STOPPED, warn, warn_results, warn_without_kernels
from service.cli.options import BudgetOption, DeviceOption, InputsArgument, ModelOption, PrecisionOption
from service.cli.weights import load_model

if TYPE_CHECKING:
    from engine.batch.planning import Task
    from engine.batch.tasks import DenoiseOptions
    from engine.inference.model_selection import LoadedModel

    Loader = Callable[[], LoadedModel]

# Headings of --help.
RESULT = "The result"
STEPS = "Steps before the network"
# What Ctrl-C answers in a batch.
STOPPING = "Stopping after the current image, or page of a stack. Ctrl-C again stops at once."

# As text, because a path has no slash at its end.
OutOption = Annotated[
    str | None,
    typer.Option(
        "-o",
        "--out",
        metavar="OUT",
        help="Folder. For one image also a file name, or - for stdout.",
        show_default="beside one image, as NAME.denoised.EXT",
    ),
]
RecursiveOption = Annotated[
    bool,
    typer.Option("-r", "--recursive", help="Also denoise images in subfolders, into the same subfolders of OUT."),
]
QuietOption = Annotated[bool, typer.Option("-q", "--quiet", help="Print only what failed.")]
VerboseOption = Annotated[
    bool, typer.Option("-v", "--verbose", help="Print a line for each file, and name the files left out.")
]
WatchOption = Annotated[
    bool, typer.Option("--watch", help="Keep running, and denoise new files in the folder IN.")
]
LevelOption = Annotated[
    int,
    typer.Option(
        min=defaults.MIN_PNG_LEVEL,
        max=defaults.MAX_PNG_LEVEL,
        help="PNG compression: 0 is none, 1 is fast and good for photographs, 9 is slowest.",
        rich_help_panel=RESULT,
    ),
]


def _format(text: str) -> str:
    """The name of a format, however it is written. Raises typer.BadParameter."""
    name = format_name(text)
    try:
        output_format(name, FORMATS[defaults.FORMAT])
    except CannotWrite as error:
        raise typer.BadParameter(str(error)) from None
    return name


FormatOption = Annotated[
    str | None,
    typer.Option(
        "--format",
        parser=_format,
        metavar="FORMAT",
        help=f"{', '.join(WRITABLE_FORMATS)}, or {SAME}: the format of the input.",
        show_default="from OUT's name, or the input's if it can be written, else png",
        rich_help_panel=RESULT,
    ),
]
QualityOption = Annotated[
    int | None,
    typer.Option(
        min=defaults.MIN_QUALITY,
        max=defaults.MAX_QUALITY,
        help=defaults.QUALITY_HELP,
        show_default="as the input if both are JPEG, else "
        + ", ".join(f"{kind.title} {kind.quality}" for kind in FORMATS.values() if kind.quality),
        rich_help_panel=RESULT,
    ),
]


def _share(text: str, most: float = defaults.MAX_SHARE) -> Any:
    return typer.Option(min=defaults.MIN_SHARE, max=most, help=text, rich_help_panel=RESULT)


StrengthOption = Annotated[float, _share(defaults.STRENGTH_HELP, defaults.MAX_STRENGTH)]
LumaOption = Annotated[float, _share(defaults.LUMA_HELP)]
ChromaOption = Annotated[float, _share(defaults.CHROMA_HELP)]
GrainOption = Annotated[float, _share(defaults.GRAIN_HELP)]
OutputOption = Annotated[defaults.Output, typer.Option(help=defaults.OUTPUT_HELP, rich_help_panel=RESULT)]
PageOption = Annotated[
    int | None, typer.Option(min=1, help=defaults.PAGE_HELP, show_default="all", rich_help_panel=RESULT)
]
ColourOption = Annotated[defaults.Colour, typer.Option(help=defaults.COLOUR_HELP, rich_help_panel=RESULT)]
NormaliseOption = Annotated[defaults.Switch, typer.Option(help=defaults.NORMALISE_HELP, rich_help_panel=STEPS)]
ImpulsesOption = Annotated[defaults.Switch, typer.Option(help=defaults.IMPULSES_HELP, rich_help_panel=STEPS)]
BandingOption = Annotated[defaults.Switch, typer.Option(help=defaults.BANDING_HELP, rich_help_panel=STEPS)]
CleanOption = Annotated[bool, typer.Option("--even-clean", help=defaults.CLEAN_HELP, rich_help_panel=STEPS)]


# The help of `denoise run`.
RUN_HELP = """Denoise image files, folders of images, or an image from a pipe.

Images keep their names and their format where it can be written: JPEG stays JPEG, in the quality of the
input, and the pages of a TIFF stay pages. Other formats become PNG. --format and the file name after -o
choose another one. If an image fails, the command reports it and continues with the next one.

Images that would get the same name keep their suffix: a.dng and a.heic become a.dng.png and a.heic.png.

OUT is a folder if it exists as one, has no suffix, or ends with a slash. Without -o, the result of one image
is written beside it.

In folders, images are found by suffix, or by content if they have none. Other files are counted, and -v names
them. So are earlier results, NAME.denoised.EXT beside NAME.

TIFF files of many pages are read and written page by page, so memory does not grow with the pages.

Ctrl-C stops after the current image, or page of a stack, and writes no part of an image. --resume continues: it
skips the images that are done. The list of these is in OUT/.denoise. An image is done again if it, the options
or the weights have changed. A file that is not on the list is overwritten only with --force.

--watch denoises each file once it is complete, and again when it changes. After a restart it continues where
it was. It gives up a file at which the command has ended twice, because it crashed or was killed.

Exit codes: 0 if all images are done, 1 if one failed, 2 for wrong usage, 130 if a signal stopped it.

- `denoise run noisy.jpg`

- `denoise run noisy.jpg -o clean.png`

- `denoise run scans/ photo.tif -o clean/`

- `denoise run --recursive archive/ -o clean/ --resume`

- `denoise run --watch scans/ -o clean/`

- `cat noisy.jpg | denoise run - > clean.jpg`
"""


@dataclass(frozen=True)
class BatchOptions:
    """Which files are denoised, and what is told of it. out: None for beside the one input."""

    inputs: list[Path]
    out: str | None
    format: str | None
    force: bool
    resume: bool
    recursive: bool
    quiet: bool
    verbose: bool


def run(
    inputs: InputsArgument,
    out: OutOption = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing files.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Skip images that are done.")] = False,
    watch: WatchOption = False,
    recursive: RecursiveOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    model: ModelOption = defaults.MODEL,
    device: DeviceOption = defaults.DEVICE,
    precision: PrecisionOption = defaults.PRECISION,
    memory_budget: BudgetOption = defaults.MEMORY_BUDGET,
    png_level: LevelOption = defaults.PNG_LEVEL,
    format_: FormatOption = None,
    quality: QualityOption = None,
    strength: StrengthOption = defaults.STRENGTH,
    luma: LumaOption = defaults.LUMA,
    chroma: ChromaOption = defaults.CHROMA,
    grain: GrainOption = defaults.GRAIN,
    output: OutputOption = defaults.OUTPUT,
    page: PageOption = None,
    colour: ColourOption = defaults.COLOUR,
    normalise: NormaliseOption = defaults.NORMALISE,
    impulses: ImpulsesOption = defaults.IMPULSES,
    banding: BandingOption = defaults.BANDING,
    even_clean: CleanOption = False,
) -> None:
    """Denoise images; see `RUN_HELP`."""
    from engine.batch.tasks import DenoiseOptions
    from engine.inference.denoise import OutputOptions
    from engine.inference.preparation import PreparationOptions

    if watch and recursive:
        raise typer.BadParameter("--watch does not search subfolders", param_hint="--recursive")
    batch = BatchOptions(inputs, _target(inputs, out), format_, force, resume, recursive, quiet, verbose)
    result = OutputOptions(strength, luma, chroma, output, grain)
    steps = PreparationOptions.of(normalise, impulses, banding, even_clean)
    options = DenoiseOptions(quality, page, png_level, result, memory_budget, colour, steps)
    load = partial(load_model, model, device, precision)
    warn_without_kernels()
    if watch:
        _watch(batch, options, load)
    else:
        _batch(batch, options, load)


def _target(inputs: list[Path], out: str | None) -> str | None:
    """Where the results go; None for beside the one input. Raises typer.BadParameter if that is not clear."""
    from engine.batch.planning import PIPE

    if out is None and inputs != [PIPE]:
        if len(inputs) == 1 and not inputs[0].is_dir():
            return None
        raise typer.BadParameter("give a folder for the results, such as -o clean/", param_hint="-o")
    target = str(PIPE) if out is None else out
    if not target:
        raise typer.BadParameter("this is empty; give a folder, a file name, or - for stdout", param_hint="-o")
    if target == str(PIPE) and sys.stdout.isatty():
        raise typer.BadParameter("stdout is a terminal; redirect it, or give a file name", param_hint="-o")
    return target


def _batch(batch: BatchOptions, options: "DenoiseOptions", load: "Loader") -> None:
    """Denoise all images. In an output folder, a journal lists what is done, and a signal stops the work."""
    from engine.batch import planning, tasks
    from engine.batch.journal import Journal
    from engine.batch.progress import stop_between_pages
    from engine.inference.mosaic import mosaic_nets
    from engine.system.signals import interrupt_signals, stop_signals

    folder = Path(batch.out) if batch.out is not None and planning.is_folder(batch.out) else None
    if batch.resume and not folder:
        raise typer.BadParameter("give a folder after -o", param_hint="--resume")
    todo = planning.plan_tasks(
        batch.inputs, batch.out, batch.force or batch.resume, batch.format, batch.recursive
    )
    if not batch.quiet:
        _tell_plan(batch, folder, todo)
    model = load()
    options = replace(options, mosaic_nets=mosaic_nets(model))
    with ExitStack() as stack:
        journal = stopping = None
        if folder:
            journal = Journal(folder, options.fingerprint(model.digest), batch.resume)
            stack.enter_context(closing(journal))
            stopping = stack.enter_context(stop_signals("" if batch.quiet else STOPPING))
        else:
            stack.enter_context(interrupt_signals())
        if journal and batch.resume:
            total, todo = len(todo), tasks.remaining_tasks(todo, journal, batch.force)
            if not batch.quiet:
                warn(f"skipping {total - len(todo)} of {total} images, which are done")
        progress = BatchProgress(len(todo), batch.quiet, batch.verbose)
        update = stop_between_pages(stopping, progress.update) if stopping else progress.update
        with progress.shown(), suppress(KeyboardInterrupt):
            for outcome in tasks.denoise_files(model.select, todo, options, journal, update):
                progress.finish(outcome)
                if stopping and stopping.is_set():
                    break
        progress.summarise()
    if progress.done < len(todo):
        if folder:
            warn(
                f"stopped: {len(todo) - progress.done} of {len(todo)} images are left. Use --resume to continue."
            )
        else:
            warn(f"stopped: {todo[0].source} is not done, and nothing was written. Run the command again.")
        raise typer.Exit(STOPPED)
    if progress.failed:
        raise typer.Exit(1)


def _tell_plan(batch: BatchOptions, folder: Path | None, todo: "list[Task]") -> None:
    """Tell which names are longer than usual, and which files are left out."""
    from engine.batch import planning

    if whole := [task for task in todo if planning.has_whole_name(task)]:
        warn(f"{len(whole)} images have names that differ only in the suffix, so their outputs keep it:")
        warn("\n".join(f"{task.source}: {task.target}" for task in whole))
    for path in batch.inputs:
        if not path.is_dir():
            continue
        found = planning.find_images(path, batch.recursive, skip=folder)
        warn_results(path, found.results, "" if batch.verbose else "; -v names them")
        count = len(found.left_out)
        if count:
            named = "" if batch.verbose else f"; -v names {'it' if count == 1 else 'them'}"
            kind = "file that is not an image" if count == 1 else "files that are not images"
            warn(f"{path}: left out {count} {kind}{named}")
        count = len(found.folders)
        if count:
            reason = "" if batch.recursive else f"; --recursive includes {'it' if count == 1 else 'them'}"
            kind = "linked folder" if batch.recursive else "subfolder"
            warn(f"{path}: left out {count} {kind}{'s' * (count != 1)}{reason}")
        if batch.verbose:
            for left_out in (*found.results, *found.left_out, *found.folders):
                warn(f"left out: {left_out}")


def _watch(batch: BatchOptions, options: "DenoiseOptions", load: "Loader") -> None:
    """Denoise the files in a folder and every file that arrives, with a line for each, until a signal comes."""
    from engine.batch.journal import Journal
    from engine.batch.planning import KEEP
    from engine.batch.reading import sandboxed
    from engine.batch.watch import FolderWatcher, check_folders
    from engine.inference.mosaic import mosaic_nets
    from engine.system.signals import stop_signals

    if len(batch.inputs) != 1:
        raise typer.BadParameter("give exactly one folder", param_hint="--watch")
    if batch.out is None:
        raise typer.BadParameter("give a folder for the results, such as -o clean/", param_hint="-o")
    check_folders(batch.inputs[0], batch.out)
    done = failed = 0
    with ExitStack() as stack:
        # First: its process loads the codecs while this one loads the weights.
        reader = stack.enter_context(sandboxed())
        model = load()
        options = replace(options, mosaic_nets=mosaic_nets(model))
        journal = Journal(Path(batch.out), options.fingerprint(model.digest), resume=True)
        stack.enter_context(closing(journal))
        stopping = stack.enter_context(stop_signals())
        watcher = FolderWatcher(batch.inputs[0], journal, warn, batch.format or KEEP, batch.force, reader=reader)
        warn(f"watching {watcher.folder}. Press Ctrl-C to stop.")
        for outcome in watcher.outcomes(model.select, options, stopping):
            failed += outcome.error is not None
            done += outcome.error is None
            if outcome.error or not batch.quiet:
                warn(file_line(outcome))
    warn(f"stopped: {done} denoised, {failed} failed")
