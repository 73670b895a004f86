"""Model selection: chooses a network for an image by the noise found in it.

One network trained on both white noise and cameras' noise is worse at each than two specialists. The same is true
of white noise in colour and white noise in grey, which is equal in all channels.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from torch import Tensor

from engine.inference.noise_estimation import (
    NoiseEstimate,
    estimate_noise,
    is_doubtful,
    noise_kind,
)
from engine.inference.noise_estimation.pages import typical_page, with_law_of_stack
from engine.inference.noise_estimation.value_range import without_even_channels
from engine.inference.normalisation import normalisation_for
from engine.inference.preparation import channel_laws
from engine.inference.trial import least_risk, removed_where_calm
from engine.layers import Module
from engine.models.checkpoint import Model

AUTO = "auto"
# White noise in colour, white noise in grey, and cameras' noise in both.
Specialty = Literal["white", "grey", "camera"]
# The models that each auto model selects from. No larger network has measured better on cameras' noise yet.
AUTO_MODELS: Mapping[str, Mapping[Specialty, str]] = {
    AUTO: {"white": "photo-gaussian", "grey": "photo-grey", "camera": "photo"},
    "auto-large": {"white": "photo-gaussian-large", "grey": "photo-grey", "camera": "photo"},
}


@dataclass(frozen=True)
class Selection:
    """The network for an image, the name of its model, and the noise found in the image."""

    name: str
    net: Module
    estimate: NoiseEstimate


# What the camera network removes from calm parts, as a share of the noise that was estimated there. Less means
# that it was texture. Measured: 0.13 to 0.54 for clean images of Kodak24 that look noisy; with a camera's noise
# above 0.6 in all but the most detailed images.
MIN_REMOVED = 0.6
# Standard deviation of noise, of 255, that no texture looks like: the clean images have at most 9.8.
MAX_TEXTURE = 12.0

# Returns the selection for the pages of a file, (H, W, C) each, as an Image has them.
NetworkSelector = Callable[[Sequence[Tensor]], Selection]


@dataclass(frozen=True)
class LoadedModel:
    """Weights that are ready to run; for an auto model, all the weights that it selects from.

    digest: SHA-256 of the file; for an auto model, of each file, joined by "+".
    precision: "float32" or "bfloat16".
    nets: the networks, by their models' names. select: returns the network for an image.
    """

    name: str
    digest: str
    precision: str
    nets: Mapping[str, Module]
    select: NetworkSelector


def select_model(samples: Tensor, auto: str = AUTO) -> tuple[str, NoiseEstimate]:
    """The name of the model for an image, and the noise found in it. Raises ValueError as estimate_noise does.

    auto: the name of an auto model.
    """
    return select_for_pages([samples], auto)


def select_for_pages(
    pages: Sequence[Tensor], auto: str = AUTO, nets: Mapping[str, Module] | None = None
) -> tuple[str, NoiseEstimate]:
    """The name of the model for a file, and the noise found in it. Raises ValueError as estimate_noise does.

    pages: (H, W, C) each, as an Image has them, from one camera: one model serves all. auto: the name of an auto
    model. nets: with the networks, a trial decides what the noise alone does not: whether texture looks like a
    camera's noise, and which network for white noise suits a sensor's grey image.
    """
    estimate, samples = estimate_pages(pages), without_even_channels(typical_page(pages))
    names = AUTO_MODELS[auto]
    if nets and is_doubtful(estimate) and estimate.sigma_of_255 <= MAX_TEXTURE:
        levels, normalisation = estimate.noise_level_function, normalisation_for(samples)
        removed = removed_where_calm(nets[names["camera"]], samples, levels, normalisation)
        if removed is not None and removed < MIN_REMOVED:
            estimate = replace(estimate, texture=True)
    name = model_for(estimate, auto)
    if nets and estimate.laws and name == names["grey"]:
        normalisation = normalisation_for(samples, channel_laws(estimate, samples.shape[2]))
        candidates = {each: nets[each] for each in (name, names["white"])}
        if normalisation is not None:
            name = least_risk(candidates, samples, normalisation)
    return name, estimate


def estimate_pages(pages: Sequence[Tensor]) -> NoiseEstimate:
    """The noise of a file: of its first page that is not blank or drawn, and its law over all pages."""
    return with_law_of_stack(estimate_noise(typical_page(pages)), pages)


def model_for(estimate: NoiseEstimate, auto: str = AUTO) -> str:
    """The name of the model for a noise estimate."""
    kind = noise_kind(estimate)
    is_grey = estimate.chroma is None
    return AUTO_MODELS[auto]["grey" if is_grey and kind == "white" else kind]


def auto_selector(nets: Mapping[str, Module], auto: str = AUTO) -> NetworkSelector:
    """Selects among networks, given by their models' names."""

    def select(pages: Sequence[Tensor]) -> Selection:
        name, estimate = select_for_pages(pages, auto, nets)
        return Selection(name, nets[name], estimate)

    return select


def fixed_selector(net: Module, name: str = "") -> NetworkSelector:
    """Selects the same network for every image."""
    return lambda pages: Selection(name, net, estimate_pages(pages))


@dataclass(frozen=True)
class LazyNetworks(Mapping[str, Module]):
    """The networks of an auto model, by their models' names.

    load: loads one; called when it is first looked up.
    """

    load: Callable[[str], Module]
    auto: str = AUTO
    _loaded: dict[str, Module] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Module:
        if name not in self._loaded:
            self._loaded[name] = self.load(name)
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(models_of(self.auto))

    def __len__(self) -> int:
        return len(models_of(self.auto))


def load_with(load: Callable[[str], Model], name: str) -> LoadedModel:
    """The model of that name. load: loads one weights file by name; an auto model has several."""
    models = [load(each) for each in models_of(name)]
    nets = {model.name: model.net for model in models}
    first = models[0]
    if name in AUTO_MODELS:
        digest = "+".join(model.digest for model in models)
        return LoadedModel(name, digest, first.precision, nets, auto_selector(nets, name))
    return LoadedModel(first.name, first.digest, first.precision, nets, fixed_selector(first.net, first.name))


def models_of(name: str) -> list[str]:
    """The models that an auto model selects from. For another model, its own name."""
    return list(AUTO_MODELS[name].values()) if name in AUTO_MODELS else [name]


def available_auto_models(names: Collection[str]) -> list[str]:
    """The auto models for which every model is among these names."""
    return [auto for auto in AUTO_MODELS if all(name in names for name in models_of(auto))]
