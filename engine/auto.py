"""Which network a picture gets that names none: the one for the noise found in it.

White noise and the noise of cameras pull one small network apart: each specialist is better at its own noise than
one network trained on both.
"""

from collections.abc import Callable, Collection, Mapping

from torch import Tensor

from engine.estimate import Estimate, Kind, estimate_noise, pick
from engine.layers import Layer

# The choice's own name, beside those of weights, and whose weights it chooses among.
AUTO = "auto"
SPECIALISTS: Mapping[Kind, str] = {"white": "photo-gaussian", "camera": "photo"}

# The network for a picture's samples, (H, W, C), as a Picture has them.
Choose = Callable[[Tensor], Layer]


def choose(samples: Tensor) -> tuple[str, Estimate]:
    """The name of the weights for a picture's noise, and what was found. Raises ValueError as estimate_noise."""
    estimate = estimate_noise(samples)
    return SPECIALISTS[pick(estimate)], estimate


def among(nets: Mapping[str, Layer]) -> Choose:
    """Chooses among networks, by the names of their weights."""
    return lambda samples: nets[choose(samples)[0]]


def always(net: Layer) -> Choose:
    """Chooses the same network for every picture."""
    return lambda samples: net


def missing(names: Collection[str]) -> list[str]:
    """Of the weights that are chosen among, those that are not there."""
    return [name for name in SPECIALISTS.values() if name not in names]
