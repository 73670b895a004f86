"""Plots of training logs. Needs matplotlib, which the extra `train` installs."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.system.atomic_file import write_atomically
from engine.training.log import read_log

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The running mean of the loss keeps this part of its value at each line.
SMOOTHING = 0.9


class NoPlots(ValueError):
    """matplotlib is not installed."""


def plot_logs(logs: Sequence[Path], out: Path) -> None:
    """Loss and PSNR of training runs, from their .jsonl logs, as PNG.

    Raises ValueError naming a file that is not a log, or NoPlots.
    """
    figure, (loss, psnr) = new_figure(2)
    for log in logs:
        lines = read_log(log)
        if not lines:
            raise ValueError(f"{log}: the log has no lines yet")
        add_curves(loss, psnr, [line["megapixels"] for line in lines], lines, log.stem)
    label_axes(loss, psnr, "megapixels seen")
    save_figure(figure, out)


def require_matplotlib() -> None:
    """For work that takes long before it plots. Raises NoPlots."""
    new_figure(1)


def new_figure(cols: int, rows: int = 1, side: float = 5.0) -> "tuple[Figure, list[Axes]]":
    """A figure and its axes, row by row; side: of each, in inches. Raises NoPlots."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise NoPlots("plots need matplotlib: pip install 'denoise[train]'") from error
    # Not pyplot: it keeps global state and looks for a screen.
    figure = Figure(figsize=(cols * side, rows * side), layout="constrained")
    return figure, list(figure.subplots(rows, cols, squeeze=False).flat)


def save_figure(figure: "Figure", out: Path) -> None:
    """Write the figure as PNG, whole or not at all."""
    data = io.BytesIO()
    figure.savefig(data, format="png")
    write_atomically(out, data.getvalue())


def add_curves(
    loss: "Axes", psnr: "Axes", x: Sequence[float], lines: Sequence[Mapping[str, Any]], name: str
) -> None:
    """The curves of one run. x: of each line of its log."""
    loss.plot(x, _running_mean([line["loss"] for line in lines]), label=name)
    measured = [(position, line["psnr"]) for position, line in zip(x, lines, strict=True) if "psnr" in line]
    psnr.plot(*zip(*measured, strict=True) if measured else ([], []), marker=".", label=name)


def label_axes(loss: "Axes", psnr: "Axes", unit: str) -> None:
    """Labels, grids and legends; unit: of the x axis."""
    loss.set(xlabel=unit, ylabel="loss", yscale="log")
    psnr.set(xlabel=unit, ylabel="PSNR, dB")
    for axes in (loss, psnr):
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()


def _running_mean(values: Sequence[float]) -> list[float]:
    """Smoothed values: the loss varies much from batch to batch."""
    mean, weight, smoothed = 0.0, 0.0, []
    for value in values:
        mean = SMOOTHING * mean + (1 - SMOOTHING) * value
        weight = SMOOTHING * weight + (1 - SMOOTHING)
        smoothed.append(mean / weight)
    return smoothed
