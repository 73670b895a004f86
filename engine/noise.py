"""Noise models: what makes two independent noisy views of each of a batch of scenes.

Scenes are squares of N pictures, scale times as large as their views, scale being the model's; views are float32
(N, side, side, 3) on [0, 1]. What differs from scene to scene, as its level, is a tensor (N,).
Targets are never clipped: clipping would give the noise a mean, and the method needs none. Everything is drawn
on the scenes' device, and no number of a tensor is looked at: on a GPU nothing waits.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from engine.album import Squares


class Views(NamedTuple):
    """Two noisy views of each scene, (N, side, side, 3), and the weight of each one's error in the loss, (N,)."""

    noisy: Tensor
    target: Tensor
    weight: Tensor


class Noise(Protocol):
    """A model of noise."""

    @property
    def largest_scale(self) -> int:
        """The most scene pixels, along a side, for one pixel of a view."""

    def draw_scales(self, count: int, rng: torch.Generator) -> list[int]:
        """Scene pixels, along a side, for one pixel of a view, for each of the next views. rng: on the CPU."""

    def views(self, scenes: Squares, scale: int, rng: torch.Generator) -> Views:
        """Two views of each scene, whose noise is independent. rng: on the scenes' device."""

    def clean(self, scenes: Squares, scale: int) -> Tensor:
        """What the views' mean would be: for measuring alone, never for training."""


@dataclass(frozen=True)
class GaussianNoise:
    """Additive white noise, its level drawn evenly for each scene.

    low, high: standard deviation, 0-255 scale. target_views: the target is the mean of this many noisy views,
    which is one view with the level divided by the root of their number. The error of a scene is weighted by
    1 / (σ² + (10/255)²), scaled to 1 at σ 25, or the loudest scenes would take all of the gradient.
    """

    low: float = 0.0
    high: float = 55.0
    target_views: int = 1

    largest_scale = 1

    def draw_scales(self, count: int, rng: torch.Generator) -> list[int]:
        """Views are as large as their scenes."""
        return [1] * count

    def views(self, scenes: Squares, scale: int, rng: torch.Generator) -> Views:
        """White noise of a level for each scene."""
        clean = scenes.whole()
        part = torch.rand(len(clean), generator=rng, device=clean.device)
        level = self.low + (self.high - self.low) * part
        sigma = (level / 255).view(-1, 1, 1, 1)
        first, second = torch.randn((2, *clean.shape), generator=rng, device=clean.device)
        noisy = first.mul_(sigma).add_(clean)
        target = second.mul_(sigma / self.target_views**0.5).add_(clean)
        return Views(noisy, target, (25**2 + 10**2) / (level.square() + 10**2))

    def clean(self, scenes: Squares, scale: int) -> Tensor:
        """The scenes themselves."""
        return scenes.whole()


@dataclass(frozen=True)
class RandomPixelNoise:
    """Each noisy pixel is one scene pixel, picked at random from the block that the clean pixel averages.

    low, high: side of the block, drawn evenly for each scene. The noise has mean zero by construction, and is
    as strong as the scene's detail: what rendering with one sample a pixel gives. All scenes weigh the same:
    weights by the level of their noise measured no better.
    """

    low: int = 2
    high: int = 10

    @property
    def largest_scale(self) -> int:
        """The largest block's side."""
        return self.high

    def draw_scales(self, count: int, rng: torch.Generator) -> list[int]:
        """Blocks' sides."""
        return [int(side) for side in torch.randint(self.low, self.high + 1, (count,), generator=rng)]

    def views(self, scenes: Squares, scale: int, rng: torch.Generator) -> Views:
        """A pixel of each block for either view."""
        side, count = scenes.side // scale, len(scenes.places.picture)
        corner = torch.arange(side, device=scenes.device) * scale
        pick = torch.randint(scale, (2, count, 2 * side, side), generator=rng, device=scenes.device)
        # One view above the other: they are picked together.
        both = scenes.pixels(corner.repeat(2)[:, None] + pick[0], corner + pick[1])
        noisy, target = both[:, :side], both[:, side:]
        return Views(noisy.contiguous(), target.contiguous(), torch.ones(count, device=scenes.device))

    def clean(self, scenes: Squares, scale: int) -> Tensor:
        """The mean of each block."""
        side = scenes.side // scale
        return scenes.whole().view(-1, side, scale, side, scale, 3).mean((2, 4))
