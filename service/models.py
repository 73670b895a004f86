"""The weights in service."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engine import weights
from engine.precision import name_of, pick_device, resolve
from engine.weights import SUFFIX, Model, WeightsError
from service.errors import ClientError
from service.settings import Settings


class NoSuchModel(ClientError):
    """A model's name that there are no weights for."""

    status = 404


@dataclass(frozen=True)
class Models:
    """What is served, by name; where it runs, and in which type."""

    by_name: Mapping[str, Model]
    default: Model
    device: str
    precision: str

    def get(self, name: str | None) -> Model:
        """The model of that name, or without one the default. Raises NoSuchModel naming those there are."""
        if name is None:
            return self.default
        if name not in self.by_name:
            raise NoSuchModel(f"There is no model {name!r}; there are: {', '.join(self.by_name)}.")
        return self.by_name[name]


def load_models(settings: Settings) -> Models:
    """Every weights file of the folder. Raises ValueError saying which is missing or does not load, and why."""
    folder = settings.weights or weights.weights_folder()
    files = sorted(folder.glob(f"*{SUFFIX}"))
    _refuse_missing(folder, files, settings.model)
    device = pick_device(settings.device)
    compute = resolve(settings.precision, device)
    by_name = {file.stem: weights.load(file, device, compute) for file in files}
    return Models(by_name, by_name[settings.model], str(device), name_of(compute))


def _refuse_missing(folder: Path, files: list[Path], default: str) -> None:
    """No other weights stand in for the default: whoever asks for one must not get another unawares."""
    names = [file.stem for file in files]
    if default not in names:
        there = ", ".join(names) or "no weights at all"
        missing = folder / f"{default}{SUFFIX}"
        raise WeightsError(f"{missing}: the default model's weights are not there; the folder has {there}")
