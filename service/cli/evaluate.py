"""The commands that judge weights: measure them, make them smaller, show what they do, list them."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import track
from rich.table import Table

from service.cli.console import err, out, warn, warn_without_kernels
from service.cli.weights import (
    MEMORY_BUDGET,
    BudgetOption,
    DeviceOption,
    PrecisionOption,
    WeightsArgument,
    load,
    load_all,
)

if TYPE_CHECKING:
    from engine.evaluation.benchmarks import Trial
    from engine.evaluation.evaluate import Quality, Score
    from engine.evaluation.html_report import Section
    from engine.evaluation.samples import Pair
    from engine.models.checkpoint import Model

# What weights may lose by being kept in float16, in dB, of any image.
LARGEST_CHANGE = 0.001


class How(StrEnum):
    """Whether an image goes through the network once, or flipped and turned in all eight ways."""

    NORMAL = "normal"
    HIGH = "high"


PairsOption = Annotated[
    Path | None, typer.Option(help="(noisy, clean) pairs: a .pkl or .pt file, or a folder.", show_default=False)
]
CleanOption = Annotated[
    Path | None, typer.Option(help="Folder of clean images, that get white noise.", show_default=False)
]
SigmaOption = Annotated[
    list[float] | None,
    typer.Option(help="With --clean: the noise's levels, 0-255 scale.", show_default="15 25 50"),
]


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
        Path | None, typer.Option(help="Folder for a page of what each image gained.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    memory_budget: BudgetOption = MEMORY_BUDGET,
) -> None:
    """Measure weights on images: PSNR, SSIM and speed.

    - `denoise evaluate photo --clean images/ --sigma 15 25 50`

    - `denoise evaluate my.safetensors --pairs val.pkl --json`

    - `denoise evaluate photo --suite sets/ --report report/`
    """
    from engine.evaluation.evaluate import denoise_pairs, denoise_pairs_by
    from engine.evaluation.html_report import Section
    from engine.inference.model_selection import CHOICES
    from engine.inference.self_ensemble import Ensemble

    trials = [trial.first(limit) for trial in _trials(pairs, clean, suite, sigma or [15, 25, 50])]
    warn_without_kernels()
    nets, model = load_all(weights, device, precision)
    if quality is How.HIGH:
        nets = {name: Ensemble(net) for name, net in nets.items()}
    sections, scores = [Section(trial) for trial in trials], []
    for section in sections:
        watched = _watched(section.trial)
        # The same network for all can take small images many at a time.
        results = (
            denoise_pairs_by(model.name, nets, watched, memory_budget)
            if model.name in CHOICES
            else denoise_pairs(nets[model.name], watched, memory_budget)
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


def ship(
    weights: WeightsArgument,
    output: Annotated[Path, typer.Option("-o", "--out", help="The smaller file, .safetensors.")],
    pairs: PairsOption = None,
    clean: CleanOption = None,
    sigma: SigmaOption = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many.", show_default="all")] = None,
) -> None:
    """Write weights in half the size, in float16, if that changes no image by more than 0.001 dB.

    Else in float32, as they were.

    - `denoise ship my.safetensors --clean images/ --out weights/my.safetensors`

    - `denoise ship my.safetensors --pairs val.pkl --out weights/my.safetensors`
    """
    from engine.evaluation.evaluate import largest_change
    from engine.models import checkpoint as files

    trials = [trial.first(limit) for trial in _trials(pairs, clean, None, sigma or [15, 25, 50])]
    warn_without_kernels()
    model = load(weights, "cpu", "float32")
    half = files.rounded(model.net, model.spec, files.HALF)
    change = max(largest_change(model.net, half, trial.samples) for trial in trials)
    small = change <= LARGEST_CHANGE
    files.save(output, model.net, model.spec, model.metadata, files.HALF if small else files.FULL)
    warn(
        f"float16 changes an image by up to {change:.6f} dB:"
        f" written in {'float16' if small else 'float32'}, {output.stat().st_size:,} bytes"
    )


def demo(
    weights: WeightsArgument,
    pairs: PairsOption = None,
    clean: CleanOption = None,
    sigma: SigmaOption = None,
    count: Annotated[int, typer.Option(min=1, help="How many images.")] = 4,
    output: Annotated[Path, typer.Option("-o", "--out", help="The drawing, PNG.")] = Path("demo.png"),
) -> None:
    """Draw images clean, noisy and denoised side by side, each with its PSNR.

    - `denoise demo photo --clean images/ --sigma 25 --out demo.png`

    - `denoise demo paper --pairs val.pkl --count 6`
    """
    from engine.evaluation import figures

    trials = _trials(pairs, clean, None, sigma or [25])
    shown = [pair for trial in trials for pair in trial.first(count).pairs()]
    warn_without_kernels()
    figures.demo(load(weights, "auto", "auto").net, shown, output)


def models(
    folder: Annotated[
        Path | None, typer.Option("--weights", help="Folder of weights.", show_default="the shipped ones")
    ] = None,
) -> None:
    """List the weights there are.

    - `denoise models`

    - `denoise models --weights my-weights/`
    """
    from engine.models import checkpoint as weights
    from engine.models.networks import kind_of, parameter_count

    table = Table("name", "kind", "parameters", "digest", "PSNR, dB")
    for file in sorted((folder or weights.weights_folder()).glob(f"*{weights.SUFFIX}")):
        model = weights.load(file)
        parameters = f"{parameter_count(model.net):,}"
        psnr = model.metadata.get("psnr", "")
        table.add_row(model.name, kind_of(model.spec), parameters, model.digest[:12], psnr)
    out.print(table)


def _trials(pairs: Path | None, clean: Path | None, suite: Path | None, sigma: Sequence[float]) -> "list[Trial]":
    """What to measure on. Says which sets the suite's folder lacks."""
    from engine.evaluation.benchmarks import recorded, trials, white

    if [pairs, clean, suite].count(None) != 2:
        raise typer.BadParameter("give one of the two, or evaluate --suite", param_hint="--pairs / --clean")
    if clean is not None:
        return [white(clean, level) for level in sigma]
    if pairs is not None:
        return [recorded(pairs)]
    assert suite is not None
    found, missing = trials(suite)
    if missing:
        warn(f"left out, not in {suite}: {', '.join(missing)}")
    return found


def _watched(trial: "Trial") -> "Iterable[Pair]":
    title, total = f"{trial.set}, {trial.noise}", len(trial.samples)
    return track(trial.pairs(), title, total, console=err, transient=True, disable=not err.is_terminal)


def _by_level(found: "Iterable[tuple[Trial, list[Score]]]") -> "dict[float | None, Quality]":
    from engine.evaluation.evaluate import mean_quality

    return {trial.level: mean_quality(scores) for trial, scores in found}


def _suite_rows(
    model: "Model", quality: How, found: "Iterable[tuple[Trial, list[Score]]]"
) -> list[dict[str, Any]]:
    """A row for each set and noise, with what it was measured with."""
    from engine.evaluation.evaluate import rows_of

    about = {"network": model.name, "precision": model.precision, "digest": model.digest, "quality": str(quality)}
    rows = [row for trial, scores in found for row in rows_of(trial, scores)]
    return [{"set": row.set, "noise": row.noise, **asdict(row.quality), **about} for row in rows]


def _tell_rows(rows: list[dict[str, Any]], model: "Model", as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(rows))
        return
    table = Table("set", "noise", title=_title(model))
    for name in ("images", "PSNR noisy", "PSNR", "SSIM", "Mpx/s"):
        table.add_column(name, justify="right")
    chosen = Table("set", "noise", "weights", title=f"What {model.name} chose")
    chosen.add_column("images", justify="right")
    for row in rows:
        numbers = (f"{row['noisy_psnr']:.2f}", f"{row['psnr']:.2f}", f"{row['ssim']:.4f}")
        speed = f"{row['megapixels_per_second']:.2f}"
        table.add_row(row["set"], row["noise"], str(row["images"]), *numbers, speed)
        for name, count in row["chosen"].items():
            chosen.add_row(row["set"], row["noise"], name, str(count))
    out.print(table)
    if chosen.row_count:
        out.print(chosen)


def _write_report(folder: Path, model: "Model", quality: How, sections: "Sequence[Section]") -> None:
    from engine.evaluation.html_report import write_report

    about = f"Network {model.name}, SHA-256 {model.digest}, products in {model.precision}, quality {quality}."
    write_report(folder / "index.html", f"What {model.name} makes of images", about, sections)


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
    for name in ("sigma", "images", "PSNR noisy", "PSNR", "SSIM noisy", "SSIM", "Mpx/s"):
        table.add_column(name, justify="right")
    for level, quality in found.items():
        table.add_row(
            "" if level is None else f"{level:g}",
            str(quality.images),
            f"{quality.noisy_psnr:.2f}",
            f"{quality.psnr:.2f}",
            f"{quality.noisy_ssim:.4f}",
            f"{quality.ssim:.4f}",
            f"{quality.megapixels_per_second:.2f}",
        )
    return table
