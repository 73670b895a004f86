"""The command `denoise`: each subcommand a few lines that call the engine or start the service.

Whatever needs torch is imported by the commands that use it, so that --help and mistakes are answered at once.
"""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from service import version
from service.cli import denoise, evaluate, keys, serve, train
from service.cli.console import error
from service.cli.options import ManyValues, RecipeFlags

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Takes the noise out of images, and trains the networks that do it.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from engine.layers import kernels

        typer.echo(f"denoise {version()}, kernels {kernels.name()}")
        raise typer.Exit


@app.callback()
def _options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Version and kernels in use.")
    ] = False,
) -> None:
    pass


# In the order in which --help lists them.
app.command()(denoise.run)
app.command()(denoise.estimate)
app.command()(serve.serve)
app.command(cls=RecipeFlags)(train.train)
app.command(cls=ManyValues)(evaluate.evaluate)
app.command(cls=ManyValues)(evaluate.ship)
app.command(cls=RecipeFlags)(train.sweep)
app.command(cls=ManyValues)(evaluate.demo)
app.command()(train.plot)
app.command()(evaluate.models)
app.add_typer(keys.app, name="keys")


def main(args: Sequence[str] | None = None) -> None:
    """The entry point. A mistake of the user's is one line on stderr: exit code 1, or 2 if the usage is wrong."""
    try:
        app(args, prog_name="denoise")
    except (ValueError, OSError) as mistake:
        error(str(mistake))
        sys.exit(1)
