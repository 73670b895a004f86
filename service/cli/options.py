"""Kinds of flags that typer has no word for: several values, any value of a recipe, every setting."""

import inspect
import re
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand

from service.settings import Settings


class ManyValues(TyperCommand):
    """A command that takes `--sigma 15 25 50` for `--sigma 15 --sigma 25 --sigma 50`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeats the flag before every number that follows its first."""
        spread: list[str] = []
        for arg in args:
            number = re.fullmatch(r"[0-9.]+", arg)
            if number and len(spread) > 1 and spread[-2] == "--sigma":
                spread.append("--sigma")
            spread.append(arg)
        return super().parse_args(ctx, spread)


class RecipeFlags(TyperCommand):
    """A command that takes every value of a recipe as a flag: `--lr 0.4` for `--set lr=0.4`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """What the command does not know is a recipe's; the recipe refuses by name what it does not know."""
        own = {"--", "--help", *(name for param in self.params for name in (*param.opts, *param.secondary_opts))}
        rest: list[str] = []
        left = iter(args)
        for arg in left:
            flag, equals, value = arg.partition("=")
            if not flag.startswith("--") or flag in own:
                rest.append(arg)
                continue
            key = flag.removeprefix("--").replace("-", "_")
            rest += ["--set", f"{key}={value if equals else next(left, '')}"]
        return super().parse_args(ctx, rest)


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """The command with a flag for each of the service's settings; not given, they are left to the environment.

    But none for secrets: a command line can be read by everyone on the machine.
    """
    own = inspect.signature(command)
    parameters = [each for each in own.parameters.values() if each.kind is not each.VAR_KEYWORD]
    for name, field in Settings.model_fields.items():
        if not field.repr:
            continue
        shown = False if field.default is None else str(field.default)
        option = typer.Option(None, help=field.description, show_default=shown)
        kind = inspect.Parameter.KEYWORD_ONLY
        parameters.append(inspect.Parameter(name, kind, default=option, annotation=field.annotation))
    vars(command)["__signature__"] = own.replace(parameters=parameters)
    return command
