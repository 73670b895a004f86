"""Snapshot of the models that are served at one moment, and the choice of one for a request."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, NamedTuple, TypedDict

from pydantic import BaseModel, Field
from torch import Tensor

from engine.imageio.formats import did_you_mean
from engine.inference import model_selection
from engine.inference.adapted_noise import AdaptedNoise
from engine.inference.model_selection import AUTO_MODELS, Choice, models_of
from engine.inference.noise_estimation import NoiseEstimate, estimate_noise
from engine.layers import Module
from engine.models.checkpoint import Model
from service.problems import ProblemError
from service.registry.served_model import ServedModel


class Fault(BaseModel, frozen=True):
    """A weights file that cannot be served."""

    file: str
    reason: str
    since: datetime = Field(description="When the fault was found.")


Digests = Annotated[
    dict[str, str], Field(description="SHA-256 of the weights, or of all weights to choose from.")
]
Previous = Annotated[dict[str, str], Field(description="SHA-256 of the previous weights, if there are any.")]
Wanted = Annotated[
    dict[str, str],
    Field(
        description="SHA-256 of the weights that all replicas are to serve. If it differs from `digests`, this "
        "replica is still loading them, or it cannot: see `faults` of GET /health."
    ),
]
Loaded = Annotated[dict[str, datetime], Field(description="When the weights were loaded.")]


class History(TypedDict):
    """The weights that a model name stands for, each by its own name."""

    digests: Digests
    wanted: Wanted
    previous: Previous
    loaded: Loaded


class SharedDigests(NamedTuple):
    """The weights that all replicas are to serve under a name, and those before them."""

    digest: str
    previous: str | None


@dataclass(frozen=True)
class Snapshot:
    """The models in service. It never changes, so a request can keep it.

    default: the model for requests that name none. loaded: when each model was loaded. previous: the weights that
    each model had before in this process. faults: of weights files, by name. shared: what all replicas are to
    serve, if there are several.
    """

    by_name: Mapping[str, ServedModel]
    default: str
    device: str
    precision: str
    loaded: Mapping[str, datetime] = field(default_factory=dict)
    previous: Mapping[str, ServedModel] = field(default_factory=dict)
    faults: Mapping[str, Fault] = field(default_factory=dict)
    shared: Mapping[str, SharedDigests] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The names that a request may use: `auto` and the like, if their weights are there, and all weights."""
        return [*model_selection.available_auto_models(self.by_name), *self.by_name]

    @property
    def tried(self) -> list[str]:
        """The weights whose networks have denoised the check image. The others do so at their first use."""
        return [name for name, model in self.by_name.items() if model.tried]

    @property
    def adapted(self) -> dict[str, AdaptedNoise]:
        """The adapted weights that `auto` and the like may choose, with their noise."""
        found = {name: model.noise for name, model in self.by_name.items() if model.noise}
        return model_selection.without_specialists(found)

    def weights_of(self, name: str) -> list[str]:
        """The weights that a name stands for: for `auto` and the like all to choose from, also adapted ones."""
        return [*models_of(name), *(self.adapted if name in AUTO_MODELS else ())]

    def history(self, name: str) -> History:
        """Digests, previous digests and load times of the weights that a name stands for."""
        names = self.weights_of(name)
        before = {each: self.previous_digest(each) for each in names}
        return History(
            digests={each: self.by_name[each].digest for each in names},
            wanted={each: self.wanted_digest(each) for each in names},
            previous={each: digest for each, digest in before.items() if digest},
            loaded={each: self.loaded[each] for each in names},
        )

    def wanted_digest(self, name: str) -> str:
        """The weights to serve; those that are served, if no others are shared."""
        shared = self.shared.get(name)
        return shared.digest if shared else self.by_name[name].digest

    def previous_digest(self, name: str) -> str | None:
        """The weights that a rollback returns to."""
        if shared := self.shared.get(name):
            return shared.previous
        return self.previous[name].digest if name in self.previous else None

    def resolve_name(self, name: str | None) -> str:
        """The name, or the default. Raises ProblemError with status 404 if there is no such model."""
        if name is None:
            return self.default
        if name not in self.names:
            near = did_you_mean(name, self.names)
            detail = f"There is no model {name!r}.{near} Available: {', '.join(self.names)}."
            raise ProblemError(detail, 404, kind="NoSuchModel")
        return name

    def choose(self, name: str, pages: Sequence[Tensor]) -> tuple[Model, NoiseEstimate]:
        """The weights of that name, or for `auto` and the like those that suit the file; and the file's noise,
        for adapted weights with their law.

        Call it in a thread: it also loads weights at their first use. Raises ModelUnavailable.
        """
        if name not in AUTO_MODELS:
            return self.by_name[name].model(), model_selection.estimate_pages(pages)
        choice = model_selection.select_for_pages(pages, name, _Networks(self.by_name), self.adapted)
        return self.by_name[choice.name].model(), choice.applied

    def recommend(self, samples: Tensor) -> tuple[NoiseEstimate, dict[str, Choice]]:
        """The noise of an image, and what `auto` and the like would choose for it, by their names.

        Call it in a thread, as `choose`. Raises ModelUnavailable.
        """
        choices = {
            auto: model_selection.select_for_pages([samples], auto, _Networks(self.by_name), self.adapted)
            for auto in model_selection.available_auto_models(self.by_name)
        }
        first = next(iter(choices.values()), None)
        return first.estimate if first else estimate_noise(samples), choices


@dataclass(frozen=True)
class _Networks(Mapping[str, Module]):
    """The networks of models, by name. A look-up loads the model if nothing has used it before."""

    models: Mapping[str, ServedModel]

    def __getitem__(self, name: str) -> Module:
        return self.models[name].model().net

    def __iter__(self) -> Iterator[str]:
        return iter(self.models)

    def __len__(self) -> int:
        return len(self.models)
