"""`denoise train` trains a network. `denoise sweep` trains one for every setting in the report's tables."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.live import Live

from engine import defaults
from service.cli.console import STOPPED, WRONG_USAGE, err, error, warn, warn_without_kernels
from service.cli.options import DeviceOption, PairsOption, out_option, output_folder
from service.cli.train_workers import run_workers
from service.cli.weights import load

if TYPE_CHECKING:
    from engine.training.log import LogLine
    from engine.training.training_job import TrainingJob

RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="Name of a shipped recipe, or a .toml file.")
]
DataOption = Annotated[
    list[Path] | None,
    typer.Option(
        help="Folder of photos, to which noise is added, or .pkl file of noisy pairs.",
        show_default="synthetic images",
    ),
]
KindOption = Annotated[
    str,
    typer.Option(
        "--as",
        metavar="KIND",
        help="What the data are: photos, or auto, which refuses shots of the same scene: see denoise adapt.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a value of the recipe. --KEY VALUE does the same."),
]
MinutesOption = Annotated[
    float | None, typer.Option(help="Training time in minutes.", show_default="the recipe's")
]
StartOption = Annotated[
    str | None,
    typer.Option(
        help="Weights to start from: a shipped name or a .safetensors file. A smaller network grows to the "
        "recipe's size; any other keeps its own.",
        show_default=False,
    ),
]
StepsOption = Annotated[
    int | None, typer.Option(help="Train for this number of steps instead.", show_default="none")
]
WorkersOption = Annotated[
    int, typer.Option(min=1, help="Processes that share each batch. The threads are divided between them.")
]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="Processor threads.", show_default="one per core")]


def train(
    recipe: RecipeArgument,
    output: Annotated[Path, out_option("Weights file to write, .safetensors.")],
    data: DataOption = None,
    kind: KindOption = "auto",
    minutes: MinutesOption = None,
    steps: StepsOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the checkpoint beside OUT.")] = False,
    start: StartOption = None,
    terms: Annotated[str, typer.Option(help="Licence of the data, stored with the weights.")] = "not stated",
    device: DeviceOption = defaults.DEVICE,
    threads: ThreadsOption = None,
    workers: WorkersOption = 1,
    override: SetOption = None,
) -> None:
    """Train a network on photos or synthetic images, with noise that is drawn. For your own noise: denoise adapt.

    Ctrl-C saves everything, and --resume continues.

    Shows what it will do and which gain to expect, then the PSNR on held-out images and its gain over the noisy
    ones: at once, after 10 s, and at each doubling of the time, later each minute.

    Every value of the recipe is also a flag.

    Exit codes: 0 at the end, 1 for an error, 2 for wrong usage, 130 if Ctrl-C or SIGTERM stopped it.

    - `denoise train paper --minutes 10 --out my.safetensors`

    - `denoise train photo-small --data photos/ --minutes 120 --batch 16 --out my.safetensors`

    - `denoise train paper --data pairs.pkl --steps 20000 --lr 0.4 --out my.safetensors`
    """
    from engine.models.checkpoint import find
    from engine.training.recipe import SIZE_KEYS, read_recipe
    from engine.training.training_job import TrainingJob
    from engine.training.workers import count, job_name, rank

    every = 1.0 if err.is_terminal else 10.0
    values = _overrides(override, minutes, steps)
    training = TrainingJob(
        read_recipe(recipe, values),
        output,
        data or (),
        terms,
        resume,
        device,
        find(start) if start else None,
        fixed_size=any(key in values for key in SIZE_KEYS),
        log_every=every,
        name=job_name(),
    )
    if not training.continues:
        _refuse_shots(kind, training.data, output, minutes, steps, start)
    if not _train(training, threads, workers):
        if not rank():
            warn("stopped, and everything is saved. Use --resume to continue.")
        # torchrun would take another exit code for a failure, and start the workers again.
        raise typer.Exit(STOPPED if count() == 1 else 0)
    if not rank():
        warn(f"done: wrote {output}. To use it: denoise run --model {output} IMAGE")


def _refuse_shots(
    kind: str,
    data: Sequence[Path],
    output: Path,
    minutes: float | None = None,
    steps: int | None = None,
    start: str | None = None,
) -> None:
    """End with the command that learns from shots, if the data are shots."""
    from engine.adaptation.recognise import ShotsFound, refuse_shots
    from engine.training.workers import rank

    if kind not in ("auto", "photos"):
        raise typer.BadParameter(f"{kind!r} is none of auto, photos", param_hint="--as")
    if kind == "photos":
        return
    given = {"--minutes": minutes, "--steps": steps, "--start": start}
    options = [word for name, value in given.items() if value is not None for word in (name, _text(value))]
    try:
        refuse_shots(data, output, options)
    except ShotsFound as mistake:
        if not rank():
            error(str(mistake))
        raise typer.Exit(WRONG_USAGE) from mistake


def _text(value: str | float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _train(training: "TrainingJob", threads: int | None, workers: int) -> bool:
    """Show the plan, then train. Returns whether the end was reached."""
    import torch

    from engine.training import workers as groups
    from engine.training.plan import plan_lines

    if groups.count() > 1:
        if workers > 1:
            raise ValueError("torchrun has started the workers already; leave out --workers")
        return _train_in_this_process(threads or groups.threads(), training)
    _use_threads(threads)
    warn_without_kernels()
    # Checked first: a plan would hide the error.
    training.check()
    for line in plan_lines(training):
        warn(line)
    share = max(1, torch.get_num_threads() // workers)
    if workers > 1:
        warn(f"workers: {workers} processes, each with {share} thread{'s' * (share > 1)}, share every batch")
    warn("preparing the data; the first step follows")
    if workers == 1:
        return _train_in_this_process(None, training)
    return run_workers(workers, partial(_train_in_this_process, share, training))


def _train_in_this_process(threads: int | None, training: "TrainingJob") -> bool:
    """As the only worker, or as one of several. Only the first one reports."""
    from engine.training import trainer

    _use_threads(threads)
    with _live_line() as show:
        return trainer.run(training, lambda line: show(_describe(line)), warn)


def sweep(
    output: Annotated[Path, out_option("Folder for the table, the plot and the weights.", output_folder)],
    recipe: RecipeArgument = "paper",
    data: DataOption = None,
    kind: KindOption = "auto",
    pairs: PairsOption = None,
    seconds: Annotated[float, typer.Option(help="Training time of each network, in seconds.")] = 60,
    steps: StepsOption = None,
    threads: ThreadsOption = None,
    override: SetOption = None,
) -> None:
    """Train a network for each batch size and learning rate of the report's Table II, and each width of Figure 4.

    Each network is measured on --pairs, or without them on images held out from training. If a sweep was
    stopped, the same command continues it.

    - `denoise sweep --seconds 30 --out sweep/`

    - `denoise sweep --steps 2000 --data photos/ --pairs val.pkl --hidden 64 --out sweep/`
    """
    from engine.evaluation import sweep as sweeps
    from engine.evaluation.evaluate import evaluate_pairs
    from engine.evaluation.samples import recorded_samples
    from engine.training.recipe import read_recipe

    _use_threads(threads)
    base = read_recipe(recipe, _overrides(override, seconds / 60, steps))
    _refuse_shots(kind, data or (), Path("own.safetensors"))
    # Before the training, at whose end they are needed.
    samples = recorded_samples(pairs) if pairs else []
    warn_without_kernels()

    def measure(weights: Path) -> float:
        net = load(str(weights), defaults.DEVICE, defaults.PRECISION).net
        return evaluate_pairs(net, (sample.open() for sample in samples)).psnr

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
        warn("stopped. Run the same command to continue.")
        raise typer.Exit(STOPPED)


def _overrides(pairs: Sequence[str] | None, minutes: float | None, steps: int | None) -> dict[str, str]:
    """The values of the recipe that the command line sets. The last one wins, and --steps overrides --minutes."""
    values = {}
    for pair in pairs or ():
        key, equals, value = pair.partition("=")
        if not equals:
            raise typer.BadParameter(f"expected KEY=VALUE, got {pair!r}", param_hint="--set")
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
    psnr = ""
    if line.psnr is not None and line.noisy_psnr is not None:
        gain = line.psnr - line.noisy_psnr
        psnr = f"  held-out PSNR {line.psnr:.2f} dB ({gain:+.2f} over the noisy input's {line.noisy_psnr:.2f})"
    left = timedelta(seconds=round(line.seconds_left))
    speed = f"{line.megapixels_per_second:.2f} Mpx/s"
    data = f"  on {line.data}" if line.data else ""
    return f"step {line.step}  {speed}  loss {line.loss:.5f}{psnr}  {left} left{data}"


@contextmanager
def _live_line() -> Iterator[Callable[[str], None]]:
    """Prints progress: one line that is updated in a terminal, and line after line elsewhere."""
    if not err.is_terminal:
        yield warn
        return
    with Live(console=err, auto_refresh=False) as live:
        yield lambda text: live.update(text, refresh=True)
