"""Which weights a command takes, and where they run."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from engine.inference.model_selection import Choose
    from engine.layers import Layer
    from engine.models.checkpoint import Model

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
BudgetOption = Annotated[int, typer.Option(min=1, help="Memory for an image on its way through, in bytes.")]


def load(name: str, device: str, precision: str) -> "Model":
    """A file's weights, or shipped ones by their name. Raises ValueError for what is no good."""
    from engine.models import checkpoint
    from engine.models import precision as types

    place = types.pick_device(device)
    return checkpoint.load(_file(name), place, types.resolve(precision, place))


def load_all(name: str, device: str, precision: str) -> "tuple[dict[str, Layer], Model]":
    """The networks behind a name, and what is told of them: of a choice, its name and all digests."""
    from engine.inference import model_selection

    models = [load(each, device, precision) for each in model_selection.behind(name)]
    told = models[0]
    if name in model_selection.CHOICES:
        told = replace(told, name=name, digest="+".join(model.digest for model in models))
    return {model.name: model.net for model in models}, told


def choice(name: str, device: str, precision: str) -> "tuple[Choose, Model]":
    """What chooses an image's network, and what is told of it as by load_all."""
    from engine.inference import model_selection

    nets, told = load_all(name, device, precision)
    if name in model_selection.CHOICES:
        return model_selection.among(nets, name), told
    return model_selection.always(told.net), told


def _file(name: str) -> Path:
    """Raises ValueError naming the shipped weights if there are none of that name."""
    from engine.models.checkpoint import SUFFIX, weights_folder

    if name.endswith(SUFFIX):
        return Path(name)
    shipped = {file.stem: file for file in sorted(weights_folder().glob(f"*{SUFFIX}"))}
    if name not in shipped:
        raise ValueError(
            f"no weights {name!r}; there are {', '.join(shipped) or 'none'}, or give a {SUFFIX} file"
        )
    return shipped[name]
