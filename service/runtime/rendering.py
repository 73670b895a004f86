"""Rendering for the eye: makes images smaller, and maps their samples to the 8 bits that a screen shows."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.imageio.image import WHITE, Image
from engine.imageio.metadata import Metadata

# Samples that the distribution is measured on, at most.
MEASURED = 2_000_000
BINS = 128
# Share of the samples that automatic points put below black, and above white.
CLIPPED = 0.001
# Share of the samples beyond the ends of a histogram, so that a few hot pixels do not squeeze the rest.
OUTLIERS = 0.0001
# How far a histogram reaches beyond the others, as a share of their range.
MARGIN = 0.25
# An image is shown as it is stored if its bright samples are above this share of white, and its dark ones below
# the other share: it is a photograph that was made for a screen.
BRIGHT = 0.5
DARK = 0.25
# Rows of the result that are made at a time.
STRIP = 64


@dataclass(frozen=True)
class Distribution:
    """How an image's samples are distributed, in the file's units.

    range: the lowest and the highest. ends: of the histogram, which leaves out a few outliers. counts: of the
    histogram's bins, from dark to bright. black, white: automatic points for viewing.
    """

    range: tuple[float, float]
    ends: tuple[float, float]
    counts: tuple[int, ...]
    black: float
    white: float


def distribution_of(image: Image) -> Distribution:
    """The distribution of an image's samples, all channels together. Of a large image a part is measured."""
    samples = image.samples.numpy()
    low, high = float(samples.min()), float(samples.max())
    step = max(1, round((samples.size / MEASURED) ** 0.5))
    some = np.sort(samples[::step, ::step], None).astype(np.float64)
    stored = (0.0, float(WHITE[image.samples.dtype])) if not image.stored else None
    if image.depth == "8":
        ends = (0.0, 255.0)
    else:
        first, last = _quantiles(some, OUTLIERS)
        margin = MARGIN * (last - first)
        ends = (max(low, first - margin), min(high, last + margin))
    if ends[0] >= ends[1]:
        ends = (ends[0] - 0.5, ends[0] + 0.5)
    counts, _ = np.histogram(some, BINS, ends)
    black, white = _quantiles(some, CLIPPED)
    if stored and _fills(stored, (low, high), (black, white), image.depth == "8"):
        black, white = stored
    if black >= white:
        black, white = ends
    return Distribution((low, high), ends, tuple(int(count) for count in counts), black, white)


def _quantiles(ordered: NDArray[np.float64], tail: float) -> tuple[float, float]:
    last = len(ordered) - 1
    return float(ordered[round(tail * last)]), float(ordered[round((1 - tail) * last)])


def _fills(
    stored: tuple[float, float], limits: tuple[float, float], ends: tuple[float, float], has_8_bits: bool
) -> bool:
    """Whether an image is made to be shown from black to white as it is stored."""
    white = stored[1]
    within = limits[0] >= stored[0] and limits[1] <= white
    return has_8_bits or (within and ends[0] <= DARK * white and ends[1] >= BRIGHT * white)


def crop(image: Image, left: int, top: int, width: int, height: int) -> Image:
    """A part of an image. It shares the memory of the whole."""
    area = (slice(top, top + height), slice(left, left + width))
    alpha = None if image.alpha is None else image.alpha[area]
    return replace(image, samples=image.samples[area], alpha=alpha, missing=None)


def reduce(image: Image, factor: int) -> Image:
    """Each block of factor x factor pixels as one pixel, their mean. The last blocks may be smaller."""
    if factor == 1:
        return image
    alpha = None if image.alpha is None else _reduced(image.alpha.unsqueeze(2), factor).squeeze(2)
    return replace(image, samples=_reduced(image.samples, factor), alpha=alpha, missing=None)


def _reduced(samples: Tensor, factor: int) -> Tensor:
    """(H, W, C) -> (ceil(H / factor), ceil(W / factor), C), of the same type."""
    height, width, channels = samples.shape
    rows, columns = -(-height // factor), -(-width // factor)
    small = torch.empty(rows, columns, channels, dtype=samples.dtype)
    starts = np.arange(0, width, factor)
    widths = torch.from_numpy(np.diff(starts, append=width)).float().view(-1, 1)
    for top in range(0, rows, STRIP):
        part = samples[top * factor : (top + STRIP) * factor].numpy().astype(np.float32)
        row_starts = np.arange(0, len(part), factor)
        heights = torch.from_numpy(np.diff(row_starts, append=len(part))).float().view(-1, 1, 1)
        summed = np.add.reduceat(np.add.reduceat(part, row_starts, 0), starts, 1)
        mean = torch.from_numpy(summed).div_(heights).div_(widths)
        small[top : top + STRIP] = mean if small.is_floating_point() else mean.round_().to(small.dtype)
    return small


def beside(left: Image, right: Image) -> Image:
    """Two images of the same size and kind side by side."""
    alpha = None if left.alpha is None or right.alpha is None else torch.cat((left.alpha, right.alpha), 1)
    return replace(left, samples=torch.cat((left.samples, right.samples), 1), alpha=alpha)


def to_8_bits(image: Image, black: float, white: float) -> Image:
    """The image with 8 bits. black, white: the samples that become 0 and 255, in the file's units."""
    if image.depth == "8" and (black, white) == (0, 255):
        return image
    samples = torch.empty(image.samples.shape, dtype=torch.uint8)
    for top in range(0, len(samples), STRIP):
        # Floats of 64 bits: the points can be close together and far from 0.
        part = image.samples[top : top + STRIP].to(torch.float64).sub_(black).mul_(255).div_(white - black)
        samples[top : top + STRIP] = part.clamp_(0, 255).round_().to(torch.uint8)
    alpha = None if image.alpha is None else _alpha_in_8_bits(image.alpha)
    return replace(image, samples=samples, alpha=alpha, stored="", missing=None)


def _alpha_in_8_bits(alpha: Tensor) -> Tensor:
    return alpha.float().mul_(255 / WHITE[alpha.dtype]).clamp_(0, 255).round_().to(torch.uint8)


def with_colours_alone(image: Image) -> Image:
    """The image without metadata other than that of its colours, which a screen needs."""
    known = image.metadata
    return replace(image, metadata=Metadata(icc_profile=known.icc_profile, colour_code=known.colour_code))
