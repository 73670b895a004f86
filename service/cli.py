"""The command `denoise`: each subcommand a few lines that call the engine or start the service."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, replace
from datetime import timedelta
from enum import StrEnum
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress import Progress, track
from rich.table import Column, Table

from engine.formats import FORMATS, WRITTEN, chosen
from service.flags import ManyValues, RecipeFlags, with_settings
from service.keys_cli import keys
from service.settings import Settings
from service.wishes import Shown, Wishes

# Whatever needs torch is imported by the commands that use it, so that --help and mistakes are answered at once.
if TYPE_CHECKING:
    from engine.auto import Choose
    from engine.evaluate import Pair, Quality, Score
    from engine.folder import Order, Outcome
    from engine.gallery import Section
    from engine.job import Line
    from engine.layers import Layer
    from engine.suite import Trial
    from engine.weights import Model

STOPPED = 130
# What weights may lose by being kept in float16, in dB, of any picture.
LARGEST_CHANGE = 0.001
MEMORY_BUDGET: int = Settings.model_fields["memory_budget"].default
PNG_LEVEL: int = Settings.model_fields["png_level"].default

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Takes the noise out of pictures, and trains the networks that do it.",
)
app.add_typer(keys, name="keys")
out = Console()
err = Console(stderr=True)


def main(args: Sequence[str] | None = None) -> None:
    """The entry point. A mistake of the user's is one line on stderr: exit code 1, or 2 if the usage is wrong."""
    try:
        app(args, prog_name="denoise")
    except (ValueError, OSError) as error:
        _error(str(error))
        sys.exit(1)


class How(StrEnum):
    """Whether a picture goes through the network once, or flipped and turned in all eight ways."""

    NORMAL = "normal"
    HIGH = "high"


InputsArgument = Annotated[
    list[Path], typer.Argument(metavar="IN", help="Pictures, folders of them, or - for stdin.")
]
OutOption = Annotated[
    Path | None,
    typer.Option("-o", "--out", metavar="OUT", help="Folder; for one picture a file's name, or - for stdout."),
]
ModelOption = Annotated[
    str,
    typer.Option(help="Name of shipped weights, path of a .safetensors file, or auto, which looks at the noise."),
]
WeightsArgument = Annotated[
    str,
    typer.Argument(
        metavar="WEIGHTS", help="Path of a .safetensors file, name of shipped weights, or for some commands auto."
    ),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
PrecisionOption = Annotated[str, typer.Option(help="auto (what is faster here), float32 or bfloat16.")]
BudgetOption = Annotated[int, typer.Option(min=1, help="Memory for a picture on its way through, in bytes.")]
LevelOption = Annotated[int, typer.Option(min=0, max=9, help=Settings.model_fields["png_level"].description)]
_WISHES = Wishes.model_fields
FormatOption = Annotated[
    str | None,
    typer.Option("--format", help=f"{' '.join(WRITTEN)}, or same.", show_default="as OUT is named, or png"),
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
PairsOption = Annotated[
    Path | None, typer.Option(help="(noisy, clean) pairs: a .pkl or .pt file, or a folder.", show_default=False)
]
CleanOption = Annotated[
    Path | None, typer.Option(help="Folder of clean pictures, that get white noise.", show_default=False)
]
SigmaOption = Annotated[
    list[float] | None,
    typer.Option(help="With --clean: the noise's levels, 0-255 scale.", show_default="15 25 50"),
]
RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="Name of a shipped recipe, or path of a .toml file.")
]
DataOption = Annotated[
    list[Path] | None,
    typer.Option(help="Folder of photos or of noisy pairs, or .pkl of pairs.", show_default="synthetic pictures"),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe's value; so does --KEY VALUE."),
]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="Processor threads.", show_default="one a core")]


@app.command()
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
    """Denoise pictures: files, folders, or what comes through a pipe.

    They keep their names, and are written as PNG, or as --format or the name after -o says. A broken one is
    reported, and the rest go on. Ctrl-C stops after the picture in hand, and --resume goes on: it leaves out what
    is done, by the list in OUT/.denoise, unless the picture, the options or the weights have changed since. What
    is not on that list is never written over without --force.

    --watch takes files once they are whole, each once, and again only if it changes; likewise after a restart.

    - `denoise run noisy.jpg -o clean.png`

    - `denoise run scans/ photo.tif -o clean/`

    - `denoise run --watch scans/ -o clean/`

    - `cat noisy.jpg | denoise run - > clean.png`
    """
    from engine import folder
    from engine.picture import Finish

    if output is None and inputs != [folder.PIPE]:
        raise typer.BadParameter("say where to", param_hint="-o")
    target = output or folder.PIPE
    if target == folder.PIPE and sys.stdout.isatty():
        raise typer.BadParameter("a picture is no text for a terminal: redirect it, or use -o")
    if format_:
        chosen(format_, FORMATS[WRITTEN[0]])
    order = folder.Order(quality, page, png_level, Finish(strength, luma, chroma, shown), memory_budget)
    choice = partial(_choice, model, device, precision)
    if watch:
        _watch(inputs, target, format_, force, order, choice)
    else:
        _batch(inputs, target, format_, force, resume, order, choice)


@app.command()
def estimate(
    inputs: InputsArgument,
    page: Annotated[int, typer.Option(min=1, help="Which page, or frame of an animation, to look at.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table: all that was found.")] = False,
) -> None:
    """Tell what noise is in pictures, and which weights auto takes for it.

    - `denoise estimate scans/ photo.tif`

    - `denoise estimate noisy.jpg --json`
    """
    from engine.estimate import sentence
    from engine.folder import estimate_file, files_of

    rows: list[dict[str, Any]] = []
    files = files_of(inputs)
    for file in track(files, "looking", console=err, transient=True, disable=not err.is_terminal):
        try:
            model, noise = estimate_file(file, page)
        except (ValueError, OSError, MemoryError) as error:
            _warn(f"{file}: {error}")
        else:
            about = {"picture": str(file), "words": sentence(noise), "model": model, "scale": 255}
            rows.append({**about, **asdict(noise)})
    if as_json:
        typer.echo(json.dumps(rows))
    else:
        table = Table(Column("picture", overflow="fold"), "noise", "auto takes")
        for row in rows:
            table.add_row(*(escape(row[name]) for name in ("picture", "words", "model")))
        out.print(table)
    if len(rows) < len(files):
        raise ValueError(f"{len(files) - len(rows)} of {len(files)} pictures not looked at")


@app.command()
@with_settings
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 is any that is free.")] = 8000,
    **given: Any,
) -> None:
    """Answer over HTTP, and with a page for people at /.

    - `denoise serve`

    - `denoise serve --host 0.0.0.0 --keys-file keys --port 9000 --weights my-weights/ --model mine`
    """
    try:
        settings = Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        faults = (f"{fault['loc'][0]}: {fault['msg']}" for fault in error.errors(include_input=False))
        raise ValueError("; ".join(faults)) from None

    from service import server

    server.serve(settings, host, port)


@app.command(cls=RecipeFlags)
def train(
    recipe: RecipeArgument,
    output: Annotated[Path, typer.Option("-o", "--out", help="The weights, a .safetensors file.")],
    data: DataOption = None,
    minutes: Annotated[float | None, typer.Option(help="How long to train.", show_default="the recipe's")] = None,
    steps: Annotated[int | None, typer.Option(help="How long to train, instead.", show_default="none")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint beside OUT.")] = False,
    start: Annotated[Path | None, typer.Option("--start", help="Weights to begin from, not drawn ones.")] = None,
    terms: Annotated[str, typer.Option(help="The data's licence, to be told with the weights.")] = "not stated",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    override: SetOption = None,
) -> None:
    """Train a network from noisy pictures alone. Ctrl-C loses nothing: go on with --resume.

    Every value of the recipe is a flag too.

    - `denoise train paper --minutes 10 --out my.safetensors`

    - `denoise train photo --data photos/ --minutes 120 --batch 16 --out my.safetensors`

    - `denoise train paper --data pairs.pkl --steps 20000 --lr 0.4 --out my.safetensors`
    """
    from engine import job
    from engine.recipe import read_recipe

    _use_threads(threads)
    values = _overrides(override, minutes, steps)
    every = 1.0 if err.is_terminal else 10.0
    chosen = read_recipe(recipe, values)
    training = job.Run(chosen, output, data or (), terms, resume, device, start, log_every=every)
    with _live_line() as show:
        ended = job.run(training, lambda line: show(_describe(line)), _warn)
    if not ended:
        _warn("stopped; everything is saved: go on with --resume")
        raise typer.Exit(STOPPED)


@app.command(cls=ManyValues)
def evaluate(
    weights: WeightsArgument,
    pairs: PairsOption = None,
    clean: CleanOption = None,
    sigma: SigmaOption = None,
    suite: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the standard sets: cbsd68, kodak24, polyu, paper/val.pkl.", show_default=False
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only each set's first.", show_default="all")] = None,
    quality: Annotated[
        How, typer.Option(help="high: mean over 8 flips and turns, 8 times the work.")
    ] = How.NORMAL,
    report: Annotated[
        Path | None, typer.Option(help="Folder for a page of what each picture gained.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    memory_budget: BudgetOption = MEMORY_BUDGET,
) -> None:
    """Measure weights on pictures: PSNR, SSIM and speed.

    - `denoise evaluate photo --clean pictures/ --sigma 15 25 50`

    - `denoise evaluate my.safetensors --pairs val.pkl --json`

    - `denoise evaluate photo --suite sets/ --report report/`
    """
    from engine.auto import AUTO
    from engine.ensemble import Ensemble
    from engine.evaluate import denoise_pairs, denoise_pairs_by
    from engine.gallery import Section

    trials = [trial.first(limit) for trial in _trials(pairs, clean, suite, sigma or [15, 25, 50])]
    choose, model = _choice(weights, device, precision, None if quality is How.NORMAL else Ensemble)
    sections, scores = [Section(trial) for trial in trials], []
    for section in sections:
        watched = _watched(section.trial)
        # The same network for all can take small pictures many at a time.
        results = (
            denoise_pairs_by(choose, watched, memory_budget)
            if model.name == AUTO
            else denoise_pairs(model.net, watched, memory_budget)
        )
        scores.append([section.add(result) if report else result.score for result in results])
    if report:
        _write_report(report, model, quality, sections)
    found = list(zip(trials, scores, strict=True))
    if suite:
        _tell_rows(_suite_rows(model, quality, found), model, as_json)
    elif as_json:
        typer.echo(json.dumps({"quality": quality, **_to_json(model, _by_level(found))}))
    else:
        out.print(_quality_table(model, _by_level(found)))


@app.command(cls=ManyValues)
def ship(
    weights: WeightsArgument,
    output: Annotated[Path, typer.Option("-o", "--out", help="The smaller file, .safetensors.")],
    pairs: PairsOption = None,
    clean: CleanOption = None,
    sigma: SigmaOption = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many.", show_default="all")] = None,
) -> None:
    """Write weights in half the size, in float16, if that changes no picture by more than 0.001 dB.

    Else in float32, as they were.

    - `denoise ship my.safetensors --clean pictures/ --out weights/my.safetensors`

    - `denoise ship my.safetensors --pairs val.pkl --out weights/my.safetensors`
    """
    from engine import weights as files
    from engine.evaluate import largest_change

    trials = [trial.first(limit) for trial in _trials(pairs, clean, None, sigma or [15, 25, 50])]
    model = _load(weights, "cpu", "float32")
    half = files.rounded(model.net, model.spec, files.HALF)
    change = max(largest_change(model.net, half, trial.samples) for trial in trials)
    small = change <= LARGEST_CHANGE
    files.save(output, model.net, model.spec, model.metadata, files.HALF if small else files.FULL)
    _warn(
        f"float16 changes a picture by up to {change:.6f} dB:"
        f" written in {'float16' if small else 'float32'}, {output.stat().st_size:,} bytes"
    )


@app.command(cls=RecipeFlags)
def sweep(
    output: Annotated[Path, typer.Option("-o", "--out", help="Folder for the table, the plot and the weights.")],
    recipe: RecipeArgument = "paper",
    data: DataOption = None,
    pairs: PairsOption = None,
    seconds: Annotated[float, typer.Option(help="How long to train each cell.")] = 60,
    steps: Annotated[int | None, typer.Option(help="How long, instead.", show_default="none")] = None,
    threads: ThreadsOption = None,
    override: SetOption = None,
) -> None:
    """Train with every batch and learning rate of the report's Table II, and every width of its Figure 4.

    --pairs are what each is measured on, or else pictures kept from training. A sweep that was stopped goes on
    where it was.

    - `denoise sweep --seconds 30 --out sweep/`

    - `denoise sweep --steps 2000 --data photos/ --pairs val.pkl --hidden 64 --out sweep/`
    """
    from engine import report
    from engine.evaluate import evaluate_pairs, read_pairs
    from engine.recipe import read_recipe

    _use_threads(threads)
    base = read_recipe(recipe, _overrides(override, seconds / 60, steps))

    def measure(weights: Path) -> float:
        assert pairs is not None
        return evaluate_pairs(_load(str(weights), "auto", "auto").net, read_pairs(pairs)).psnr

    with _live_line() as show:
        ended = report.sweep(
            base,
            data or (),
            output,
            measure if pairs else None,
            lambda cell, line: show(f"{cell}  {_describe(line)}"),
            _warn,
        )
    if not ended:
        _warn("stopped: the same command goes on")
        raise typer.Exit(STOPPED)


@app.command(cls=ManyValues)
def demo(
    weights: WeightsArgument,
    pairs: PairsOption = None,
    clean: CleanOption = None,
    sigma: SigmaOption = None,
    count: Annotated[int, typer.Option(min=1, help="How many pictures.")] = 4,
    output: Annotated[Path, typer.Option("-o", "--out", help="The drawing, PNG.")] = Path("demo.png"),
) -> None:
    """Draw pictures clean, noisy and denoised side by side, each with its PSNR.

    - `denoise demo photo --clean pictures/ --sigma 25 --out demo.png`

    - `denoise demo paper --pairs val.pkl --count 6`
    """
    from engine import report

    trials = _trials(pairs, clean, None, sigma or [25])
    shown = [pair for trial in trials for pair in trial.first(count).pairs()]
    report.demo(_load(weights, "auto", "auto").net, shown, output)


@app.command()
def plot(
    logs: Annotated[list[Path], typer.Argument(metavar="LOG", help="Logs of training runs, .jsonl.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--out", help="The drawing, PNG.", show_default="beside the first log")
    ] = None,
) -> None:
    """Draw a training's loss and PSNR; several in one drawing.

    - `denoise plot my.jsonl other.jsonl --out both.png`
    """
    from engine import report

    report.plot_log(logs, output or logs[0].with_suffix(".png"))


@app.command()
def models(
    folder: Annotated[
        Path | None, typer.Option("--weights", help="Folder of weights.", show_default="the shipped ones")
    ] = None,
) -> None:
    """List the weights there are.

    - `denoise models`

    - `denoise models --weights my-weights/`
    """
    from engine.networks import kind_of, parameter_count
    from engine.weights import SUFFIX, load, weights_folder

    table = Table("name", "kind", "parameters", "digest", "PSNR, dB")
    for file in sorted((folder or weights_folder()).glob(f"*{SUFFIX}")):
        model = load(file)
        parameters = f"{parameter_count(model.net):,}"
        psnr = model.metadata.get("psnr", "")
        table.add_row(model.name, kind_of(model.spec), parameters, model.digest[:12], psnr)
    out.print(table)


def _batch(
    inputs: list[Path],
    target: Path,
    format_: str | None,
    force: bool,
    resume: bool,
    order: "Order",
    choice: "Callable[[], tuple[Choose, Model]]",
) -> None:
    """Denoise pictures; where what is done is written down, until a signal comes."""
    from engine import folder
    from engine.journal import Journal
    from engine.stopping import stop_signals

    if resume and not folder.is_folder(target):
        raise typer.BadParameter("takes a folder after -o", param_hint="--resume")
    tasks = folder.plan(inputs, target, force or resume, format_)
    choose, about = choice()
    with ExitStack() as stack:
        journal = stopping = None
        if folder.is_folder(target):
            journal = stack.enter_context(closing(Journal(target, order.wishes(about.digest), resume)))
            stopping = stack.enter_context(stop_signals())
        if journal and resume:
            every, tasks = len(tasks), folder.remaining(tasks, journal, force)
            _warn(f"{every - len(tasks)} of {every} pictures are done already")
        done, failed = _told(folder.denoise_files(choose, tasks, order, journal), len(tasks), stopping)
    if failed:
        _error(f"{failed} of {len(tasks)} pictures not denoised")
    if done < len(tasks):
        _warn(f"stopped; {len(tasks) - done} of {len(tasks)} pictures are left: go on with --resume")
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
                _warn(f"{outcome.task.source}: {outcome.error}")
            elif outcome.changed:
                _warn(f"{outcome.task.source}: {'; '.join(outcome.changed)}")
            if stopping and stopping.is_set():
                break
    return done, failed


def _watch(
    inputs: list[Path],
    target: Path,
    format_: str | None,
    force: bool,
    order: "Order",
    choice: "Callable[[], tuple[Choose, Model]]",
) -> None:
    """Denoise what is in a folder and what arrives, and tell of each, until a signal comes."""
    from engine.folder import PNG
    from engine.journal import Journal
    from engine.stopping import stop_signals
    from engine.watch import Watch, check

    if len(inputs) != 1:
        raise typer.BadParameter("takes one folder", param_hint="--watch")
    check(inputs[0], target)
    choose, about = choice()
    done = failed = 0
    with closing(Journal(target, order.wishes(about.digest), alone=True)) as journal, stop_signals() as stopping:
        watch = Watch(inputs[0], journal, _warn, format_ or PNG, force)
        _warn(f"watching {watch.folder}: Ctrl-C ends it")
        for outcome in watch.outcomes(choose, order, stopping):
            failed += outcome.error is not None
            done += outcome.error is None
            words = outcome.error or "; ".join((str(outcome.task.target), *outcome.changed))
            _warn(f"{outcome.task.source}: {words}")
    _warn(f"stopped: {done} pictures denoised, {failed} not")


def _load(name: str, device: str, precision: str) -> "Model":
    from engine import precision as types
    from engine import weights

    place = types.pick_device(device)
    return weights.load(_weights_file(name), place, types.resolve(precision, place))


def _choice(
    name: str, device: str, precision: str, wrapped: "Callable[[Layer], Layer] | None" = None
) -> "tuple[Choose, Model]":
    """What chooses a picture's network, and what is told of it: for AUTO, names and digests of both."""
    from engine import auto

    names = list(auto.SPECIALISTS.values()) if name == auto.AUTO else [name]
    models = [_load(each, device, precision) for each in names]
    if wrapped:
        models = [replace(model, net=wrapped(model.net)) for model in models]
    if name != auto.AUTO:
        return auto.always(models[0].net), models[0]
    both = replace(models[0], name=name, digest="+".join(model.digest for model in models))
    return auto.among({model.name: model.net for model in models}), both


def _weights_file(name: str) -> Path:
    """Raises ValueError naming the shipped weights if there are none of that name."""
    from engine.weights import SUFFIX, weights_folder

    if name.endswith(SUFFIX):
        return Path(name)
    shipped = {file.stem: file for file in sorted(weights_folder().glob(f"*{SUFFIX}"))}
    if name not in shipped:
        raise ValueError(
            f"no weights {name!r}; there are {', '.join(shipped) or 'none'}, or give a {SUFFIX} file"
        )
    return shipped[name]


def _trials(pairs: Path | None, clean: Path | None, suite: Path | None, sigma: Sequence[float]) -> "list[Trial]":
    """What to measure on. Says which sets the suite's folder lacks."""
    from engine.suite import recorded, trials, white

    if [pairs, clean, suite].count(None) != 2:
        raise typer.BadParameter("give one of the two, or evaluate --suite", param_hint="--pairs / --clean")
    if clean is not None:
        return [white(clean, level) for level in sigma]
    if pairs is not None:
        return [recorded(pairs)]
    assert suite is not None
    found, missing = trials(suite)
    if missing:
        _warn(f"left out, not in {suite}: {', '.join(missing)}")
    return found


def _watched(trial: "Trial") -> "Iterable[Pair]":
    title, total = f"{trial.set}, {trial.noise}", len(trial.samples)
    return track(trial.pairs(), title, total, console=err, transient=True, disable=not err.is_terminal)


def _by_level(found: "Iterable[tuple[Trial, list[Score]]]") -> "dict[float | None, Quality]":
    from engine.evaluate import mean_quality

    return {trial.level: mean_quality(scores) for trial, scores in found}


def _suite_rows(
    model: "Model", quality: How, found: "Iterable[tuple[Trial, list[Score]]]"
) -> list[dict[str, Any]]:
    """A row for each set and noise, with what it was measured with."""
    from engine.evaluate import mean_quality

    about = {"network": model.name, "precision": model.precision, "digest": model.digest, "quality": str(quality)}
    parts = ((name, trial.noise, mean_quality(s)) for trial, scores in found for name, s in trial.parts(scores))
    return [{"set": name, "noise": noise, **asdict(mean), **about} for name, noise, mean in parts]


def _tell_rows(rows: list[dict[str, Any]], model: "Model", as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(rows))
        return
    table = Table("set", "noise", title=_title(model))
    for name in ("pictures", "PSNR noisy", "PSNR", "SSIM", "Mpx/s"):
        table.add_column(name, justify="right")
    for row in rows:
        numbers = (f"{row['noisy_psnr']:.2f}", f"{row['psnr']:.2f}", f"{row['ssim']:.4f}")
        speed = f"{row['megapixels_per_second']:.2f}"
        table.add_row(row["set"], row["noise"], str(row["pictures"]), *numbers, speed)
    out.print(table)


def _write_report(folder: Path, model: "Model", quality: How, sections: "Sequence[Section]") -> None:
    from engine.gallery import write_page

    about = f"Network {model.name}, SHA-256 {model.digest}, products in {model.precision}, quality {quality}."
    write_page(folder / "index.html", f"What {model.name} makes of pictures", about, sections)


def _title(model: "Model") -> str:
    return f"{model.name} {model.digest[:12]} in {model.precision}"


def _to_json(model: "Model", found: "dict[float | None, Quality]") -> dict[str, Any]:
    """One level's numbers stand at the top, those of several under "sigma"."""
    about = {"model": model.name, "digest": model.digest, "precision": model.precision}
    qualities = {f"{level:g}": asdict(quality) for level, quality in found.items() if level is not None}
    if len(qualities) > 1:
        return {**about, "sigma": qualities}
    return {**about, **asdict(next(iter(found.values())))}


def _quality_table(model: "Model", found: "dict[float | None, Quality]") -> Table:
    table = Table(title=_title(model))
    for name in ("sigma", "pictures", "PSNR noisy", "PSNR", "SSIM noisy", "SSIM", "Mpx/s"):
        table.add_column(name, justify="right")
    for level, quality in found.items():
        table.add_row(
            "" if level is None else f"{level:g}",
            str(quality.pictures),
            f"{quality.noisy_psnr:.2f}",
            f"{quality.psnr:.2f}",
            f"{quality.noisy_ssim:.4f}",
            f"{quality.ssim:.4f}",
            f"{quality.megapixels_per_second:.2f}",
        )
    return table


def _overrides(pairs: Sequence[str] | None, minutes: float | None, steps: int | None) -> dict[str, str]:
    """The recipe's values that the command line gives. What comes last wins; steps go before minutes."""
    values = {}
    for pair in pairs or ():
        key, equals, value = pair.partition("=")
        if not equals:
            raise typer.BadParameter(f"takes KEY=VALUE; got {pair!r}", param_hint="--set")
        values[key] = value
    if minutes is not None:
        values |= {"minutes": str(minutes), "steps": "0"}
    if steps is not None:
        values["steps"] = str(steps)
    return values


def _use_threads(threads: int | None) -> None:
    import torch

    if threads:
        torch.set_num_threads(threads)


def _describe(line: "Line") -> str:
    psnr = "" if line.psnr is None else f"  PSNR {line.psnr:.2f} dB"
    left = timedelta(seconds=round(line.seconds_left))
    speed = f"{line.megapixels_per_second:.2f} Mpx/s"
    return f"step {line.step}  {speed}  loss {line.loss:.5f}{psnr}  {left} left"


@contextmanager
def _live_line() -> Iterator[Callable[[str], None]]:
    """A line that is written over in a terminal; elsewhere, line after line."""
    if not err.is_terminal:
        yield _warn
        return
    with Live(console=err, auto_refresh=False) as live:
        yield lambda text: live.update(text, refresh=True)


def _error(text: str) -> None:
    told = escape(" ".join(text.split()))
    err.print(f"[red]error:[/red] {told}", soft_wrap=True, highlight=False)


def _warn(text: str) -> None:
    err.print(text, markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
