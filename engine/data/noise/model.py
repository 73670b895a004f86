"""Noise models: what makes two independent noisy views of each of a batch of scenes.

Scenes are squares of N images, scale times as large as their views, scale being the model's; views are float32
(N, side, side, 3) on [0, 1]. What differs from scene to scene, as its level, is a tensor (N,).
Targets are never clipped: clipping would give the noise a mean, and the method needs none. Everything is drawn
on the scenes' device, and no number of a tensor is looked at: on a GPU nothing waits.
"""

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from engine.data.patch_store import PatchBatch
from engine.data.rng import seeded_generator
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
    return rng if rng.device.type == "cpu" else seeded_generator(rng.initial_seed())


def parts(count: int, shares: Sequence[float], rng: torch.Generator) -> list[slice]:
    """Slices of a batch for shares of it, and one for the rest; on average, each is exactly its share.

    Scenes are drawn independently, so it does not matter which of them come first. rng: on the CPU.
    Source: systematic sampling, Cochran, "Sampling Techniques", 1977, chapter 8.
    """
    start = float(torch.rand((), generator=rng))
    # Scene i stands for the point i + start; a part takes those below its end.
    ends = [min(max(math.ceil(count * end - start), 0), count) for end in accumulate(shares)] + [count]
    return [slice(first, last) for first, last in zip([0, *ends[:-1]], ends, strict=True)]
