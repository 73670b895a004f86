"""Random pixel noise: each noisy pixel is one scene pixel from the block that the clean pixel averages."""

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.data.noise.model import Views
from engine.data.patch_store import PatchBatch


@dataclass(frozen=True)
class RandomPixelNoise:
    """Each noisy pixel is one scene pixel, picked at random from the block that the clean pixel averages.

    low, high: side of the block, drawn evenly for each scene. The noise has mean zero by construction, and is
    as strong as the scene's detail: rendering with one sample a pixel gives the same. target_views: the target is
    the mean of this many views. All scenes have the same weight: weights by noise level measured no better.
    """

    low: int = 2
    high: int = 10
    target_views: int = 1

    @property
    def largest_scale(self) -> int:
        """Side of the largest block."""
        return self.high

    def draw_scales(self, count: int, rng: torch.Generator) -> list[int]:
        """The side of each scene's blocks."""
        return [int(side) for side in torch.randint(self.low, self.high + 1, (count,), generator=rng)]

    def views(self, scenes: PatchBatch, scale: int, rng: torch.Generator) -> Views:
        """One pixel of each block for each view."""
        side, count, views = scenes.side // scale, len(scenes.boxes.image), 1 + self.target_views
        corner = torch.arange(side, device=scenes.device) * scale
        pick = torch.randint(scale, (2, count, views * side, side), generator=rng, device=scenes.device)
        # The views are stacked below each other, so that all pixels are read at once.
        pixels = scenes.read_pixels(corner.repeat(views)[:, None] + pick[0], corner + pick[1])
        noisy, *targets = pixels.view(count, views, side, side, 3).unbind(1)
        target = torch.stack(targets).mean(0)
        return Views(noisy.contiguous(), target, torch.ones(count, device=scenes.device))

    def clean(self, scenes: PatchBatch, scale: int) -> Tensor:
        """The mean of each block."""
        side = scenes.side // scale
        return scenes.read().view(-1, side, scale, side, scale, 3).mean((2, 4))
