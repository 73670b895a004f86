"""Noise models: what makes two independent noisy views of one scene.

A scene is uint8 (side · scale, side · scale, 3), scale being the model's; views are float32 (side, side, 3)
on [0, 1]. Targets are never clipped: clipping would give the noise a mean, and the method needs none.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Views(NamedTuple):
    """Two noisy views of a scene, and the weight that their error gets in the loss."""

    noisy: Tensor
    target: Tensor
    weight: float


class Noise(Protocol):
    """A model of noise."""

    @property
    def largest_scale(self) -> int:
        """The most scene pixels, along a side, for one pixel of a view."""

    @property
    def symmetric(self) -> bool:
        """Whether the two views have the same noise, so that a pair can be used both ways."""

    def draw_scale(self, rng: torch.Generator) -> int:
        """Scene pixels, along a side, for one pixel of the next view."""

    def views(self, scene: Tensor, scale: int, rng: torch.Generator) -> Views:
        """Two views whose noise is independent."""

    def clean(self, scene: Tensor, scale: int) -> Tensor:
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
    symmetric = False

    def draw_scale(self, rng: torch.Generator) -> int:
        """Views are as large as their scene."""
        return 1

    def views(self, scene: Tensor, scale: int, rng: torch.Generator) -> Views:
        """scene: uint8 (side, side, 3)."""
        clean = self.clean(scene, scale)
        level = self.low + (self.high - self.low) * float(torch.rand((), generator=rng))
        sigma = level / 255
        noisy = clean + sigma * torch.randn(clean.shape, generator=rng)
        target = clean + sigma / self.target_views**0.5 * torch.randn(clean.shape, generator=rng)
        return Views(noisy, target, (25**2 + 10**2) / (level**2 + 10**2))

    def clean(self, scene: Tensor, scale: int) -> Tensor:
        """The scene on [0, 1]."""
        return scene.float() / 255


@dataclass(frozen=True)
class RandomPixelNoise:
    """Each noisy pixel is one scene pixel, picked at random from the block that the clean pixel averages.

    low, high: side of the block, drawn evenly for each scene. The noise has mean zero by construction, and is
    as strong as the scene's detail: what rendering with one sample a pixel gives. All scenes weigh the same:
    weights by the level of their noise measured no better.
    """

    low: int = 2
    high: int = 10

    symmetric = True

    @property
    def largest_scale(self) -> int:
        """The largest block's side."""
        return self.high

    def draw_scale(self, rng: torch.Generator) -> int:
        """A block's side."""
        return int(torch.randint(self.low, self.high + 1, (), generator=rng))

    def views(self, scene: Tensor, scale: int, rng: torch.Generator) -> Views:
        """scene: uint8 (side · scale, side · scale, 3)."""
        height, width = scene.shape[0] // scale, scene.shape[1] // scale
        corner_y = torch.arange(height).view(1, -1, 1) * scale
        corner_x = torch.arange(width).view(1, 1, -1) * scale
        pick = torch.randint(scale, (2, 2, height, width), generator=rng)
        noisy, target = scene[corner_y + pick[0], corner_x + pick[1]].float() / 255
        return Views(noisy, target, 1.0)

    def clean(self, scene: Tensor, scale: int) -> Tensor:
        """The mean of each block."""
        height, width = scene.shape[0] // scale, scene.shape[1] // scale
        return scene.reshape(height, scale, width, scale, 3).float().mean((1, 3)) / 255
