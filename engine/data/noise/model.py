"""Noise models: the protocol, the views they return, and what several models share.

A model makes two noisy views of each scene, with independent noise. Scenes are square patches, `scale` times as
large as their views. Views are float32 (N, side, side, 3) on [0, 1]. What differs between scenes, such as the
level, is a tensor (N,).
Targets are never clipped: clipping would give the noise a mean, and the method needs a mean of zero. All numbers
are drawn on the scenes' device and none is read back, so a GPU never has to synchronise.
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

# Noise level at which a scene's error has weight 1 in the loss, 0-255 scale.
REFERENCE_LEVEL = 25.0
# Below this level, 0-255 scale, less noise hardly leaves less error.
FAINT_LEVEL = 4.0
# The error that is left grows as this power of σ: it is 33.7, 30.9 and 27.6 dB at σ 15, 25 and 50.
ERROR_EXPONENT = 1.2


class Views(NamedTuple):
    """Two noisy views of each scene, (N, side, side, 3), and the weight of its error in the loss, (N,)."""

    noisy: Tensor
    target: Tensor
    weight: Tensor


class Shots(NamedTuple):
    """For each clean scene (N, side, side, 3): a noisy shot, the noise of a second shot, and that noise's power.

    power: the expected mean square of the noise in each channel, (N, 3), known from the drawn parameters.
    """

    noisy: Tensor
    noise: Tensor
    power: Tensor


class NoiseModel(Protocol):
    """A model of noise."""

    @property
    def largest_scale(self) -> int:
        """Largest number of scene pixels, along a side, for one pixel of a view."""

    def draw_scales(self, count: int, rng: torch.Generator) -> list[int]:
        """The scales of `count` views: scene pixels, along a side, for one pixel. rng: on the CPU."""

    def views(self, scenes: PatchBatch, scale: int, rng: torch.Generator) -> Views:
        """Two views of each scene with independent noise. rng: on the scenes' device."""

    def clean(self, scenes: PatchBatch, scale: int) -> Tensor:
        """The expected value of the views: for validation only, never for training."""


def make_views(clean: Tensor, shots: Shots, target_views: int, is_grey: Tensor | None) -> Views:
    """Views of clean scenes from their shots. target_views: how many shots the target is the mean of."""
    noisy, noise, power = shots
    variance = power.mean(1)
    if is_grey is not None:
        # All channels get the noise of green, which has the largest part in luma.
        noisy, noise = (torch.where(is_grey.view(-1, 1, 1, 1), t[..., 1:2], t) for t in (noisy, noise))
        variance = torch.where(is_grey, power[:, 1], variance)
    target = noise.mul_(target_views**-0.5).add_(clean)
    return Views(noisy, target, error_weight(variance))


def error_weight(variance: Tensor) -> Tensor:
    """The weight of a scene's error in the loss, by the variance σ² of its noise on the [0, 1] scale.

    It is 1 at REFERENCE_LEVEL and grows as (σ² + FAINT_LEVEL²)^(-ERROR_EXPONENT / 2). This is about the inverse
    of the error left at each level, so a tenth less error counts the same at every level, as it does in dB. With
    equal weights the noisiest scenes would take all of the gradient. σ comes from the drawn parameters, never
    from noisy pixels.
    """
    reference, faint = REFERENCE_LEVEL**2, FAINT_LEVEL**2
    return ((reference + faint) / (255**2 * variance + faint)) ** (ERROR_EXPONENT / 2)


def grey_mask(scenes: PatchBatch, share: float) -> Tensor | None:
    """Which scenes lose their colour, bool (N,); None if the share is 0."""
    return position_hash(scenes, 1009) < share if share else None


def position_hash(scenes: PatchBatch, prime: int) -> Tensor:
    """A pseudo-random number on [0, 1) for each scene, (N,), computed from its position.

    Unlike a number from a generator, it can be computed again for the clean scenes alone. Different primes of
    about 1000 give unrelated numbers.
    """
    boxes = scenes.boxes
    number = boxes.image * 7919 + boxes.top * 104_729 + boxes.left * 1_299_709
    # The large factors spread neighbouring positions over all remainders.
    return (number % prime / prime).to(scenes.device, non_blocking=True)


def remove_colour(clean: Tensor, is_grey: Tensor | None) -> Tensor:
    """The scenes, those of the mask reduced to their luma."""
    if is_grey is None:
        return clean
    red, green, blue = LUMA
    luma = red * clean[..., :1] + green * clean[..., 1:2] + blue * clean[..., 2:]
    return torch.where(is_grey.view(-1, 1, 1, 1), luma, clean)


def round_to_8_bits(noisy: Tensor) -> Tensor:
    """In place: clipped to [0, 1] and rounded, as in a file."""
    return noisy.mul_(255).round_().clamp_(0, 255).div_(255)


def cpu_generator(rng: torch.Generator) -> torch.Generator:
    """A generator for decisions on the CPU, such as how many scenes get a kind of noise.

    It is rng itself if that is on the CPU, or else one with rng's seed.
    """
    return rng if rng.device.type == "cpu" else seeded_generator(rng.initial_seed())


def split_batch(count: int, shares: Sequence[float], rng: torch.Generator) -> list[slice]:
    """Slices of a batch for shares of it, and one for the rest. On average each has exactly its share.

    The order of the scenes is random already, so each slice is a random sample. rng: on the CPU.
    Source: systematic sampling, Cochran, "Sampling Techniques", 1977, chapter 8.
    """
    start = float(torch.rand((), generator=rng))
    # Scene i stands for the point i + start; a slice takes the points below its end.
    ends = [min(max(math.ceil(count * end - start), 0), count) for end in accumulate(shares)] + [count]
    return [slice(first, last) for first, last in zip([0, *ends[:-1]], ends, strict=True)]
