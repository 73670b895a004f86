"""`denoise estimate`: describes the noise in images."""

import json
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Column, Table

from engine.system.os_errors import reason
from service.cli.console import out, tracked, warn, warn_results
from service.cli.options import InputsArgument


def estimate(
    inputs: InputsArgument,
    page: Annotated[
        int, typer.Option(min=1, help="Page of a document, or frame of an animation, to read. Counted from 1.")
    ] = 1,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print all measurements as JSON, as POST /estimate does.")
    ] = False,
) -> None:
    """Estimate the noise in images, and show which weights auto would choose.

    Prints a table in a terminal, and a line for each image elsewhere.

    - `denoise estimate scans/ photo.tif`

    - `denoise estimate noisy.jpg --json`
    """
    from engine.batch.finding import files_of, find_images
    from engine.batch.tasks import estimate_file
    from engine.inference.model_selection import AUTO, LazyNetworks, known_adapted
    from engine.models import checkpoint
    from service.api.estimate import Estimate

    # For the same choice as `run` makes. Most images need none of them.
    adapted = known_adapted()
    nets = LazyNetworks(lambda name: checkpoint.load(checkpoint.find(name)).net)
    rows: list[dict[str, Any]] = []
    files = files_of(inputs)
    for folder in filter(lambda path: path.is_dir(), inputs):
        warn_results(folder, find_images(folder).results)
    has_lines = not as_json and not out.is_terminal
    for file in tracked(files, "estimating", len(files)):
        try:
            choice = estimate_file(file, page, nets, adapted)
        except OSError as error:
            warn(f"{file}: {reason(error)}")
        except (ValueError, MemoryError) as error:
            warn(f"{file}: {error}")
        else:
            found = Estimate.of(choice.estimate, {AUTO: choice}).model_dump(mode="json", exclude={"models"})
            rows.append({"image": str(file), **found})
            if has_lines:
                typer.echo(
                    f"{file}: {found['words'].removesuffix('.')}; auto chooses {choice.name}: {choice.reason}"
                )
    if as_json:
        typer.echo(json.dumps(rows, allow_nan=False))
    elif rows and not has_lines:
        out.print(_table(rows))
    if len(rows) < len(files):
        raise ValueError(f"{len(files) - len(rows)} of {len(files)} images could not be read")


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(Column("image", overflow="fold"), "noise", "auto chooses", "because")
    for row in rows:
        table.add_row(*(escape(row[name]) for name in ("image", "words", "model", "reason")))
    return table
