"""The command `denoise`: each subcommand a few lines that call the engine or start the service."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress import Progress, track
from rich.table import Table

from service.flags import ManyValues, RecipeFlags, with_settings
from service.settings import Settings

# Whatever needs torch is imported by the commands that use it, so that --help and mistakes are answered at once.
if TYPE_CHECKING:
    from engine.evaluate import Pair, Quality
    from engine.job import Line
    from engine.weights import Model

STOPPED = 130
MEMORY_BUDGET: int = Settings.model_fields["memory_budget"].default
PNG_LEVEL: int = Settings.model_fields["png_level"].default

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Takes the noise out of pictures, and trains the networks that do it.",
)
out = Console()
err = Console(stderr=True)


def main(args: Sequence[str] | None = None) -> None:
    """The entry point. A mistake of the user's is one line on stderr: exit code 1, or 2 if the usage is wrong."""
    try:
        app(args, prog_name="denoise")
    except (ValueError, OSError) as error:
        told = escape(" ".join(str(error).split()))
        err.print(f"[red]error:[/red] {told}", soft_wrap=True, highlight=False)
        sys.exit(1)


ModelOption = Annotated[str, typer.Option(help="Name of shipped weights, or path of a .safetensors file.")]
WeightsArgument = Annotated[
    str, typer.Argument(metavar="WEIGHTS", help="Path of a .safetensors file, or name of shipped weights.")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
PrecisionOption = Annotated[str, typer.Option(help="auto (what is faster here), float32 or bfloat16.")]
BudgetOption = Annotated[int, typer.Option(min=1, help="Memory for a picture on its way through, in bytes.")]
LevelOption = Annotated[int, typer.Option(min=0, max=9, help=Settings.model_fields["png_level"].description)]
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
    inputs: Annotated[
        list[Path], typer.Argument(metavar="IN", help="Pictures, folders of them, or - for stdin.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="OUT", help="Folder; for one picture a .png file, or - for stdout."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over files that are there.")] = False,
    model: ModelOption = "photo",
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    memory_budget: BudgetOption = MEMORY_BUDGET,
    png_level: LevelOption = PNG_LEVEL,
) -> None:
    """Denoise pictures: files, folders, or what comes through a pipe.

    They keep their names, and are written as PNG. A broken one is reported, and the rest go on.

    - `denoise run noisy.jpg -o clean.png`

    - `denoise run scans/ photo.tif -o clean/`

    - `cat noisy.jpg | denoise run - > clean.png`
    """
    from engine import folder

    if output is None and inputs != [folder.PIPE]:
        raise typer.BadParameter("say where to", param_hint="-o")
    target = output or folder.PIPE
    if target == folder.PIPE and sys.stdout.isatty():
        raise typer.BadParameter("a picture is no text for a terminal: redirect it, or use -o")
    tasks = folder.plan(inputs, target, force)
    net = _load(model, device, precision).net
    failed = 0
    with Progress(console=err, disable=not err.is_terminal) as progress:
        bar = progress.add_task("denoising", total=len(tasks))
        for outcome in folder.denoise_files(net, tasks, memory_budget, png_level):
            progress.advance(bar)
            if outcome.error:
                failed += 1
                _warn(f"{outcome.task.source}: {outcome.error}")
    if failed:
        raise ValueError(f"{failed} of {len(tasks)} pictures not denoised")


@app.command()
@with_settings
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 is any that is free.")] = 8000,
    **given: Any,
) -> None:
    """Answer over HTTP, and with a page for people at /.

    - `denoise serve`

    - `denoise serve --host 0.0.0.0 --port 9000 --weights my-weights/ --model mine`
    """
    try:
        settings = Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        faults = (f"{fault['loc'][0]}: {fault['msg']}" for fault in error.errors())
        raise ValueError("; ".join(faults)) from error

    import uvicorn

    from service.app import create_app

    uvicorn.run(create_app(settings), host=host, port=port, server_header=False)


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
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many.", show_default="all")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")] = False,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    memory_budget: BudgetOption = MEMORY_BUDGET,
) -> None:
    """Measure weights on pictures: PSNR, SSIM and speed.

    - `denoise evaluate photo --clean pictures/ --sigma 15 25 50`

    - `denoise evaluate my.safetensors --pairs val.pkl --json`
    """
    from engine.evaluate import evaluate_pairs

    opened = _open_pairs(pairs, clean, sigma or [15, 25, 50], limit)
    model = _load(weights, device, precision)
    found = {
        level: evaluate_pairs(model.net, _watched(measured, level), memory_budget) for level, measured in opened
    }
    if as_json:
        typer.echo(json.dumps(_to_json(model, found)))
    else:
        out.print(_quality_table(model, found))


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

    shown = [pair for _, opened in _open_pairs(pairs, clean, sigma or [25], count) for pair in opened]
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


def _load(name: str, device: str, precision: str) -> "Model":
    from engine import precision as types
    from engine import weights

    place = types.pick_device(device)
    return weights.load(_weights_file(name), place, types.resolve(precision, place))


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


def _open_pairs(
    pairs: Path | None, clean: Path | None, sigma: Sequence[float], limit: int | None
) -> "list[tuple[float | None, Iterable[Pair]]]":
    """What to measure on, and the noise's level beside it, which is None for recorded pairs."""
    from engine.evaluate import gaussian_pairs, read_pairs

    if (pairs is None) == (clean is None):
        raise typer.BadParameter("give one of the two", param_hint="--pairs / --clean")
    if clean is not None:
        return [(level, gaussian_pairs(clean, level, limit)) for level in sigma]
    assert pairs is not None
    return [(None, islice(read_pairs(pairs), limit))]


def _watched(pairs: "Iterable[Pair]", level: float | None) -> "Iterable[Pair]":
    title = "measuring" if level is None else f"sigma {level:g}"
    return track(pairs, title, console=err, transient=True, disable=not err.is_terminal)


def _to_json(model: "Model", found: "dict[float | None, Quality]") -> dict[str, Any]:
    """One level's numbers stand at the top, those of several under "sigma"."""
    about = {"model": model.name, "digest": model.digest, "precision": model.precision}
    qualities = {f"{level:g}": asdict(quality) for level, quality in found.items() if level is not None}
    if len(qualities) > 1:
        return {**about, "sigma": qualities}
    return {**about, **asdict(next(iter(found.values())))}


def _quality_table(model: "Model", found: "dict[float | None, Quality]") -> Table:
    table = Table(title=f"{model.name} {model.digest[:12]} in {model.precision}")
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


def _warn(text: str) -> None:
    err.print(text, markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
