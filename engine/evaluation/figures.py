"""What people look at: curves of a training run, the sweep over learning rates and sizes, and the demo.

Needs matplotlib, which the extra `train` installs.
"""

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from engine.evaluation.evaluate import Pair, psnr
from engine.inference.denoise import denoise_image
from engine.layers import Layer
from engine.system.atomic_file import write_atomically
from engine.training import trainer
from engine.training.log import LogLine
from engine.training.loop import Diverged
from engine.training.recipe import Recipe

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# What the report tries: its Table II and its Figure 4.
BATCHES, RATES, WIDTHS = (8, 16, 32, 64), (0.1, 0.2, 0.4, 0.8), (32, 64, 128, 256)
# Pairs in the report's training set: what its epochs count.
EPOCH = 50_000
# Points on the curves of a cell.
POINTS = 20


class NoPlots(ValueError):
    """matplotlib is not installed."""


@dataclass(frozen=True)
class Cell:
    """One training of the sweep. lines: its log; psnr: in dB at its end, None if it diverged."""

    recipe: Recipe
    lines: Sequence[Mapping[str, Any]]
    psnr: float | None

    @property
    def epochs(self) -> float:
        """How often as many pairs as the report has were seen."""
        return float(self.lines[-1]["step"] * self.recipe.batch / EPOCH) if self.lines else 0.0


def plot_log(logs: Sequence[Path], out: Path) -> None:
    """Loss and PSNR of training runs, from their .jsonl logs, as PNG.

    Raises ValueError naming a file that is no such log, or NoPlots.
    """
    figure, (loss, decibel) = _figure(2)
    for log in logs:
        lines = read_log(log)
        if not lines:
            raise ValueError(f"{log}: the log has no lines yet")
        _curves(loss, decibel, [line["megapixels"] for line in lines], lines, log.stem)
    _label(loss, decibel, "megapixels seen")
    _save(figure, out)


def read_log(log: Path) -> list[dict[str, Any]]:
    """The lines of a training's log. Raises ValueError naming the file and the line that is none."""
    lines = []
    try:
        for number, text in enumerate(log.read_text().splitlines(), 1):
            line = json.loads(text)
            if not (isinstance(line, dict) and {"step", "loss", "megapixels"} <= line.keys()):
                raise ValueError(f"{log}: line {number} is no line of a training's log")
            lines.append(line)
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{log}: not a training's log: {error}") from error
    return lines


def cells(base: Recipe) -> list[Recipe]:
    """The recipes of the sweep: Table II, then what Figure 4 has besides."""
    table = [replace(base, batch=batch, lr=lr) for batch in BATCHES for lr in RATES]
    return table + [recipe for recipe in _widths(base) if recipe not in table]


def sweep(
    base: Recipe,
    data: Sequence[Path],
    out: Path,
    measure: Callable[[Path], float] | None,
    report: Callable[[str, LogLine], None],
    warn: Callable[[str], None],
) -> bool:
    """Train every cell for the time or the steps of the base recipe; write sweep.md and sweep.png into `out`.

    Both are written anew after each cell, and a sweep that was stopped goes on where it was. measure: PSNR in
    dB of a weights file; without it, that of the training's own held-out images counts. report: called with
    the cell's name and each line of its log. Returns whether the end was reached, as job.run does.
    """
    recipes, done = cells(base), list[Cell]()
    for number, recipe in enumerate(recipes, 1):
        name = cell_name(recipe)
        run = trainer.TrainingJob(
            recipe, out / f"{name}.safetensors", data, validate_every=_validate_every(recipe)
        )
        run = replace(run, resume=run.checkpoint.exists())
        title = f"{number}/{len(recipes)} {name}"
        try:
            if not trainer.run(run, partial(report, title), warn):
                return False
            result = _last_psnr(run.log) if measure is None else measure(run.out)
        except Diverged as error:
            warn(f"{title}: {error}")
            result = None
        done.append(Cell(recipe, read_log(run.log), result))
        write_atomically(out / "sweep.md", sweep_table(base, done).encode())
        sweep_plot(base, done, out / "sweep.png")
    return True


def cell_name(recipe: Recipe) -> str:
    """What the files of a cell are called."""
    return f"batch{recipe.batch}-lr{recipe.lr:g}-hidden{recipe.hidden}"


def sweep_table(base: Recipe, done: Sequence[Cell]) -> str:
    """Table II and the ends of Figure 4's curves, in Markdown."""
    found = {cell.recipe: cell for cell in done}
    budget = f"{base.steps} steps" if base.steps else f"{60 * base.minutes:g} s"
    lines = [f"PSNR in dB after {budget} a cell; in brackets, epochs of {EPOCH} pairs.", ""]
    lines += _row(f"batch, hidden {base.hidden}", *(f"lr {lr:g}" for lr in RATES))
    lines += ["| --- " * (1 + len(RATES)) + "|"]
    for batch in BATCHES:
        row = (found.get(replace(base, batch=batch, lr=lr)) for lr in RATES)
        lines += _row(str(batch), *map(_entry, row))
    lines += ["", *_row(f"hidden, batch {base.batch}", f"lr {base.lr:g}"), "| --- | --- |"]
    for recipe in _widths(base):
        lines += _row(str(recipe.hidden), _entry(found.get(recipe)))
    return "\n".join(lines) + "\n"


def sweep_plot(base: Recipe, done: Sequence[Cell], out: Path) -> None:
    """Figure 4: loss and PSNR by epoch, a curve for each width."""
    figure, (loss, decibel) = _figure(2)
    found = {cell.recipe: cell for cell in done}
    for cell in filter(None, map(found.get, _widths(base))):
        epochs = [line["step"] * cell.recipe.batch / EPOCH for line in cell.lines]
        _curves(loss, decibel, epochs, cell.lines, f"hidden {cell.recipe.hidden}")
    _label(loss, decibel, f"epochs of {EPOCH} pairs")
    _save(figure, out)


def demo(net: Layer, pairs: Sequence[Pair], out: Path) -> None:
    """Figure 3: a row for each (noisy, clean) pair, float (H, W, 3): clean, noisy, denoised, with their PSNR."""
    if not pairs:
        raise ValueError("there are no pairs to show")
    figure, axes = _figure(3, len(pairs), side=3.0)
    for number, (noisy, clean) in enumerate(pairs):
        denoised = denoise_image(net, noisy).clamp(0, 1)
        row = axes[3 * number : 3 * number + 3]
        _show(row[0], clean, "clean")
        _show(row[1], noisy.clamp(0, 1), f"noisy, {psnr(noisy, clean):.2f} dB")
        _show(row[2], denoised, f"denoised, {psnr(denoised, clean):.2f} dB")
    _save(figure, out)


def _widths(base: Recipe) -> Iterator[Recipe]:
    return (replace(base, hidden=hidden) for hidden in WIDTHS)


def _validate_every(recipe: Recipe) -> float:
    """Seconds. A run counted in steps may last any time: a second costs it little."""
    return 1.0 if recipe.steps else 60 * recipe.minutes / POINTS


def _last_psnr(log: Path) -> float:
    return float(next(line["psnr"] for line in reversed(read_log(log)) if "psnr" in line))


def _row(*entries: str) -> list[str]:
    return [f"| {' | '.join(entries)} |"]


def _entry(cell: Cell | None) -> str:
    if cell is None:
        return ""
    return "diverged" if cell.psnr is None else f"{cell.psnr:.2f} ({cell.epochs:.2g})"


def _curves(
    loss: "Axes", decibel: "Axes", places: Sequence[float], lines: Sequence[Mapping[str, Any]], name: str
) -> None:
    loss.plot(places, _smooth([line["loss"] for line in lines]), label=name)
    measured = [(place, line["psnr"]) for place, line in zip(places, lines, strict=True) if "psnr" in line]
    decibel.plot(*zip(*measured, strict=True) if measured else ([], []), marker=".", label=name)


def _smooth(values: Sequence[float], keep: float = 0.9) -> list[float]:
    """A running mean: single batches jump about."""
    mean, weight, smoothed = 0.0, 0.0, []
    for value in values:
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        smoothed.append(mean / weight)
    return smoothed


def _label(loss: "Axes", decibel: "Axes", unit: str) -> None:
    loss.set(xlabel=unit, ylabel="loss", yscale="log")
    decibel.set(xlabel=unit, ylabel="PSNR, dB")
    for axes in (loss, decibel):
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()


def _show(axes: "Axes", image: Tensor, title: str) -> None:
    axes.imshow(image.numpy(), interpolation="nearest")
    axes.set_title(title, fontsize=10)
    axes.set_axis_off()


def _figure(cols: int, rows: int = 1, side: float = 5.0) -> "tuple[Figure, list[Axes]]":
    """A figure and its axes, row after row; side: inches. Raises NoPlots."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise NoPlots("plots need matplotlib: pip install 'denoise[train]'") from error
    # Not pyplot: it keeps figures in a state of its own and looks for a screen.
    figure = Figure(figsize=(cols * side, rows * side), layout="constrained")
    return figure, list(figure.subplots(rows, cols, squeeze=False).flat)


def _save(figure: "Figure", out: Path) -> None:
    data = io.BytesIO()
    figure.savefig(data, format="png")
    write_atomically(out, data.getvalue())
