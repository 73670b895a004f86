"""Sweep: the report's Table II and Figure 4, trained anew: batches, learning rates and widths."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from engine.system.atomic_file import write_atomically
from engine.training import trainer
from engine.training.log import LogLine, read_log
from engine.training.loop import Diverged
from engine.training.plots import add_curves, label_axes, new_figure, require_matplotlib, save_figure
from engine.training.recipe import Recipe
from engine.training.training_job import TrainingJob

# The batches of the report's Table II, in patches.
BATCHES = (8, 16, 32, 64)
# The learning rates of its Table II.
RATES = (0.1, 0.2, 0.4, 0.8)
# The hidden channels of its Figure 4.
WIDTHS = (32, 64, 128, 256)
# Pairs in the report's training set: one of its epochs.
EPOCH = 50_000
# Points on a cell's PSNR curve.
POINTS = 20


@dataclass(frozen=True)
class Cell:
    """One training of the sweep. lines: its log; psnr: in dB at its end, NaN if unknown, None if it diverged."""

    recipe: Recipe
    lines: Sequence[Mapping[str, Any]]
    psnr: float | None

    @property
    def epochs(self) -> float:
        """The pairs seen so far, counted in epochs of the report."""
        return float(self.lines[-1]["step"] * self.recipe.batch / EPOCH) if self.lines else 0.0


def cell_recipes(base: Recipe) -> list[Recipe]:
    """The recipes of the sweep: those of Table II, then those that only Figure 4 has."""
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

    Both files are updated after each cell. A sweep that was stopped continues where it was. measure: the PSNR in
    dB of a weights file; without it, the PSNR on the training's own held-out images is used. report: called with
    the cell's name and each line of its log. Returns whether the end was reached. Raises NoPlots, and what
    trainer.run raises.
    """
    require_matplotlib()
    recipes, done = cell_recipes(base), list[Cell]()
    for number, recipe in enumerate(recipes, 1):
        name = cell_name(recipe)
        job = TrainingJob(recipe, out / f"{name}.safetensors", data, validate_every=_validate_every(recipe))
        job = replace(job, resume=job.checkpoint.exists())
        title = f"{number}/{len(recipes)} {name}"
        try:
            if not trainer.run(job, partial(report, title), warn):
                return False
            psnr = _last_psnr(job.log) if measure is None else measure(job.out)
        except Diverged as error:
            warn(f"{title}: {error}")
            psnr = None
        done.append(Cell(recipe, read_log(job.log), psnr))
        write_atomically(out / "sweep.md", sweep_table(base, done).encode())
        sweep_plot(base, done, out / "sweep.png")
    return True


def cell_name(recipe: Recipe) -> str:
    """The name of a cell's files, without a suffix."""
    return f"batch{recipe.batch}-lr{recipe.lr:g}-hidden{recipe.hidden}"


def sweep_table(base: Recipe, done: Sequence[Cell]) -> str:
    """Table II, and the last values of Figure 4's curves, in Markdown."""
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
    """Figure 4: loss and PSNR by epoch, with a curve for each width."""
    figure, (loss, psnr) = new_figure(2)
    found = {cell.recipe: cell for cell in done}
    for cell in filter(None, map(found.get, _widths(base))):
        epochs = [line["step"] * cell.recipe.batch / EPOCH for line in cell.lines]
        add_curves(loss, psnr, epochs, cell.lines, f"hidden {cell.recipe.hidden}")
    label_axes(loss, psnr, f"epochs of {EPOCH} pairs")
    save_figure(figure, out)


def _widths(base: Recipe) -> Iterator[Recipe]:
    return (replace(base, hidden=hidden) for hidden in WIDTHS)


def _validate_every(recipe: Recipe) -> float:
    """Seconds. The duration of a run counted in steps is not known; a validation each second costs it little."""
    return 1.0 if recipe.steps else 60 * recipe.minutes / POINTS


def _last_psnr(log: Path) -> float:
    """NaN if it was never known."""
    return next((float(line["psnr"]) for line in reversed(read_log(log)) if "psnr" in line), math.nan)


def _row(*entries: str) -> list[str]:
    return [f"| {' | '.join(entries)} |"]


def _entry(cell: Cell | None) -> str:
    if cell is None:
        return ""
    if cell.psnr is None:
        return "diverged"
    return f"{'unknown' if math.isnan(cell.psnr) else f'{cell.psnr:.2f}'} ({cell.epochs:.2g})"
