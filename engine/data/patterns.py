"""Synthetic images full of patterns: stripes, checks, dots and text.

Most photographs, and dead leaves, have little of the regular fine structure of manufactured things: cloth,
blinds, screens, halftones, small print. A network that has seen too little of it removes the finest as noise,
whatever its contrast.
"""

import math

import torch
from torch import Tensor

from engine.data.dead_leaves import (
    OVERSAMPLING,
    Leaves,
    check_size,
    downsample,
    drop_leaves,
    rotations,
    to_bytes,
    visible_leaves,
)
from engine.data.rng import uniform
from engine.data.text import random_page

# Share of the images that are pages of text.
TEXT_SHARE = 1 / 3
# Smallest radius of the leaves, in pixels of the result: drawn for each image between these.
MIN_RADIUS = (8.0, 40.0)
# Periods of the waves, in pixels of the result: the exponent of 2, drawn between these.
PERIOD_EXPONENTS = (1.0, 5.0)
# Largest steepness of the edges, as an exponent of 2; a sine has 0.
MAX_STEEPNESS_EXPONENT = 3.0
# How far apart the two colours of a leaf may be, in multiples of the difference between two leaves.
COLOUR_CONTRAST = 4.0


def patterns(height: int, width: int, rng: torch.Generator) -> Tensor:
    """Leaves with stripes, checks or dots in two colours, or a page of text.

    The contrast is of any strength, the periods reach down to two pixels. uint8 (height, width, 3), the same for
    the same state of rng. Raises ValueError for an empty size.
    """
    check_size(height, width)
    rows, cols = height * OVERSAMPLING, width * OVERSAMPLING
    if float(torch.rand((), generator=rng)) < TEXT_SHARE:
        return to_bytes(downsample(random_page(rows, cols, OVERSAMPLING, rng)))
    leaves = drop_leaves(rows, cols, rng, MIN_RADIUS)
    visible = visible_leaves(leaves, rows, cols).view(rows, cols)
    share = _wave_field(leaves, visible, rng)[..., None]
    first, second = leaves.colour, _second_colours(leaves.colour, rng)
    return to_bytes(downsample(torch.lerp(first[visible], second[visible], share)))


def _wave_field(leaves: Leaves, visible: Tensor, rng: torch.Generator) -> Tensor:
    """(rows, cols) on [0, 1]: the share of the second colour. Each leaf has two crossing waves of one period."""
    count = len(leaves.colour)
    y, x = torch.arange(visible.shape[0]).view(-1, 1), torch.arange(visible.shape[1])
    dy, dx = y - leaves.centre[visible, 0], x - leaves.centre[visible, 1]
    rotation = rotations(count, rng)
    shortest, longest = PERIOD_EXPONENTS
    # Short periods are more frequent: they are what a network does not know.
    exponent = shortest + (longest - shortest) * torch.rand(count, generator=rng).square()
    frequency = 2**-exponent / OVERSAMPLING
    # The period changes across a leaf, as on a surface that is bent or seen at an angle.
    change = 0.5 * torch.randn((2, count), generator=rng) / max(visible.shape)
    waves = []
    for axis in (0, 1):
        along = rotation[visible, axis, 0] * dy + rotation[visible, axis, 1] * dx
        waves.append((2 * math.pi * frequency[visible] * along * (1 + change[axis][visible] * along)).sin())
    first, second = waves
    # 0: checks, 1: dots, 2 and 3: stripes.
    kind = torch.randint(4, (count,), generator=rng)[visible]
    wave = torch.where(kind == 0, first * second, torch.where(kind == 1, (first + second) / 2, first))
    steepness = 2 ** uniform(0, MAX_STEEPNESS_EXPONENT, (count,), rng)[visible]
    return 0.5 + 0.5 * (steepness * wave).tanh() / steepness.tanh()


def _second_colours(colour: Tensor, rng: torch.Generator) -> Tensor:
    """(N, 3): a lighter or darker shade of each leaf's colour, or its colour moved away from another leaf's."""
    shade = colour * 2 ** uniform(-2.5, 2.5, (len(colour), 1), rng)
    other = colour[torch.randperm(len(colour), generator=rng)]
    use_shade = torch.rand((len(colour), 1), generator=rng) < 0.5
    return torch.where(use_shade, shade, torch.lerp(colour, other, COLOUR_CONTRAST)).clamp(0, 1)
