"""The Noise2Noise report's autoencoder, kind "paper": its configuration and its layers."""

from dataclasses import dataclass

import torch

from engine.layers import CastTo, Conv2d, ConvStack, Module, Sequential, Sigmoid, Upsampling

# Of the image: red, green and blue.
CHANNELS = 3


@dataclass(frozen=True)
class AutoencoderConfig:
    """Width and geometry of the report's network.

    geometry: the report's text and its authors' published weights differ in kernel, stride and padding.
    "text": convolutions 2, 2, 0 and upsampling 3, 2, 1. "weights": convolutions 3, 2, 1 and upsampling 2, 2, 0.
    """

    hidden: int = 256
    geometry: str = "weights"

    def __post_init__(self) -> None:
        if not isinstance(self.hidden, int) or self.hidden < 1:
            raise ValueError(f"hidden must be a whole number of at least 1; got {self.hidden!r}")
        if self.geometry not in ("text", "weights"):
            raise ValueError(f'geometry must be "text" or "weights"; got {self.geometry!r}')


def build_autoencoder(config: AutoencoderConfig, rng: torch.Generator | None, compute: torch.dtype) -> Module:
    """compute: the type that products run in."""
    # Kernel size, stride, padding; for upsampling also dilation and output_padding: a kernel of 3 at stride 2
    # makes one row less than twice the size.
    if config.geometry == "text":
        down, up = (2, 2, 0), (3, 2, 1, 1, 1)
    else:
        down, up = (3, 2, 1), (2, 2, 0, 1, 0)
    hidden = config.hidden
    return Sequential(
        CastTo(
            compute,
            ConvStack(
                Conv2d(CHANNELS, hidden, *down, rng=rng),
                Conv2d(hidden, hidden, *down, rng=rng),
                Upsampling(hidden, hidden, *up, rng=rng),
                Upsampling(hidden, CHANNELS, *up, rng=rng),
            ),
        ),
        Sigmoid(),
    )
