"""White Gaussian noise, with a level drawn for each scene."""

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.data.noise.model import (
    Shots,
    Views,
    cpu_generator,
    grey_mask,
    make_views,
    remove_colour,
    round_to_8_bits,
    split_batch,
)
from engine.data.patch_store import PatchBatch


@dataclass(frozen=True)
class GaussianNoise:
    """Additive white noise, its level drawn evenly for each scene.

    low, high: standard deviation, 0-255 scale. target_views: the target is the mean of this many noisy views,
    which equals one view with the level divided by the root of their number. grey: share of scenes without
    colour, which have the same noise in all channels. rounded: share of inputs, never targets, rounded to 8 bits.
    """

    low: float = 0.0
    high: float = 55.0
    target_views: int = 1
    grey: float = 0.0
    rounded: float = 0.0

    largest_scale = 1

    def draw_scales(self, count: int, rng: torch.Generator) -> list[int]:
        """Views are as large as their scenes."""
        return [1] * count

    def views(self, scenes: PatchBatch, scale: int, rng: torch.Generator) -> Views:
        """Two views of each scene, both with its level."""
        clean = self.clean(scenes, scale)
        shots = white_noise(clean, self.low, self.high, rng)
        views = make_views(clean, shots, self.target_views, grey_mask(scenes, self.grey))
        if self.rounded:
            rounded, _ = split_batch(len(clean), (self.rounded,), cpu_generator(rng))
            round_to_8_bits(views.noisy[rounded])
        return views

    def clean(self, scenes: PatchBatch, scale: int) -> Tensor:
        """The scenes themselves, some without their colour."""
        return remove_colour(scenes.read(), grey_mask(scenes, self.grey))


def white_noise(clean: Tensor, low: float, high: float, rng: torch.Generator) -> Shots:
    """The same level in every pixel and channel, drawn evenly for each scene. low, high: 0-255 scale."""
    part = torch.rand(len(clean), generator=rng, device=clean.device)
    sigma = ((low + (high - low) * part) / 255).view(-1, 1, 1, 1)
    first, second = torch.randn((2, *clean.shape), generator=rng, device=clean.device)
    return Shots(first.mul_(sigma).add_(clean), second.mul_(sigma), sigma.square().view(-1, 1).expand(-1, 3))
