"""What is served at one moment, and which of it a request means."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, TypedDict

from pydantic import BaseModel, Field

from engine.imageio.image import Image
from engine.inference import model_selection
from engine.inference.model_selection import CHOICES, behind
from engine.inference.noise_estimation.estimator import NoiseEstimate, estimate_noise
from engine.models.checkpoint import Model
from service.problems import ProblemError


class Fault(BaseModel, frozen=True):
    """A weights file that is not what is served under its name."""

    file: str
    reason: str
    since: datetime = Field(description="When it was noticed.")


Digests = Annotated[dict[str, str], Field(description="SHA-256 of its weights, or of those it chooses among.")]
Previous = Annotated[dict[str, str], Field(description="SHA-256 of what was served before, where anything was.")]
Loaded = Annotated[dict[str, datetime], Field(description="Since when its weights have been served.")]


class History(TypedDict):
    """Of the weights that a name may mean, by their own names."""

    digests: Digests
    previous: Previous
    loaded: Loaded


@dataclass(frozen=True)
class Snapshot:
    """What is served at one moment, by name; what a request gets that names none; where it runs, in which type.

    loaded: since when each has been served; previous: what was served before it; faults: of files, by name.
    """

    by_name: Mapping[str, Model]
    default: str
    device: str
    precision: str
    loaded: Mapping[str, datetime] = field(default_factory=dict)
    previous: Mapping[str, Model] = field(default_factory=dict)
    faults: Mapping[str, Fault] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """What a request may name: the weights, and the choices among those that are there."""
        return [*model_selection.possible(self.by_name), *self.by_name]

    def history(self, name: str) -> History:
        """Which weights a name may mean, since when they have been served, and which were before."""
        names = behind(name)
        return History(
            digests={each: self.by_name[each].digest for each in names},
            previous={each: self.previous[each].digest for each in names if each in self.previous},
            loaded={each: self.loaded[each] for each in names},
        )

    def named(self, name: str | None) -> str:
        """The name, or without one the default. Raises NoSuchModel naming those there are."""
        if name is None:
            return self.default
        if name not in self.names:
            detail = f"There is no model {name!r}. Available: {', '.join(self.names)}."
            raise ProblemError(detail, 404, kind="NoSuchModel")
        return name

    def choose(self, name: str, image: Image) -> tuple[Model, NoiseEstimate | None]:
        """The weights of that name; of a choice those for the image's noise, and what was found of it."""
        if name not in CHOICES:
            return self.by_name[name], None
        chosen, estimate = model_selection.choose(image.samples, name)
        return self.by_name[chosen], estimate

    def look(self, image: Image) -> tuple[NoiseEstimate, dict[str, str]]:
        """What noise is in an image, and by their names which weights the choices there are take for it."""
        estimate = estimate_noise(image.samples)
        return estimate, {
            choice: model_selection.taken(choice, estimate) for choice in model_selection.possible(self.by_name)
        }
