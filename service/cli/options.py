"""Options that several commands share, and two kinds of flags that typer does not have."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

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


class ManyValues(TyperCommand):
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


class RecipeFlags(TyperCommand):
    """A command that takes every value of a recipe as a flag: `--lr 0.4` in place of `--set lr=0.4`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Turns every flag that the command does not know into --set. The recipe refuses unknown names."""
        own = {"--", "--help", *(name for param in self.params for name in (*param.opts, *param.secondary_opts))}
        parsed: list[str] = []
        remaining = iter(args)
        for arg in remaining:
            flag, equals, value = arg.partition("=")
            if not flag.startswith("--") or flag in own:
                parsed.append(arg)
                continue
            key = flag.removeprefix("--").replace("-", "_")
            parsed += ["--set", f"{key}={value if equals else next(remaining, '')}"]
        return super().parse_args(ctx, parsed)
