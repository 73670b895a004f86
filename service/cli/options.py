"""Options that several commands share, checks of outputs, and kinds of flags that typer does not have."""

import os
import re
from collections import deque
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

InputsArgument = Annotated[
    list[Path], typer.Argument(metavar="IN", help="Image files, folders of images, or - for stdin.")
]
ModelOption = Annotated[
    str,
    typer.Option(
        help="Weights: a shipped name, a .safetensors file, or auto or auto-large, which choose by the noise."
    ),
]
WeightsArgument = Annotated[
    str,
    typer.Argument(metavar="WEIGHTS", help="Name of shipped weights, or a .safetensors file."),
]
ChoiceArgument = Annotated[
    str,
    typer.Argument(
        metavar="WEIGHTS",
        help="Name of shipped weights, a .safetensors file, or auto or auto-large, which choose by the noise.",
    ),
]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda, or auto: a GPU if there is one.")]
PrecisionOption = Annotated[
    str, typer.Option(help="float32, bfloat16, or auto: the faster of the two on this machine.")
]
BudgetOption = Annotated[int, typer.Option(min=1, help="Memory for the network's work on an image, in bytes.")]
PairsOption = Annotated[
    Path | None,
    typer.Option(help="Pairs of noisy and clean images: a .pkl or .pt file, or a folder.", show_default=False),
]
CleanOption = Annotated[
    Path | None,
    typer.Option(help="Folder of clean images, to which white noise is added.", show_default=False),
]
SIGMA_HELP = "With --clean: standard deviations of the noise, on the scale of 0 to 255."
SigmaOption = Annotated[list[float] | None, typer.Option(help=SIGMA_HELP, show_default="15 25 50")]


def output_file(text: str | Path) -> Path:
    """The path of a file to write. Raises typer.BadParameter if the text means a folder."""
    path = Path(text)
    if str(text).endswith(("/", os.sep)) or path.is_dir():
        raise typer.BadParameter(f"{text} is a folder; give the name of a file")
    return path


def output_folder(text: str | Path) -> Path:
    """The path of a folder to write into. Raises typer.BadParameter if it is a file."""
    path = Path(text)
    if path.exists() and not path.is_dir():
        raise typer.BadParameter(f"{text} is a file; give the name of a folder")
    return path


def out_option(help_: str, parser: Callable[[str | Path], Path] = output_file, **others: Any) -> Any:
    """The option -o of a command that writes a file, or with the other parser into a folder."""
    metavar = "FILE" if parser is output_file else "FOLDER"
    return typer.Option("-o", "--out", parser=parser, metavar=metavar, help=help_, **others)


class Command(TyperCommand):
    """A command that refuses an option without its value. typer would take the next option for the value."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Raises typer.BadParameter. If something is missing, the error also says what it is for."""
        self.refuse_missing_values(args)
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            # Only the error of a missing parameter has no message.
            error.message = error.message or getattr(error.param, "help", None) or ""
            raise

    @property
    def option_names(self) -> set[str]:
        """The options of the command, such as -o and --out."""
        names = (name for param in self.params for name in (*param.opts, *param.secondary_opts))
        return {"--help", *(name for name in names if name.startswith("-"))}

    def refuse_missing_values(self, args: Sequence[str]) -> None:
        """Raises typer.BadParameter if an option follows where a value should."""
        taking = {name for param in self.params if not getattr(param, "is_flag", False) for name in param.opts}
        for arg, following in pairwise(args):
            if arg == "--":
                return
            if arg.startswith("-") and arg in taking and self.is_option(following):
                raise typer.BadParameter(f"needs a value, but the option {following} follows", param_hint=arg)

    def is_option(self, arg: str) -> bool:
        """Whether an argument is an option, perhaps a mistyped one. A value may be a negative number, or -."""
        return arg in self.option_names or (arg.startswith("--") and arg != "--")


class Group(TyperGroup):
    """Commands, of which none stands for --help."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Takes no arguments for --help."""
        return super().parse_args(ctx, args or ["--help"])


class ManyValues(Command):
    """A command that takes `--sigma 15 25 50` in place of `--sigma 15 --sigma 25 --sigma 50`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeats the flag before every number after the first."""
        spread: list[str] = []
        for arg in args:
            number = re.fullmatch(r"[0-9.]+", arg)
            if number and len(spread) > 1 and spread[-2] == "--sigma":
                spread.append("--sigma")
            spread.append(arg)
        return super().parse_args(ctx, spread)


class RecipeFlags(Command):
    """A command that takes every value of a recipe as a flag: `--lr 0.4` in place of `--set lr=0.4`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Turns every flag that a recipe has into --set. Raises typer.BadParameter for an unknown flag."""
        self.refuse_missing_values(args)
        parsed: list[str] = []
        remaining = deque(args)
        while remaining:
            arg = remaining.popleft()
            if arg == "--":
                parsed += [arg, *remaining]
                break
            flag, equals, value = arg.partition("=")
            if not flag.startswith("--") or flag in self.option_names:
                parsed.append(arg)
                continue
            key = self._recipe_key(flag)
            if not equals:
                if not remaining or self.is_option(remaining[0]):
                    raise typer.BadParameter("needs a value", param_hint=flag)
                value = remaining.popleft()
            parsed += ["--set", f"{key}={value}"]
        return super().parse_args(ctx, parsed)

    def _recipe_key(self, flag: str) -> str:
        from engine.training.recipe import recipe_keys

        keys = {f"--{key.replace('_', '-')}": key for key in recipe_keys()}
        spelled = flag.replace("_", "-")
        if spelled not in keys:
            near = get_close_matches(spelled, [*self.option_names, *keys], n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; a recipe has {', '.join(keys)}"
            raise typer.BadParameter(f"there is no such option{hint}", param_hint=flag)
        return keys[spelled]
