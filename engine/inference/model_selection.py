"""Which network an image gets that names none: the one for the noise found in it.

White noise and the noise of cameras pull one small network apart, and so do white noise of colour and that of
grey, where all channels have the same: each specialist is better at its own than one network trained on all.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Literal

from torch import Tensor

from engine.inference.noise_estimation.estimator import NoiseEstimate, estimate_noise, pick
from engine.layers import Module

AUTO = "auto"
# What there are specialists for: white noise of colour, white noise of grey, and cameras' noise of both.
Specialty = Literal["white", "grey", "camera"]
# The choices, named beside weights, and the weights that each chooses among. On cameras' noise no larger network
# has measured better yet.
CHOICES: Mapping[str, Mapping[Specialty, str]] = {
    AUTO: {"white": "photo-gaussian", "grey": "photo-grey", "camera": "photo"},
    "auto-large": {"white": "photo-gaussian-large", "grey": "photo-grey", "camera": "photo"},
}

# The network for an image's samples, (H, W, C), as an Image has them.
Choose = Callable[[Tensor], Module]


def choose(samples: Tensor, choice: str = AUTO) -> tuple[str, NoiseEstimate]:
    """The name of the weights for an image's noise, and what was found. Raises ValueError as estimate_noise."""
    estimate = estimate_noise(samples)
    return taken(choice, estimate), estimate


def taken(choice: str, estimate: NoiseEstimate) -> str:
    """The name of the weights that a choice takes for the noise found."""
    kind = pick(estimate)
    is_grey = estimate.chroma is None
    return CHOICES[choice]["grey" if is_grey and kind == "white" else kind]


def among(nets: Mapping[str, Module], choice: str = AUTO) -> Choose:
    """Chooses among networks, by the names of their weights."""
    return lambda samples: nets[choose(samples, choice)[0]]


def always(net: Module) -> Choose:
    """Chooses the same network for every image."""
    return lambda samples: net


def behind(name: str) -> list[str]:
    """The names of the weights that a name may mean: those a choice is made among, or its own."""
    return list(CHOICES[name].values()) if name in CHOICES else [name]


def possible(names: Collection[str]) -> list[str]:
    """The choices whose weights are all among these."""
    return [choice for choice in CHOICES if all(name in names for name in behind(choice))]
