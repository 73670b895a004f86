"""The command `denoise`. Each subcommand is a few lines that call the engine or start the service.

A command imports torch when it runs, not before. So --help and usage errors are answered at once.
"""

import shlex
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.system.os_errors import describe
from service import version
from service.cli import adapt, denoise, estimate, evaluate, figures, keys, models, publish, serve, train
from service.cli.console import error
from service.cli.options import Command, Group, ManyValues, RecipeFlags

# Headings of --help.
DENOISE = "Denoise images"
SERVE = "Serve"
TRAIN = "Train and measure networks"
HELP = """Removes noise from images. Trains, measures and serves the networks that do it.

- `denoise run photo.jpg` writes photo.denoised.jpg beside it

- `denoise run scans/ -o clean/` denoises a folder

- `denoise serve` starts the web page on port 8000 of this machine

- `denoise train paper --minutes 10 -o my.safetensors` trains a network

`denoise COMMAND --help` explains a command, with examples.
"""
EXIT_CODES = "Exit codes: 0 success, 1 an error or an image that failed, 2 wrong usage, 130 stopped by a signal."
# Commands of other programs, and of people who guess.
MEANT = {
    "clean": "run", "denoise": "run", "process": "run", "convert": "run", "file": "run", "analyse": "estimate",
    "analyze": "estimate", "measure": "evaluate", "bench": "evaluate", "test": "evaluate", "server": "serve",
    "start": "serve", "web": "serve", "list": "models", "weights": "models", "onnx": "export", "key": "keys",
    "finetune": "adapt", "fine-tune": "adapt", "calibrate": "adapt", "adjust": "adapt",
    "help": "--help", "version": "--version",
}  # fmt: skip


class Commands(Group):
    """All commands. Suggests the command that a mistyped one may mean."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Ends with a suggestion if there is no such command."""
        name = args[0]
        if name not in self.commands and not name.startswith("--"):
            ctx.fail(_suggestion(name, list(self.commands)))
        return super().resolve_command(ctx, args)


def _suggestion(name: str, commands: list[str]) -> str:
    if name == "-" or Path(name).exists():
        return f"{name} is a file, not a command. To denoise it: denoise run {shlex.quote(name)}"
    near = MEANT.get(name.lower()) or next(iter(get_close_matches(name, commands, n=1)), None)
    hint = f"Did you mean denoise {near}?" if near else f"The commands are {', '.join(commands)}."
    return f"There is no command {name!r}. {hint}"


app = typer.Typer(
    cls=Commands,
    epilog=EXIT_CODES,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help=HELP,
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
app.command(cls=Command, rich_help_panel=DENOISE, help=denoise.RUN_HELP)(denoise.run)
app.command(cls=Command, rich_help_panel=DENOISE)(estimate.estimate)
app.command(cls=Command, rich_help_panel=DENOISE)(models.models)
app.command(cls=Command, rich_help_panel=SERVE)(serve.serve)
app.command(cls=Command, rich_help_panel=SERVE)(publish.publish)
app.add_typer(keys.app, name="keys", rich_help_panel=SERVE)
app.command(cls=Command, rich_help_panel=TRAIN)(adapt.adapt)
app.command(cls=RecipeFlags, rich_help_panel=TRAIN)(train.train)
app.command(cls=ManyValues, rich_help_panel=TRAIN)(evaluate.evaluate)
app.command(cls=Command, rich_help_panel=TRAIN)(figures.plot)
app.command(cls=ManyValues, rich_help_panel=TRAIN)(figures.demo)
app.command(cls=RecipeFlags, rich_help_panel=TRAIN)(train.sweep)
app.command(cls=ManyValues, rich_help_panel=TRAIN)(models.ship)
app.command(cls=Command, rich_help_panel=TRAIN)(models.export)


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
