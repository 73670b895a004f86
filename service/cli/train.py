"""The commands that train: one network, a table of them; and what their logs say."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.live import Live

from service.cli.console import STOPPED, err, warn, warn_without_kernels
from service.cli.evaluate import PairsOption
from service.cli.weights import DeviceOption, load

if TYPE_CHECKING:
    from engine.training.log import LogLine

RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="Name of a shipped recipe, or path of a .toml file.")
]
DataOption = Annotated[
    list[Path] | None,
    typer.Option(help="Folder of photos or of noisy pairs, or .pkl of pairs.", show_default="synthetic images"),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe's value; so does --KEY VALUE."),
]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="Processor threads.", show_default="one a core")]


def train(
    recipe: RecipeArgument,
    output: Annotated[Path, typer.Option("-o", "--out", help="The weights, a .safetensors file.")],
    data: DataOption = None,
    minutes: Annotated[float | None, typer.Option(help="How long to train.", show_default="the recipe's")] = None,
    steps: Annotated[int | None, typer.Option(help="How long to train, instead.", show_default="none")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint beside OUT.")] = False,
    start: Annotated[
        Path | None, typer.Option("--start", help="Weights to begin from; a smaller network grows.")
    ] = None,
    terms: Annotated[str, typer.Option(help="The data's licence, to be told with the weights.")] = "not stated",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    override: SetOption = None,
) -> None:
    """Train a network from noisy images alone. Ctrl-C loses nothing: go on with --resume.

    Every value of the recipe is a flag too.

    - `denoise train paper --minutes 10 --out my.safetensors`

    - `denoise train photo-small --data photos/ --minutes 120 --batch 16 --out my.safetensors`

    - `denoise train paper --data pairs.pkl --steps 20000 --lr 0.4 --out my.safetensors`
    """
    from engine.training import trainer
    from engine.training.recipe import read_recipe

    _use_threads(threads)
    values = _overrides(override, minutes, steps)
    every = 1.0 if err.is_terminal else 10.0
    chosen = read_recipe(recipe, values)
    warn_without_kernels()
    training = trainer.TrainingJob(chosen, output, data or (), terms, resume, device, start, log_every=every)
    with _live_line() as show:
        ended = trainer.run(training, lambda line: show(_describe(line)), warn)
    if not ended:
        warn("stopped; everything is saved: go on with --resume")
        raise typer.Exit(STOPPED)


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

    --pairs are what each is measured on, or else images kept from training. A sweep that was stopped goes on
    where it was.

    - `denoise sweep --seconds 30 --out sweep/`

    - `denoise sweep --steps 2000 --data photos/ --pairs val.pkl --hidden 64 --out sweep/`
    """
    from engine.evaluation import sweep as sweeps
    from engine.evaluation.evaluate import evaluate_pairs
    from engine.evaluation.samples import recorded_pairs
    from engine.training.recipe import read_recipe

    _use_threads(threads)
    base = read_recipe(recipe, _overrides(override, seconds / 60, steps))
    warn_without_kernels()

    def measure(weights: Path) -> float:
        assert pairs is not None
        return evaluate_pairs(load(str(weights), "auto", "auto").net, recorded_pairs(pairs)).psnr

    with _live_line() as show:
        ended = sweeps.sweep(
            base,
            data or (),
            output,
            measure if pairs else None,
            lambda cell, line: show(f"{cell}  {_describe(line)}"),
            warn,
        )
    if not ended:
        warn("stopped: the same command goes on")
        raise typer.Exit(STOPPED)


def plot(
    logs: Annotated[list[Path], typer.Argument(metavar="LOG", help="Logs of training runs, .jsonl.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--out", help="The drawing, PNG.", show_default="beside the first log")
    ] = None,
) -> None:
    """Draw a training's loss and PSNR; several in one drawing.

    - `denoise plot my.jsonl other.jsonl --out both.png`
    """
    from engine.training.plots import plot_logs

    plot_logs(logs, output or logs[0].with_suffix(".png"))


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


def _describe(line: "LogLine") -> str:
    psnr = "" if line.psnr is None else f"  PSNR {line.psnr:.2f} dB"
    left = timedelta(seconds=round(line.seconds_left))
    speed = f"{line.megapixels_per_second:.2f} Mpx/s"
    return f"step {line.step}  {speed}  loss {line.loss:.5f}{psnr}  {left} left"


@contextmanager
def _live_line() -> Iterator[Callable[[str], None]]:
    """A line that is written over in a terminal; elsewhere, line after line."""
    if not err.is_terminal:
        yield warn
        return
    with Live(console=err, auto_refresh=False) as live:
        yield lambda text: live.update(text, refresh=True)
