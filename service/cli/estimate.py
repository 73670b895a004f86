"""`denoise estimate`: describes the noise in images."""

import json
from dataclasses import asdict
from math import isfinite
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Column, Table

from engine.system.os_errors import reason
from service.cli.console import out, tracked, warn
from service.cli.options import InputsArgument


def estimate(
    inputs: InputsArgument,
    page: Annotated[
        int, typer.Option(min=1, help="Page of a document, or frame of an animation, to read. Counted from 1.")
    ] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print all measurements as JSON.")] = False,
) -> None:
    """Estimate the noise in images, and show which weights auto would choose.

    - `denoise estimate scans/ photo.tif`

    - `denoise estimate noisy.jpg --json`
    """
    from engine.batch.finding import files_of
    from engine.batch.tasks import estimate_file
    from engine.inference.model_selection import LazyNetworks
    from engine.inference.noise_estimation import sentence
    from engine.models import checkpoint

    # For the same choice as `run` makes. Most images need none of them.
    nets = LazyNetworks(lambda name: checkpoint.load(checkpoint.find(name)).net)
    rows: list[dict[str, Any]] = []
    files = files_of(inputs)
    for file in tracked(files, "estimating", len(files)):
        try:
            model, noise = estimate_file(file, page, nets)
        except OSError as error:
            warn(f"{file}: {reason(error)}")
        except (ValueError, MemoryError) as error:
            warn(f"{file}: {error}")
        else:
            about = {"image": str(file), "words": sentence(noise), "model": model, "scale": 255}
            rows.append({**about, **asdict(noise)})
    if as_json:
        typer.echo(json.dumps(_without_infinities(rows), allow_nan=False))
    else:
        out.print(_table(rows))
    if len(rows) < len(files):
        raise ValueError(f"{len(files) - len(rows)} of {len(files)} images could not be read")


def _without_infinities(value: Any) -> Any:
    """The value with None for each number that JSON cannot hold."""
    if isinstance(value, dict):
        return {name: _without_infinities(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_infinities(part) for part in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(Column("image", overflow="fold"), "noise", "auto chooses")
    for row in rows:
        table.add_row(*(escape(row[name]) for name in ("image", "words", "model")))
    return table
