"""The command `denoise`. Each subcommand is a few lines that call the engine or start the service.

A command imports torch when it runs, not before. So --help and usage errors are answered at once.
"""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from engine.system.os_errors import describe
from service import version
from service.cli import denoise, estimate, evaluate, figures, keys, models, serve, train
from service.cli.console import error
from service.cli.options import Command, ManyValues, RecipeFlags

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Removes noise from images. Trains, measures and serves the networks that do it.",
)


def _show_version(requested: bool) -> None:
    if requested:
        from engine.layers import kernels

        typer.echo(f"denoise {version()}, kernels {kernels.name()}")
        raise typer.Exit


@app.callback()
def _options(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and the kernels in use."
        ),
    ] = False,
) -> None:
    pass


# In the order in which --help lists them.
app.command(cls=Command)(denoise.run)
app.command(cls=Command)(estimate.estimate)
app.command(cls=Command)(serve.serve)
app.command(cls=Command)(models.models)
app.command(cls=RecipeFlags)(train.train)
app.command(cls=ManyValues)(evaluate.evaluate)
app.command(cls=ManyValues)(models.ship)
app.command(cls=Command)(models.export)
app.command(cls=RecipeFlags)(train.sweep)
app.command(cls=ManyValues)(figures.demo)
app.command(cls=Command)(figures.plot)
app.add_typer(keys.app, name="keys")


def main(args: Sequence[str] | None = None) -> None:
    """The entry point. An error of the user is one line on stderr, with exit code 1, or 2 for wrong usage."""
    try:
        app(args, prog_name="denoise")
    except OSError as mistake:
        error(describe(mistake))
        sys.exit(1)
    except ValueError as mistake:
        error(str(mistake))
        sys.exit(1)
