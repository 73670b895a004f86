"""Which weights a command takes, and where they run."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.settings import Settings

if TYPE_CHECKING:
    from engine.auto import Choose
    from engine.layers import Layer
    from engine.weights import Model

MEMORY_BUDGET: int = Settings.model_fields["memory_budget"].default
ModelOption = Annotated[
    str,
    typer.Option(
        help="Name of shipped weights, path of a .safetensors file, or auto or auto-large, which look at the "
        "noise."
    ),
]
WeightsArgument = Annotated[
    str,
    typer.Argument(
        metavar="WEIGHTS",
        help="Path of a .safetensors file, name of shipped weights, or for some commands auto or auto-large.",
    ),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
PrecisionOption = Annotated[str, typer.Option(help="auto (what is faster here), float32 or bfloat16.")]
BudgetOption = Annotated[int, typer.Option(min=1, help="Memory for a picture on its way through, in bytes.")]


def load(name: str, device: str, precision: str) -> "Model":
    """A file's weights, or shipped ones by their name. Raises ValueError for what is no good."""
    from engine import precision as types
    from engine import weights

    place = types.pick_device(device)
    return weights.load(_file(name), place, types.resolve(precision, place))


def choice(
    name: str, device: str, precision: str, wrapped: "Callable[[Layer], Layer] | None" = None
) -> "tuple[Choose, Model]":
    """What chooses a picture's network, and what is told of it: of a choice, its name and both digests."""
    from engine import auto

    models = [load(each, device, precision) for each in auto.behind(name)]
    if wrapped:
        models = [replace(model, net=wrapped(model.net)) for model in models]
    if name not in auto.CHOICES:
        return auto.always(models[0].net), models[0]
    both = replace(models[0], name=name, digest="+".join(model.digest for model in models))
    return auto.among({model.name: model.net for model in models}, name), both


def _file(name: str) -> Path:
    """Raises ValueError naming the shipped weights if there are none of that name."""
    from engine.weights import SUFFIX, weights_folder

    if name.endswith(SUFFIX):
        return Path(name)
    shipped = {file.stem: file for file in sorted(weights_folder().glob(f"*{SUFFIX}"))}
    if name not in shipped:
        raise ValueError(
            f"no weights {name!r}; there are {', '.join(shipped) or 'none'}, or give a {SUFFIX} file"
        )
    return shipped[name]
