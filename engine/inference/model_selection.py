"""Model selection: chooses a network for an image by the noise found in it.

One network trained on both white noise and cameras' noise is worse at each than two specialists. The same is true
of white noise in colour and white noise in grey, which is equal in all channels.

Weights that were adapted to one's own noise are better still, at that noise alone. They are chosen where the
image's noise is near to theirs, as `noise_distance` measures it, and a trial does not speak against them.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Literal

from torch import Tensor

from engine.inference.adapted_noise import AdaptedNoise, choosable, known_law, samples_type
from engine.inference.noise_distance import NoiseDistance, nearest
from engine.inference.noise_estimation import (
    NoiseEstimate,
    estimate_noise,
    is_doubtful,
    noise_kind,
)
from engine.inference.noise_estimation.pages import typical_page, with_law_of_stack
from engine.inference.noise_estimation.value_range import without_even_channels
from engine.inference.noise_estimation.words import figure
from engine.inference.normalisation import normalisation_for
from engine.inference.preparation import channel_laws
from engine.inference.trial import least_risk, may_replace, removed_where_calm
from engine.layers import Module
from engine.models.checkpoint import Model, known_files, read_metadata

AUTO = "auto"
# White noise in colour, white noise in grey, and cameras' noise in both.
Specialty = Literal["white", "grey", "camera"]
# The models that each auto model selects from. No larger network has measured better on cameras' noise yet.
AUTO_MODELS: Mapping[str, Mapping[Specialty, str]] = {
    AUTO: {"white": "photo-gaussian", "grey": "photo-grey", "camera": "photo"},
    "auto-large": {"white": "photo-gaussian-large", "grey": "photo-grey", "camera": "photo"},
}


# Why a model of each specialty is chosen.
_REASONS: Mapping[Specialty, str] = {
    "white": "its noise differs from pixel to pixel",
    "grey": "its noise differs from pixel to pixel, and it has no colour",
    "camera": "its noise is shared by neighbouring pixels, as after a camera's processing",
}
NO_ADAPTED: Mapping[str, AdaptedNoise] = {}


@dataclass(frozen=True)
class Choice:
    """The model for a file. estimate: the noise found in it. reason: why the model was chosen, for people.

    applied: the estimate that the steps around the network follow. For adapted weights it has their law.
    """

    name: str
    estimate: NoiseEstimate
    applied: NoiseEstimate
    reason: str


@dataclass(frozen=True)
class Selection:
    """The network for an image, and the name of its model.

    estimate: the noise found in the image. For adapted weights it has their law.
    """

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
    nets: the networks, by their models' names. select: returns the network for an image. adapted: for an auto
    model, those that were adapted, with their noise.
    """

    name: str
    digest: str
    precision: str
    nets: Mapping[str, Module]
    select: NetworkSelector
    adapted: Mapping[str, AdaptedNoise] = field(default_factory=dict)


def select_model(samples: Tensor, auto: str = AUTO) -> tuple[str, NoiseEstimate]:
    """The name of the shipped model for an image, and the noise found in it. Raises ValueError as estimate_noise
    does.

    auto: the name of an auto model.
    """
    choice = select_for_pages([samples], auto)
    return choice.name, choice.estimate


def select_for_pages(
    pages: Sequence[Tensor],
    auto: str = AUTO,
    nets: Mapping[str, Module] | None = None,
    adapted: Mapping[str, AdaptedNoise] = NO_ADAPTED,
) -> Choice:
    """The model for a file, and the noise found in it. Raises ValueError as estimate_noise does.

    pages: (H, W, C) each, as an Image has them, from one camera: one model serves all. auto: the name of an auto
    model. nets: with the networks, a trial decides what the noise alone does not: whether texture looks like a
    camera's noise, which network for white noise suits a sensor's grey image, and whether adapted weights are
    better here. adapted: further weights to choose from, with the noise that they were adapted to.
    """
    page = typical_page(pages)
    estimate, samples = estimate_pages(pages), without_even_channels(page)
    found = nearest(estimate, samples_type(page), without_specialists(adapted))
    if found and found[1].is_near:
        name, distance = found
        applied = _with_laws_of(estimate, adapted[name], distance)
        if nets is None or _trial_allows(nets, name, auto, applied, samples):
            return Choice(name, estimate, applied, _reason_for(name, distance))
    else:
        distance = None
    chosen, estimate = _shipped(estimate, samples, auto, nets)
    reason = _reason_of(estimate, chosen, auto)
    if found:
        because = "in a trial on this image it left more error" if distance else found[1].words
        reason += f"; {found[0]}, the nearest of the adapted weights, was not chosen: {because}"
    return Choice(chosen, estimate, estimate, reason)


def _shipped(
    estimate: NoiseEstimate, samples: Tensor, auto: str, nets: Mapping[str, Module] | None
) -> tuple[str, NoiseEstimate]:
    """The shipped model for an image, and its noise, in which texture may have been recognised."""
    names = AUTO_MODELS[auto]
    if nets and is_doubtful(estimate) and estimate.sigma_of_255 <= MAX_TEXTURE:
        removed = _removed(nets[names["camera"]], estimate, samples)
        if removed is not None and removed < MIN_REMOVED:
            estimate = replace(estimate, texture=True)
    name = model_for(estimate, auto)
    if nets and estimate.laws and name == names["grey"]:
        normalisation = normalisation_for(samples, channel_laws(estimate, samples.shape[2]))
        candidates = {each: nets[each] for each in (name, names["white"])}
        if normalisation is not None:
            name = least_risk(candidates, samples, normalisation)
    return name, estimate


def _removed(net: Module, estimate: NoiseEstimate, samples: Tensor) -> float | None:
    return removed_where_calm(net, samples, estimate.noise_level_function, normalisation_for(samples))


def _trial_allows(
    nets: Mapping[str, Module], name: str, auto: str, applied: NoiseEstimate, samples: Tensor
) -> bool:
    """Whether a few windows of the image do not speak against adapted weights.

    Of correlated noise that is little, what was taken for noise may be texture. Of white noise, the error that
    the weights and the shipped ones would leave can be estimated.
    """
    if is_doubtful(applied):
        removed = _removed(nets[name], applied, samples) if applied.sigma_of_255 <= MAX_TEXTURE else None
        return removed is None or removed >= MIN_REMOVED
    if applied.correlated or applied.jpeg_blocks:
        return True
    normalisation = normalisation_for(samples, channel_laws(applied, samples.shape[2]))
    return may_replace(nets[name], nets[model_for(applied, auto)], samples, normalisation, applied)


def _with_laws_of(estimate: NoiseEstimate, noise: AdaptedNoise, distance: NoiseDistance) -> NoiseEstimate:
    """The estimate with the law that adapted weights were trained with, or with none if they had none.

    Measured with weights adapted to 50 photons, in crops of 96 to 256 pixels a side: where the image's own law is
    known too, both laws give the same, to 0.02 dB in the mean and 0.14 dB at most, even if the gain of the
    weights is off by a quarter. Where the image does not show a law, that of the weights brings 0.4 to 1.7 dB.
    """
    if not distance.laws:
        return replace(estimate, laws=())
    laws = tuple(known_law(law, estimate.range) for law in distance.laws)
    return replace(estimate, laws=laws, correlated=False, ceiling=math.inf)


def _reason_of(estimate: NoiseEstimate, name: str, auto: str) -> str:
    """Why a shipped model was chosen. name: of the model."""
    if estimate.sigma is None or estimate.luma is None:
        return "its noise cannot be measured"
    if not any(estimate.sigma):
        return "it has no noise"
    if estimate.correlated and noise_kind(estimate) == "white":
        return "what looks like noise is probably fine texture"
    return next(_REASONS[kind] for kind, each in AUTO_MODELS[auto].items() if each == name)


def _reason_for(name: str, distance: NoiseDistance) -> str:
    """Why adapted weights were chosen."""
    gains = " ".join(figure(law.gain) for law in distance.laws)
    law = f" gain {gains}," if gains else ""
    return f"its noise is that of {name}:{law} {distance.words}"


def without_specialists(adapted: Mapping[str, AdaptedNoise]) -> dict[str, AdaptedNoise]:
    """Without weights that have the name of a shipped model: those are chosen as that model."""
    names = {name for auto in AUTO_MODELS for name in models_of(auto)}
    return {name: noise for name, noise in adapted.items() if name not in names}


def estimate_pages(pages: Sequence[Tensor]) -> NoiseEstimate:
    """The noise of a file: of its first page that is not blank or drawn, and its law over all pages."""
    return with_law_of_stack(estimate_noise(typical_page(pages)), pages)


def model_for(estimate: NoiseEstimate, auto: str = AUTO) -> str:
    """The name of the model for a noise estimate."""
    kind = noise_kind(estimate)
    is_grey = estimate.chroma is None
    return AUTO_MODELS[auto]["grey" if is_grey and kind == "white" else kind]


def auto_selector(
    nets: Mapping[str, Module], auto: str = AUTO, adapted: Mapping[str, AdaptedNoise] = NO_ADAPTED
) -> NetworkSelector:
    """Selects among networks, given by their models' names. adapted: as for `select_for_pages`."""

    def select(pages: Sequence[Tensor]) -> Selection:
        choice = select_for_pages(pages, auto, nets, adapted)
        return Selection(choice.name, nets[choice.name], choice.applied)

    return select


def fixed_selector(net: Module, name: str = "") -> NetworkSelector:
    """Selects the same network for every image."""
    return lambda pages: Selection(name, net, estimate_pages(pages))


@dataclass(frozen=True)
class LazyNetworks(Mapping[str, Module]):
    """The networks of an auto model, by their models' names. Those of adapted weights can be looked up too.

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


def load_with(
    load: Callable[[str], Model], name: str, adapted: Mapping[str, AdaptedNoise] = NO_ADAPTED
) -> LoadedModel:
    """The model of that name. load: loads one weights file by name; an auto model has several.

    adapted: further weights that an auto model chooses from, with the noise that they were adapted to.
    """
    own = without_specialists(adapted) if name in AUTO_MODELS else {}
    models = [load(each) for each in (*models_of(name), *own)]
    nets = {model.name: model.net for model in models}
    first = models[0]
    if name in AUTO_MODELS:
        digest = "+".join(model.digest for model in models)
        return LoadedModel(name, digest, first.precision, nets, auto_selector(nets, name, own), own)
    return LoadedModel(first.name, first.digest, first.precision, nets, fixed_selector(first.net, first.name))


def known_adapted() -> dict[str, AdaptedNoise]:
    """The adapted weights that `auto` may choose, with their noise: shipped, or in one's own folder."""
    metadata = {}
    for name, file in known_files().items():
        # Some may just be written, or be another user's. Choosing does not need them.
        with suppress(OSError):
            metadata[name] = read_metadata(file)
    return without_specialists(choosable(metadata))


def models_of(name: str) -> list[str]:
    """The models that an auto model selects from. For another model, its own name."""
    return list(AUTO_MODELS[name].values()) if name in AUTO_MODELS else [name]


def available_auto_models(names: Collection[str]) -> list[str]:
    """The auto models for which every model is among these names."""
    return [auto for auto in AUTO_MODELS if all(name in names for name in models_of(auto))]
