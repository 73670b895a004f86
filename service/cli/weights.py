"""Weights of the commands: loads a file or shipped weights by name."""

from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.inference.model_selection import LoadedModel
    from engine.models.checkpoint import Model


def load(name: str, device: str, precision: str) -> "Model":
    """Weights from a file, or by name: shipped ones, and those in the folder that DENOISE_WEIGHTS names.

    Raises ValueError if they cannot be used.
    """
    from engine.models import checkpoint
    from engine.models import precision as types

    place = types.pick_device(device)
    return checkpoint.load(checkpoint.find(name), place, types.resolve(precision, place))


def load_model(name: str, device: str, precision: str) -> "LoadedModel":
    """What a name stands for: one model, or all the models that an auto model selects from."""
    from engine.inference.model_selection import AUTO_MODELS, known_adapted, load_with
    from engine.models import precision as types

    # Resolved once, not for each network: "auto" may have to be measured.
    kind = types.name_of(types.resolve(precision, types.pick_device(device)))
    adapted = known_adapted() if name in AUTO_MODELS else {}
    return load_with(partial(load, device=device, precision=kind), name, adapted)
