"""The commands for images: denoise them, tell what noise is in them."""

import json
import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.progress import Progress, track
from rich.table import Column, Table

from engine.imageio.formats import FORMATS, WRITABLE_FORMATS, output_format
from service.cli.console import STOPPED, err, error, out, warn, warn_without_kernels
from service.cli.weights import MEMORY_BUDGET, BudgetOption, DeviceOption, ModelOption, PrecisionOption, choice
from service.params import DenoiseParams, Shown
from service.settings import Settings

if TYPE_CHECKING:
    from engine.batch.tasks import DenoiseOptions, Outcome
    from engine.inference.model_selection import Choose
    from engine.models.checkpoint import Model

    Weights = Callable[[], tuple[Choose, Model]]

PNG_LEVEL: int = Settings.model_fields["png_level"].default
InputsArgument = Annotated[
    list[Path], typer.Argument(metavar="IN", help="Images, folders of them, or - for stdin.")
]
OutOption = Annotated[
    Path | None,
    typer.Option("-o", "--out", metavar="OUT", help="Folder; for one image a file's name, or - for stdout."),
]
LevelOption = Annotated[int, typer.Option(min=0, max=9, help=Settings.model_fields["png_level"].description)]
_WISHES = DenoiseParams.model_fields
FormatOption = Annotated[
    str | None,
    typer.Option(
        "--format", help=f"{' '.join(WRITABLE_FORMATS)}, or same.", show_default="as OUT is named, or png"
    ),
]
QualityOption = Annotated[
    int | None,
    typer.Option(min=1, max=100, help=_WISHES["quality"].description, show_default="95, WebP lossless"),
]
StrengthOption = Annotated[float, typer.Option(min=0, max=1, help=_WISHES["strength"].description)]
LumaOption = Annotated[float, typer.Option(min=0, max=1, help=_WISHES["luma"].description)]
ChromaOption = Annotated[float, typer.Option(min=0, max=1, help=_WISHES["chroma"].description)]
ShownOption = Annotated[Shown, typer.Option("--output", help=_WISHES["output"].description)]
PageOption = Annotated[int | None, typer.Option(min=1, help=_WISHES["page"].description, show_default="all")]


def run(
    inputs: InputsArgument,
    output: OutOption = None,
    force: Annotated[bool, typer.Option("--force", help="Write over files that are there.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Leave out what is done; see above.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Go on with what arrives in the folder IN.")] = False,
    model: ModelOption = "auto",
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    memory_budget: BudgetOption = MEMORY_BUDGET,
    png_level: LevelOption = PNG_LEVEL,
    format_: FormatOption = None,
    quality: QualityOption = None,
    strength: StrengthOption = 1.0,
    luma: LumaOption = 1.0,
    chroma: ChromaOption = 1.0,
    shown: ShownOption = "clean",
    page: PageOption = None,
) -> None:
    """Denoise images: files, folders, or what comes through a pipe.

    They keep their names, and are written as PNG, or as --format or the name after -o says. A broken one is
    reported, and the rest go on. Ctrl-C stops after the image in hand, and --resume goes on: it leaves out what
    is done, by the list in OUT/.denoise, unless the image, the options or the weights have changed since. What
    is not on that list is never written over without --force.

    --watch takes files once they are whole, each once, and again only if it changes; likewise after a restart.

    - `denoise run noisy.jpg -o clean.png`

    - `denoise run scans/ photo.tif -o clean/`

    - `denoise run --watch scans/ -o clean/`

    - `cat noisy.jpg | denoise run - > clean.png`
    """
    from engine.batch import tasks as folder
    from engine.inference.denoise import Finish

    if output is None and inputs != [folder.PIPE]:
        raise typer.BadParameter("say where to", param_hint="-o")
    target = output or folder.PIPE
    if target == folder.PIPE and sys.stdout.isatty():
        raise typer.BadParameter("an image is no text for a terminal: redirect it, or use -o")
    if format_:
        output_format(format_, FORMATS[WRITABLE_FORMATS[0]])
    order = folder.DenoiseOptions(quality, page, png_level, Finish(strength, luma, chroma, shown), memory_budget)
    weights = partial(choice, model, device, precision)
    warn_without_kernels()
    if watch:
        _watch(inputs, target, format_, force, order, weights)
    else:
        _batch(inputs, target, format_, force, resume, order, weights)


def estimate(
    inputs: InputsArgument,
    page: Annotated[int, typer.Option(min=1, help="Which page, or frame of an animation, to look at.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table: all that was found.")] = False,
) -> None:
    """Tell what noise is in images, and which weights auto takes for it.

    - `denoise estimate scans/ photo.tif`

    - `denoise estimate noisy.jpg --json`
    """
    from engine.batch.tasks import estimate_file, files_of
    from engine.inference.noise_estimation.estimator import sentence

    rows: list[dict[str, Any]] = []
    files = files_of(inputs)
    for file in track(files, "looking", console=err, transient=True, disable=not err.is_terminal):
        try:
            model, noise = estimate_file(file, page)
        except (ValueError, OSError, MemoryError) as error:
            warn(f"{file}: {error}")
        else:
            about = {"image": str(file), "words": sentence(noise), "model": model, "scale": 255}
            rows.append({**about, **asdict(noise)})
    if as_json:
        typer.echo(json.dumps(rows))
    else:
        table = Table(Column("image", overflow="fold"), "noise", "auto takes")
        for row in rows:
            table.add_row(*(escape(row[name]) for name in ("image", "words", "model")))
        out.print(table)
    if len(rows) < len(files):
        raise ValueError(f"{len(files) - len(rows)} of {len(files)} images not looked at")


def _batch(
    inputs: list[Path],
    target: Path,
    format_: str | None,
    force: bool,
    resume: bool,
    order: "DenoiseOptions",
    weights: "Weights",
) -> None:
    """Denoise images; where what is done is written down, until a signal comes."""
    from engine.batch import tasks as folder
    from engine.batch.journal import Journal
    from engine.system.signals import stop_signals

    if resume and not folder.is_folder(target):
        raise typer.BadParameter("takes a folder after -o", param_hint="--resume")
    tasks = folder.plan(inputs, target, force or resume, format_)
    choose, about = weights()
    with ExitStack() as stack:
        journal = stopping = None
        if folder.is_folder(target):
            journal = stack.enter_context(closing(Journal(target, order.fingerprint(about.digest), resume)))
            stopping = stack.enter_context(stop_signals())
        if journal and resume:
            every, tasks = len(tasks), folder.remaining(tasks, journal, force)
            warn(f"{every - len(tasks)} of {every} images are done already")
        done, failed = _told(folder.denoise_files(choose, tasks, order, journal), len(tasks), stopping)
    if failed:
        error(f"{failed} of {len(tasks)} images not denoised")
    if done < len(tasks):
        warn(f"stopped; {len(tasks) - done} of {len(tasks)} images are left: go on with --resume")
        raise typer.Exit(STOPPED)
    if failed:
        raise typer.Exit(1)


def _told(outcomes: "Iterable[Outcome]", total: int, stopping: Event | None) -> tuple[int, int]:
    """How many are over, and how many of these failed; they are told of, and what a format could not hold."""
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
    target: Path,
    format_: str | None,
    force: bool,
    order: "DenoiseOptions",
    weights: "Weights",
) -> None:
    """Denoise what is in a folder and what arrives, and tell of each, until a signal comes."""
    from engine.batch.journal import Journal
    from engine.batch.tasks import PNG
    from engine.batch.watch import FolderWatcher, check
    from engine.system.signals import stop_signals

    if len(inputs) != 1:
        raise typer.BadParameter("takes one folder", param_hint="--watch")
    check(inputs[0], target)
    choose, about = weights()
    done = failed = 0
    with (
        closing(Journal(target, order.fingerprint(about.digest), alone=True)) as journal,
        stop_signals() as stopping,
    ):
        watch = FolderWatcher(inputs[0], journal, warn, format_ or PNG, force)
        warn(f"watching {watch.folder}: Ctrl-C ends it")
        for outcome in watch.outcomes(choose, order, stopping):
            failed += outcome.error is not None
            done += outcome.error is None
            words = outcome.error or "; ".join((str(outcome.task.target), *outcome.changed))
            warn(f"{outcome.task.source}: {words}")
    warn(f"stopped: {done} images denoised, {failed} not")
