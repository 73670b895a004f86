"""`denoise evaluate`: measures weights on images."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.table import Table

from engine import defaults
from service.cli.console import out, tracked, warn, warn_without_kernels
from service.cli.options import (
    BudgetOption,
    ChoiceArgument,
    CleanOption,
    DeviceOption,
    PairsOption,
    PrecisionOption,
    SigmaOption,
    output_folder,
)
from service.cli.weights import load_model

if TYPE_CHECKING:
    from engine.evaluation.benchmarks import Trial
    from engine.evaluation.evaluate import Quality, Result, Score
    from engine.evaluation.html_report import Section
    from engine.inference.model_selection import LoadedModel
    from engine.layers import Module

Image = TypeVar("Image")

SIGMAS = (15.0, 25.0, 50.0)  # on the scale of 0 to 255


SuiteOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the standard sets cbsd68, kodak24, polyu and paper/val.pkl. Skips missing sets.",
        show_default=False,
    ),
]
LimitOption = Annotated[
    int | None, typer.Option(min=1, help="Use only the first images of each set.", show_default="all")
]
EnsembleOption = Annotated[
    bool,
    typer.Option("--self-ensemble", help="Mean over 8 flips and rotations, which takes 8 times as long."),
]
ReportOption = Annotated[
    Path | None,
    typer.Option(
        "--report",
        "-o",
        "--out",
        parser=output_folder,
        metavar="FOLDER",
        help="Folder for an HTML report that shows the gain of each image.",
        show_default=False,
    ),
]


def evaluate(
    weights: ChoiceArgument,
    pairs: PairsOption = None,
    clean: CleanOption = None,
    sigma: SigmaOption = None,
    suite: SuiteOption = None,
    limit: LimitOption = None,
    self_ensemble: EnsembleOption = False,
    report: ReportOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table's rows as a JSON list.")] = False,
    device: DeviceOption = defaults.DEVICE,
    precision: PrecisionOption = defaults.PRECISION,
    memory_budget: BudgetOption = defaults.MEMORY_BUDGET,
) -> None:
    """Measure weights on images: PSNR, SSIM and speed.

    - `denoise evaluate photo --clean images/ --sigma 15 25 50`

    - `denoise evaluate my.safetensors --pairs val.pkl --json`

    - `denoise evaluate photo --suite sets/ --report report/`
    """
    from engine.evaluation.html_report import Section
    from engine.inference.self_ensemble import SelfEnsemble

    if suite:
        refuse_beside_suite(pairs, clean)
    else:
        refuse_other_than_one(pairs, clean)
    warn_without_kernels()
    # Before the images, which take longer to read.
    model = load_model(weights, device, precision)
    chosen = suite_trials(suite) if suite else trials(pairs, clean, sigma or SIGMAS)
    sections = [Section(trial.first(limit)) for trial in chosen]
    nets = model.nets
    if self_ensemble:
        nets = {name: SelfEnsemble(net) for name, net in nets.items()}
    found = []
    for section in sections:
        results = _results(section.trial, model, nets, memory_budget)
        # A report needs the images too, not only the scores.
        scores = [section.add(result) if report else result.score for result in results]
        found.append((section.trial, scores))
    if report:
        _write_report(report, model, self_ensemble, sections)
    rows = _rows(model, self_ensemble, found)
    if as_json:
        typer.echo(json.dumps(rows))
    else:
        _print_tables(rows, model)


def trials(pairs: Path | None, clean: Path | None, sigma: Sequence[float]) -> "list[Trial]":
    """The images to measure on: recorded pairs, or clean images with white noise of each level."""
    from engine.evaluation.benchmarks import recorded, white

    if pairs is not None:
        return [recorded(pairs)]
    assert clean is not None
    return [white(clean, level) for level in sigma]


def refuse_other_than_one(pairs: Path | None, clean: Path | None) -> None:
    """Raises typer.BadParameter unless one of the two is given."""
    if (pairs is None) == (clean is None):
        raise typer.BadParameter("give one of the two", param_hint="--pairs / --clean")


def refuse_beside_suite(pairs: Path | None, clean: Path | None) -> None:
    """Raises typer.BadParameter if one of the two is given."""
    if pairs is not None or clean is not None:
        raise typer.BadParameter("cannot be combined with --pairs or --clean", param_hint="--suite")


def suite_trials(suite: Path) -> "list[Trial]":
    """The trials of the standard sets. Prints which sets the folder lacks."""
    from engine.evaluation import benchmarks
    from engine.evaluation.measured import measured_trials

    found, missing = benchmarks.trials(suite)
    if missing:
        warn(f"skipped, not in {suite}: {', '.join(missing)}")
    return [*found, *measured_trials(suite)]


def _results(
    trial: "Trial", model: "LoadedModel", nets: "Mapping[str, Module]", memory_budget: int
) -> "Iterable[Result]":
    from engine.evaluation.evaluate import denoise_measured, denoise_pairs, denoise_pairs_by, denoise_samples
    from engine.evaluation.measured import MeasuredTrial
    from engine.inference.model_selection import AUTO_MODELS, auto_selector, fixed_selector

    if isinstance(trial, MeasuredTrial):
        is_auto = model.name in AUTO_MODELS
        select = auto_selector(nets, model.name, model.adapted) if is_auto else fixed_selector(nets[model.name])
        measurements = _with_progress(trial, (make() for make in trial.measurements))
        return denoise_measured(partial(denoise_samples, select, memory_budget), measurements)
    images = _with_progress(trial, trial.pairs())
    if model.name in AUTO_MODELS:
        return denoise_pairs_by(model.name, nets, images, memory_budget, model.adapted)
    # A single network takes many small images in one batch.
    return denoise_pairs(nets[model.name], images, memory_budget)


def _with_progress(trial: "Trial", images: "Iterable[Image]") -> "Iterable[Image]":
    return tracked(images, f"{trial.set}, {trial.noise}", len(trial.samples))


def _rows(
    model: "LoadedModel", self_ensemble: bool, found: "Iterable[tuple[Trial, list[Score]]]"
) -> list[dict[str, Any]]:
    """A row for each set and noise, with the weights and precision that were measured."""
    from engine.evaluation.evaluate import rows_of

    about = {"network": model.name, "precision": model.precision, "digest": model.digest}
    passes = {"self_ensemble": self_ensemble}
    rows = [row for trial, scores in found for row in rows_of(trial, scores)]
    return [
        {"set": row.set, "noise": row.noise, **_quality_values(row.quality), **about, **passes} for row in rows
    ]


def _quality_values(quality: "Quality") -> dict[str, Any]:
    """Its numbers. The further figures of measured images are beside the others."""
    values = asdict(quality)
    return {**values, **values.pop("figures")}


def _print_tables(rows: list[dict[str, Any]], model: "LoadedModel") -> None:
    from engine.evaluation.metrics import FIGURES

    title = f"{model.name} {model.digest[:12]} in {model.precision}"
    table = Table("set", "noise", title=title)
    for name in ("images", "PSNR noisy", "PSNR", "SSIM", "Mpx/s"):
        table.add_column(name, justify="right")
    figures = Table("set", "noise", "further figures", title="Measured images")
    chosen = Table("set", "noise", "weights", title=f"Weights that {model.name} chose")
    chosen.add_column("images", justify="right")
    for row in rows:
        numbers = (f"{row['noisy_psnr']:.2f}", f"{row['psnr']:.2f}", f"{row['ssim']:.4f}")
        speed = f"{row['megapixels_per_second']:.2f}"
        table.add_row(row["set"], row["noise"], str(row["images"]), *numbers, speed)
        if further := "  ".join(f"{name} {row[name]:.4g}" for name in FIGURES if name in row):
            figures.add_row(row["set"], row["noise"], further)
        for name, count in row["chosen"].items():
            chosen.add_row(row["set"], row["noise"], name, str(count))
    out.print(table)
    if figures.row_count:
        out.print(figures)
    if chosen.row_count:
        out.print(chosen)


def _write_report(folder: Path, model: "LoadedModel", self_ensemble: bool, sections: "Sequence[Section]") -> None:
    from engine.evaluation.html_report import write_report

    about = f"Weights {model.name}, SHA-256 {model.digest}. Precision {model.precision}."
    about += " Mean over 8 flips and rotations." if self_ensemble else ""
    write_report(folder / "index.html", f"Images denoised by {model.name}", about, sections)
