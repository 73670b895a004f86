"""Random pixel noise: each noisy pixel is one scene pixel of the block that the clean pixel averages."""

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.data.noise.model import Views
from engine.data.patch_store import PatchBatch


@dataclass(frozen=True)
class RandomPixelNoise:
    """Each noisy pixel is one scene pixel, picked at random from the block that the clean pixel averages.

    low, high: side of the block, drawn evenly for each scene. The noise has mean zero by construction, and is
    as strong as the scene's detail: what rendering with one sample a pixel gives. target_views: the target is the
    mean of this many views. All scenes weigh the same: weights by the level of their noise measured no better.
    """

    low: int = 2
    high: int = 10
    target_views: int = 1

    @property
    def largest_scale(self) -> int:
        """The largest block's side."""
        return self.high

    def draw_scales(self, count: int, rng: torch.Generator) -> list[int]:
        """Blocks' sides."""
        return [int(side) for side in torch.randint(self.low, self.high + 1, (count,), generator=rng)]

    def views(self, scenes: PatchBatch, scale: int, rng: torch.Generator) -> Views:
        """A pixel of each block for each view."""
        side, count, views = scenes.side // scale, len(scenes.places.image), 1 + self.target_views
        corner = torch.arange(side, device=scenes.device) * scale
        pick = torch.randint(scale, (2, count, views * side, side), generator=rng, device=scenes.device)
        # One view above the other: they are picked together.
        pixels = scenes.pixels(corner.repeat(views)[:, None] + pick[0], corner + pick[1])
        noisy, *targets = pixels.view(count, views, side, side, 3).unbind(1)
        target = torch.stack(targets).mean(0)
        return Views(noisy.contiguous(), target, torch.ones(count, device=scenes.device))

    def clean(self, scenes: PatchBatch, scale: int) -> Tensor:
        """The mean of each block."""
        side = scenes.side // scale
        return scenes.whole().view(-1, side, scale, side, scale, 3).mean((2, 4))
