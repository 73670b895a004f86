"""`denoise run`: denoises image files, folders of them, or an image from a pipe."""

import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import Progress

from engine import defaults
from engine.imageio.formats import FORMATS, SAME, WRITABLE_FORMATS, output_format
from service.cli.console import STOPPED, err, error, warn, warn_without_kernels
from service.cli.options import BudgetOption, DeviceOption, InputsArgument, ModelOption, PrecisionOption
from service.cli.weights import load_model

if TYPE_CHECKING:
    from engine.batch.tasks import DenoiseOptions, Outcome
    from engine.inference.model_selection import LoadedModel

    Loader = Callable[[], LoadedModel]

# As text, because a path has no slash at its end.
OutOption = Annotated[
    str | None,
    typer.Option("-o", "--out", metavar="OUT", help="Folder. For one image also a file name, or - for stdout."),
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
    ),
]
FormatOption = Annotated[
    str | None,
    typer.Option(
        "--format",
        help=f"{', '.join(WRITABLE_FORMATS)}, or {SAME}: the format of the input.",
        show_default=f"from OUT's name, or {defaults.FORMAT}",
    ),
]
QualityOption = Annotated[
    int | None,
    typer.Option(
        min=defaults.MIN_QUALITY,
        max=defaults.MAX_QUALITY,
        help=defaults.QUALITY_HELP,
        show_default=", ".join(f"{kind.title} {kind.quality}" for kind in FORMATS.values() if kind.quality),
    ),
]


def _share(text: str, most: float = defaults.MAX_SHARE) -> Any:
    return typer.Option(min=defaults.MIN_SHARE, max=most, help=text)


StrengthOption = Annotated[float, _share(defaults.STRENGTH_HELP, defaults.MAX_STRENGTH)]
LumaOption = Annotated[float, _share(defaults.LUMA_HELP)]
ChromaOption = Annotated[float, _share(defaults.CHROMA_HELP)]
GrainOption = Annotated[float, _share(defaults.GRAIN_HELP)]
OutputOption = Annotated[defaults.Output, typer.Option(help=defaults.OUTPUT_HELP)]
PageOption = Annotated[int | None, typer.Option(min=1, help=defaults.PAGE_HELP, show_default="all")]
ColourOption = Annotated[defaults.Colour, typer.Option(help=defaults.COLOUR_HELP)]
NormaliseOption = Annotated[defaults.Switch, typer.Option(help=defaults.NORMALISE_HELP)]
ImpulsesOption = Annotated[defaults.Switch, typer.Option(help=defaults.IMPULSES_HELP)]
BandingOption = Annotated[defaults.Switch, typer.Option(help=defaults.BANDING_HELP)]
CleanOption = Annotated[bool, typer.Option("--even-clean", help=defaults.CLEAN_HELP)]


def run(
    inputs: InputsArgument,
    out: OutOption = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing files.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Skip images that are done.")] = False,
    watch: WatchOption = False,
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
    """Denoise image files, folders of images, or an image from a pipe.

    Images keep their names; a.dng and a.jpg become a.dng.png and a.jpg.png. The format is PNG, unless --format or
    the file name after -o names another one. If an image fails, the command reports it and continues.
    OUT is a folder if it exists as one, has no suffix, or ends with a slash.

    Ctrl-C stops after the current image. --resume continues: it skips the images that are done. The list of these
    is in OUT/.denoise. An image is done again if it, the options or the weights have changed. A file that is not
    on the list is overwritten only with --force.

    --watch denoises each file once it is complete, and again when it changes. After a restart it continues where
    it was. It gives up a file at which the command has ended twice, because it crashed or was killed.

    - `denoise run noisy.jpg -o clean.png`

    - `denoise run scans/ photo.tif -o clean/`

    - `denoise run --watch scans/ -o clean/`

    - `cat noisy.jpg | denoise run - > clean.png`
    """
    from engine.batch.tasks import DenoiseOptions
    from engine.inference.denoise import OutputOptions
    from engine.inference.preparation import PreparationOptions

    target = _target(inputs, out, format_)
    result = OutputOptions(strength, luma, chroma, output, grain)
    steps = PreparationOptions.of(normalise, impulses, banding, even_clean)
    options = DenoiseOptions(quality, page, png_level, result, memory_budget, colour, steps)
    load = partial(load_model, model, device, precision)
    warn_without_kernels()
    if watch:
        _watch(inputs, target, format_, force, options, load)
    else:
        _batch(inputs, target, format_, force, resume, options, load)


def _target(inputs: list[Path], out: str | None, format_: str | None) -> str:
    """Where the results go. Raises typer.BadParameter if none is given, CannotWrite for an unknown format."""
    from engine.batch.planning import PIPE

    if out is None and inputs != [PIPE]:
        raise typer.BadParameter("give a folder, a file name, or - for stdout", param_hint="-o")
    target = str(PIPE) if out is None else out
    if not target:
        raise typer.BadParameter("this is empty; give a folder, a file name, or - for stdout", param_hint="-o")
    if target == str(PIPE) and sys.stdout.isatty():
        raise typer.BadParameter("stdout is a terminal; redirect it, or give a file name", param_hint="-o")
    if format_:
        output_format(format_, FORMATS[defaults.FORMAT])
    return target


def _batch(
    inputs: list[Path],
    target: str,
    format_: str | None,
    force: bool,
    resume: bool,
    options: "DenoiseOptions",
    load: "Loader",
) -> None:
    """Denoise all images. In an output folder, a journal lists what is done, and a signal stops the work."""
    from engine.batch import planning, tasks
    from engine.batch.journal import Journal
    from engine.inference.mosaic import mosaic_nets
    from engine.system.signals import stop_signals

    if resume and not planning.is_folder(target):
        raise typer.BadParameter("give a folder after -o", param_hint="--resume")
    todo = planning.plan_tasks(inputs, target, force or resume, format_)
    if whole := [task for task in todo if planning.has_whole_name(task)]:
        warn(f"{len(whole)} images have names that differ only in the suffix, so their outputs keep it:")
        warn("\n".join(f"{task.source}: {task.target}" for task in whole))
    model = load()
    options = replace(options, mosaic_nets=mosaic_nets(model))
    with ExitStack() as stack:
        journal = stopping = None
        if planning.is_folder(target):
            fingerprint = options.fingerprint(model.digest)
            journal = stack.enter_context(closing(Journal(Path(target), fingerprint, resume)))
            stopping = stack.enter_context(stop_signals())
        if journal and resume:
            total, todo = len(todo), tasks.remaining_tasks(todo, journal, force)
            warn(f"skipping {total - len(todo)} of {total} images, which are done")
        done, failed = _report(tasks.denoise_files(model.select, todo, options, journal), len(todo), stopping)
    if failed:
        error(f"{failed} of {len(todo)} images could not be denoised")
    if done < len(todo):
        warn(f"stopped: {len(todo) - done} of {len(todo)} images are left. Use --resume to continue.")
        raise typer.Exit(STOPPED)
    if failed:
        raise typer.Exit(1)


def _report(outcomes: "Iterable[Outcome]", total: int, stopping: Event | None) -> tuple[int, int]:
    """Print failures, and what the format could not hold. Returns the numbers of images done and failed."""
    done = failed = 0
    with Progress(console=err, disable=not err.is_terminal) as progress:
        bar = progress.add_task("denoising", total=total)
        for outcome in outcomes:
            done += 1
            progress.advance(bar)
            if outcome.error:
                failed += 1
                warn(f"{outcome.task.source}: {outcome.error}")
            elif outcome.changed:
                warn(f"{outcome.task.source}: {'; '.join(outcome.changed)}")
            if stopping and stopping.is_set():
                break
    return done, failed


def _watch(
    inputs: list[Path],
    target: str,
    format_: str | None,
    force: bool,
    options: "DenoiseOptions",
    load: "Loader",
) -> None:
    """Denoise the files in a folder and every file that arrives, with a line for each, until a signal comes."""
    from engine.batch.journal import Journal
    from engine.batch.reading import sandboxed
    from engine.batch.watch import FolderWatcher, check_folders
    from engine.inference.mosaic import mosaic_nets
    from engine.system.signals import stop_signals

    if len(inputs) != 1:
        raise typer.BadParameter("give exactly one folder", param_hint="--watch")
    check_folders(inputs[0], target)
    done = failed = 0
    with ExitStack() as stack:
        # First: its process loads the codecs while this one loads the weights.
        reader = stack.enter_context(sandboxed())
        model = load()
        options = replace(options, mosaic_nets=mosaic_nets(model))
        journal = Journal(Path(target), options.fingerprint(model.digest), resume=True)
        stack.enter_context(closing(journal))
        stopping = stack.enter_context(stop_signals())
        watcher = FolderWatcher(inputs[0], journal, warn, format_ or defaults.FORMAT, force, reader=reader)
        warn(f"watching {watcher.folder}. Press Ctrl-C to stop.")
        for outcome in watcher.outcomes(model.select, options, stopping):
            failed += outcome.error is not None
            done += outcome.error is None
            result = outcome.error or "; ".join((str(outcome.task.target), *outcome.changed))
            warn(f"{outcome.task.source}: {result}")
    warn(f"stopped: {done} denoised, {failed} failed")
