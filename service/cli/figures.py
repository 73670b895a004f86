"""Commands that draw: `denoise demo` shows denoised images, and `denoise plot` shows training logs."""

from pathlib import Path
from typing import Annotated

import typer

from engine import defaults
from service.cli.console import warn_without_kernels
from service.cli.evaluate import refuse_other_than_one, trials
from service.cli.options import SIGMA_HELP, CleanOption, PairsOption, WeightsArgument, out_option
from service.cli.weights import load


def demo(
    weights: WeightsArgument,
    pairs: PairsOption = None,
    clean: CleanOption = None,
    sigma: Annotated[list[float] | None, typer.Option(help=SIGMA_HELP, show_default="25")] = None,
    count: Annotated[int, typer.Option(min=1, help="Number of images.")] = 4,
    output: Annotated[Path, out_option("PNG file to write.")] = Path("demo.png"),
) -> None:
    """Draw images clean, noisy and denoised side by side, each with its PSNR.

    - `denoise demo photo --clean images/ --sigma 25 --out demo.png`

    - `denoise demo paper --pairs val.pkl --count 6`
    """
    from engine.evaluation import figures
    from engine.training.plots import require_matplotlib

    refuse_other_than_one(pairs, clean)
    require_matplotlib()
    warn_without_kernels()
    # Before the images, which take longer to read.
    net = load(weights, defaults.DEVICE, defaults.PRECISION).net
    shown = [pair for trial in trials(pairs, clean, sigma or [25]) for pair in trial.first(count).pairs()]
    figures.demo(net, shown, output)


def plot(
    logs: Annotated[list[Path], typer.Argument(metavar="LOG", help="Training logs, .jsonl.")],
    output: Annotated[
        Path | None,
        out_option("PNG file to write.", show_default="beside the first log"),
    ] = None,
) -> None:
    """Plot the loss and the PSNR of training runs in one figure.

    - `denoise plot my.jsonl other.jsonl --out both.png`
    """
    from engine.training.plots import plot_logs

    plot_logs(logs, output or logs[0].with_suffix(".png"))
