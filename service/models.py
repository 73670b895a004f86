"""The weights in service."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engine import auto, weights
from engine.auto import AUTO
from engine.estimate import Estimate
from engine.images import Picture
from engine.precision import name_of, pick_device, resolve
from engine.weights import SUFFIX, Model, WeightsError
from service.errors import ClientError
from service.logs import log
from service.settings import Settings


class NoSuchModel(ClientError):
    """A model's name that there are no weights for."""

    status = 404


@dataclass(frozen=True)
class Models:
    """What is served, by name; what a request gets that names none; where it runs, and in which type."""

    by_name: Mapping[str, Model]
    default: str
    device: str
    precision: str

    @property
    def names(self) -> list[str]:
        """What a request may name: the weights, and AUTO if those are there that it chooses among."""
        return [*([] if auto.missing(self.by_name) else [AUTO]), *self.by_name]

    def behind(self, name: str) -> list[Model]:
        """The weights that a name may mean."""
        return [self.by_name[each] for each in (auto.SPECIALISTS.values() if name == AUTO else [name])]

    def named(self, name: str | None) -> str:
        """The name, or without one the default. Raises NoSuchModel naming those there are."""
        if name is None:
            return self.default
        if name not in self.names:
            raise NoSuchModel(f"There is no model {name!r}; there are: {', '.join(self.names)}.")
        return name

    def choose(self, name: str, picture: Picture) -> tuple[Model, Estimate | None]:
        """The weights of that name; of AUTO those for the picture's noise, and what was found of it."""
        if name != AUTO:
            return self.by_name[name], None
        chosen, estimate = auto.choose(picture.samples)
        return self.by_name[chosen], estimate

    def look(self, picture: Picture) -> tuple[Estimate, str | None]:
        """What noise is in a picture, and the name of the weights that AUTO takes for it, if there is AUTO."""
        chosen, estimate = auto.choose(picture.samples)
        return estimate, chosen if AUTO in self.names else None


def load_models(settings: Settings) -> Models:
    """Every weights file of the folder. Raises ValueError saying which is missing or does not load, and why."""
    folder = settings.weights or weights.weights_folder()
    files = sorted(folder.glob(f"*{SUFFIX}"))
    _refuse_missing(folder, files, settings.model)
    device = pick_device(settings.device)
    compute = resolve(settings.precision, device)
    by_name = {file.stem: weights.load(file, device, compute) for file in files}
    for model in by_name.values():
        log.info("weights loaded", model=model.name, digest=model.digest)
    return Models(by_name, settings.model, str(device), name_of(compute))


def _refuse_missing(folder: Path, files: list[Path], default: str) -> None:
    """No other weights stand in for the default: whoever asks for one must not get another unawares."""
    names = [file.stem for file in files]
    wanted = list(auto.SPECIALISTS.values()) if default == AUTO else [default]
    if missing := [name for name in wanted if name not in names]:
        there = ", ".join(names) or "no weights at all"
        path = folder / f"{missing[0]}{SUFFIX}"
        raise WeightsError(f"{path}: the default model's weights are not there; the folder has {there}")
