"""Loads the weights that a command names."""

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.inference.model_selection import NetworkSelector
    from engine.layers import Module
    from engine.models.checkpoint import Model


def load(name: str, device: str, precision: str) -> "Model":
    """Weights from a file, or shipped weights by name. Raises ValueError if they cannot be used."""
    from engine.models import checkpoint
    from engine.models import precision as types

    place = types.pick_device(device)
    return checkpoint.load(checkpoint.find(name), place, types.resolve(precision, place))


def load_all(name: str, device: str, precision: str) -> "tuple[dict[str, Module], Model]":
    """The networks that a name stands for, and a description of them.

    For auto and auto-large, the description has that name and the digests of all networks.
    """
    from engine.inference import model_selection

    models = [load(each, device, precision) for each in model_selection.models_of(name)]
    description = models[0]
    if name in model_selection.AUTO_MODELS:
        description = replace(description, name=name, digest="+".join(model.digest for model in models))
    return {model.name: model.net for model in models}, description


def choice(name: str, device: str, precision: str) -> "tuple[NetworkSelector, Model]":
    """The function that chooses the network for an image, and a description as from load_all."""
    from engine.inference import model_selection

    nets, description = load_all(name, device, precision)
    if name in model_selection.AUTO_MODELS:
        return model_selection.auto_selector(nets, name), description
    return model_selection.fixed_selector(description.net), description
