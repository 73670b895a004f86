"""Value range: where an image's samples lie, and whether they lie as a photograph's do."""

import numpy as np
from torch import Tensor

# Share of the samples below the low end of the range, and above the high end.
TAIL = 0.001
# An image whose range begins higher than this share of itself has an offset. Measured on 8 images: an offset of
# half the range costs 0.5 % of the rmse, one as large as the range 1 %.
MAX_OFFSET = 0.5
# Blocks' means of a photograph lie within black and white, give or take this share of the range.
MAX_BEYOND = 0.2
# Least range of a photograph, as a share of white. What spans less is measured in other units.
MIN_SPAN = 0.001
# Side, in pixels, of the blocks whose means say where an image lies without its noise.
BLOCK = 8


def range_of(values: Tensor) -> tuple[float, float]:
    """The values between which all but the tails lie."""
    last = values.numel() - 1
    ends = [round(TAIL * last), round((1 - TAIL) * last)]
    # Not torch.quantile, which takes at most 2^24 values and sorts them all.
    low, high = np.partition(values.flatten().numpy(), ends)[ends].tolist()
    return low, high


def is_even(samples: Tensor) -> bool:
    """Whether all samples are equal. samples: of any type that an Image has."""
    return bool((samples == samples.flatten()[0]).all())


def only_channel(samples: Tensor) -> int | None:
    """The channel that holds an image, if it is one of several and the others are the same everywhere.

    samples: (H, W, C). A microscope that records one dye often leaves the other channels empty.
    """
    varied = [number for number, channel in enumerate(samples.unbind(2)) if not _is_even_plane(channel)]
    return varied[0] if len(varied) == 1 < samples.shape[2] else None


def without_even_channels(samples: Tensor) -> Tensor:
    """The samples (H, W, 1) of the only channel that holds an image, or all samples (H, W, C)."""
    channel = only_channel(samples)
    return samples if channel is None else samples[..., channel : channel + 1]


def _is_even_plane(plane: Tensor) -> bool:
    # Most planes differ within the first row.
    return is_even(plane[0]) and is_even(plane)


def is_photograph(tiles: Tensor, white: int, limits: tuple[float, float] | None = None) -> bool:
    """Whether the samples begin near black, come near white, and reach beyond either by their noise at most.

    tiles: (T, h, w, C) floats in the samples' units. limits: their `range_of`, if it is known.
    An even image counts as a photograph.
    """
    low, high = limits or range_of(tiles)
    span = high - low
    # Blocks' means, since the noise of a photograph in floats may reach beyond black and white.
    side = min(BLOCK, *tiles.shape[1:3])
    means = tiles.unfold(1, side, side).unfold(2, side, side).mean((4, 5))
    darkest, brightest = (float(end) for end in means.aminmax())
    within = darkest >= -MAX_BEYOND * span and brightest <= white + MAX_BEYOND * span
    return span <= 0 or (within and low <= MAX_OFFSET * span and span >= MIN_SPAN * white)
