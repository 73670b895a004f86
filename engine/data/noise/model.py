"""Noise models: what makes two independent noisy views of each of a batch of scenes.

Scenes are squares of N images, scale times as large as their views, scale being the model's; views are float32
(N, side, side, 3) on [0, 1]. What differs from scene to scene, as its level, is a tensor (N,).
Targets are never clipped: clipping would give the noise a mean, and the method needs none. Everything is drawn
on the scenes' device, and no number of a tensor is looked at: on a GPU nothing waits.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from engine.data.patch_store import PatchBatch
from engine.data.rng import seeded
from engine.imageio.image import LUMA

# Of the weights in the loss: levels on the 0-255 scale; FAINT is where less noise hardly leaves less error.
USUAL, FAINT = 25.0, 4.0
# The error left grows as this power of σ: it is 33.7, 30.9 and 27.6 dB at σ 15, 25 and 50.
GROWTH = 1.2


class Views(NamedTuple):
    """Two noisy views of each scene, (N, side, side, 3), and the weight of each one's error in the loss, (N,)."""

    noisy: Tensor
    target: Tensor
    weight: Tensor


class Shots(NamedTuple):
    """Of clean scenes (N, side, side, 3): a noisy shot of each, the noise of another one, and its power.

    power: mean square of that noise in each channel, (N, 3), known from how it was drawn.
    """

    noisy: Tensor
    noise: Tensor
    power: Tensor


class Noise(Protocol):
    """A model of noise."""

    @property
    def largest_scale(self) -> int:
        """The most scene pixels, along a side, for one pixel of a view."""

    def draw_scales(self, count: int, rng: torch.Generator) -> list[int]:
        """Scene pixels, along a side, for one pixel of a view, for each of the next views. rng: on the CPU."""

    def views(self, scenes: PatchBatch, scale: int, rng: torch.Generator) -> Views:
        """Two views of each scene, whose noise is independent. rng: on the scenes' device."""

    def clean(self, scenes: PatchBatch, scale: int) -> Tensor:
        """What the views' mean would be: for measuring alone, never for training."""


@dataclass(frozen=True)
class GaussianNoise:
    """Additive white noise, its level drawn evenly for each scene.

    low, high: standard deviation, 0-255 scale. target_views: the target is the mean of this many noisy views,
    which is one view with the level divided by the root of their number. grey: share of scenes without colour,
    all channels of which have the same noise. rounded: share of inputs, never targets, rounded to 8 bits.
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
        """White noise of a level for each scene."""
        clean = self.clean(scenes, scale)
        noisy, target, weight = paired(
            clean, white_noise(clean, self.low, self.high, rng), self.target_views, grey_scenes(scenes, self.grey)
        )
        if self.rounded:
            as_sent, _ = parts(len(clean), (self.rounded,), planner(rng))
            round_to_8_bits(noisy[as_sent])
        return Views(noisy, target, weight)

    def clean(self, scenes: PatchBatch, scale: int) -> Tensor:
        """The scenes themselves, some without their colour."""
        return greyed(scenes.whole(), grey_scenes(scenes, self.grey))


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


def white_noise(clean: Tensor, low: float, high: float, rng: torch.Generator) -> Shots:
    """The same level in every pixel and channel, drawn evenly for each scene. low, high: 0-255 scale."""
    part = torch.rand(len(clean), generator=rng, device=clean.device)
    sigma = ((low + (high - low) * part) / 255).view(-1, 1, 1, 1)
    first, second = torch.randn((2, *clean.shape), generator=rng, device=clean.device)
    return Shots(first.mul_(sigma).add_(clean), second.mul_(sigma), sigma.square().view(-1, 1).expand(-1, 3))


def paired(clean: Tensor, shots: Shots, target_views: int, is_grey: Tensor | None) -> Views:
    """Views of clean scenes. The target is the mean of so many shots.

    The error of a scene weighs 1 at USUAL, and as (σ² + FAINT²)^(-GROWTH / 2) elsewhere: about the inverse of the
    error that is left at each level, so that a tenth less of it counts the same at every one of them, as it does
    in dB. With equal weights the loudest scenes take all of the gradient. σ comes from what was drawn, never from
    noisy pixels.
    """
    noisy, noise, power = shots
    variance = power.mean(1)
    if is_grey is not None:
        # Green's noise stands for that of all three: it has the most of luma.
        noisy, noise = (torch.where(is_grey.view(-1, 1, 1, 1), t[..., 1:2], t) for t in (noisy, noise))
        variance = torch.where(is_grey, power[:, 1], variance)
    target = noise.mul_(target_views**-0.5).add_(clean)
    return Views(noisy, target, ((USUAL**2 + FAINT**2) / (255**2 * variance + FAINT**2)) ** (GROWTH / 2))


def grey_scenes(scenes: PatchBatch, share: float) -> Tensor | None:
    """Which scenes lose their colour, (N,); None if none do."""
    return by_place(scenes, 1009) < share if share else None


def by_place(scenes: PatchBatch, prime: int) -> Tensor:
    """A number on [0, 1) for each scene, (N,), another for another prime of about 1000.

    Scenes' places decide, which are drawn: so it is known without noise, too.
    """
    places = scenes.places
    number = places.image * 7919 + places.top * 104_729 + places.left * 1_299_709
    # Spread over all remainders: neighbouring places must not have neighbouring numbers.
    return (number % prime / prime).to(scenes.device, non_blocking=True)


def greyed(clean: Tensor, is_grey: Tensor | None) -> Tensor:
    """Scenes, some of which are their luma alone."""
    if is_grey is None:
        return clean
    red, green, blue = LUMA
    luma = red * clean[..., :1] + green * clean[..., 1:2] + blue * clean[..., 2:]
    return torch.where(is_grey.view(-1, 1, 1, 1), luma, clean)


def round_to_8_bits(noisy: Tensor) -> Tensor:
    """In place: clipped to [0, 1] and rounded, as in a file."""
    return noisy.mul_(255).round_().clamp_(0, 255).div_(255)


def planner(rng: torch.Generator) -> torch.Generator:
    """A generator on the CPU for what is decided there, such as how many scenes get a kind of noise.

    rng: itself where it is on the CPU; elsewhere its seed names another.
    """
    return rng if rng.device.type == "cpu" else seeded(rng.initial_seed())


def parts(count: int, shares: Sequence[float], rng: torch.Generator) -> list[slice]:
    """Slices of a batch for shares of it, and one for the rest; on average, each is exactly its share.

    Scenes are drawn independently, so it does not matter which of them come first. rng: on the CPU.
    Source: systematic sampling, Cochran, "Sampling Techniques", 1977, chapter 8.
    """
    start = float(torch.rand((), generator=rng))
    # Scene i stands for the point i + start; a part takes those below its end.
    ends = [min(max(math.ceil(count * end - start), 0), count) for end in accumulate(shares)] + [count]
    return [slice(first, last) for first, last in zip([0, *ends[:-1]], ends, strict=True)]
