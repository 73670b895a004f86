"""A whole picture through a network: patches, windows, halo, borders."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from engine.layers import Layer, slots
from engine.networks import bytes_per_pixel, halo

PATCH = 32
MEMORY_BUDGET = 512 * 2**20


class Span(NamedTuple):
    """Along one side: the pixels start..stop that a window gives, of first..last that it is given."""

    first: int
    start: int
    stop: int
    last: int


class Cancelled(Exception):
    """The picture is no longer wanted."""


def denoise_picture(
    net: Layer,
    picture: Tensor,
    memory_budget: int = MEMORY_BUDGET,
    window: tuple[int, int] | None = None,
    wanted: Callable[[], bool] = lambda: True,
) -> Tensor:
    """picture: float32 (H, W, 3) on [0, 1], any size from 1 x 1 -> the same shape, its noise removed.

    The picture is taken as if mirrored, right and below, to whole patches of 32 x 32, and goes through the
    network in windows of whole patches, each with a halo of real neighbours as wide as the network's reach: so
    the result is that of the whole mirrored picture, whatever the window. The windows are the cheapest that fit
    memory_budget, in bytes, and at least a patch; `window` sets them by hand, in patches (high, wide). The
    result lies on the CPU and is not clipped. Thread-safe. `wanted` is asked before each window.
    Raises ValueError for another shape or type, Cancelled when no longer wanted.
    """
    if picture.dim() != 3 or picture.shape[2] != 3 or not picture.is_floating_point() or not picture.numel():
        raise ValueError(f"a picture is (H, W, 3) of floats; got {tuple(picture.shape)} of {picture.dtype}")
    if PATCH % net.stride:
        raise ValueError(f"a network's stride must divide {PATCH}; this one's is {net.stride}")
    height, width = picture.shape[:2]
    if window is None:
        window = plan((height, width), halo(net), memory_budget // bytes_per_pixel(net))
    device = next(slots(net)).value.device
    result = torch.empty_like(picture, device="cpu")
    for rows in spans(height, window[0], halo(net)):
        for cols in spans(width, window[1], halo(net)):
            if not wanted():
                raise Cancelled
            given = _mirrored(picture, rows, cols).to(device)
            clean = net.forward(given.unsqueeze(0)).squeeze(0)
            inner = clean[rows.start - rows.first :, cols.start - cols.first :]
            bottom, right = min(rows.stop, height), min(cols.stop, width)
            result[rows.start : bottom, cols.start : right] = inner[
                : bottom - rows.start, : right - cols.start
            ].to("cpu")
    return result


def plan(size: tuple[int, int], margin: int, most: int) -> tuple[int, int]:
    """The windows, in patches (high, wide), whose halos cost least among those of at most `most` pixels.

    size: the picture's (height, width); margin: the halo. One patch where nothing fits.
    """
    rows, cols = (_splits(side, margin) for side in size)
    fitting = [
        (row.cost * col.cost, row.patches, col.patches)
        for row in rows
        for col in cols
        if row.largest * col.largest <= most
    ]
    return min(fitting)[1:] if fitting else (1, 1)


class _Split(NamedTuple):
    """One way to cut a side: patches a window, the largest window and all windows, in pixels with halo."""

    patches: int
    largest: int
    cost: int


def _splits(side: int, margin: int) -> list[_Split]:
    """One for each number of windows, the patches shared out evenly."""
    patches = -(-side // PATCH)
    sizes = sorted({-(-patches // parts) for parts in range(1, patches + 1)})
    lengths = {size: [s.last - s.first for s in spans(side, size, margin)] for size in sizes}
    return [_Split(size, max(given), sum(given)) for size, given in lengths.items()]


def spans(side: int, patches: int, margin: int) -> Iterator[Span]:
    """The windows along one side of `side` pixels, `patches` each, their halo clipped at the mirrored border."""
    whole = -(-side // PATCH) * PATCH
    for start, stop in pairwise([*range(0, whole, patches * PATCH), whole]):
        yield Span(max(0, start - margin), start, stop, min(whole, stop + margin))


def _mirrored(picture: Tensor, rows: Span, cols: Span) -> Tensor:
    """The part of the mirrored picture that a window is given; the mirrored whole is never made."""
    y, x = (
        mirror(torch.arange(span.first, span.last), side)
        for span, side in ((rows, picture.shape[0]), (cols, picture.shape[1]))
    )
    inside = picture[y[0] : y[-1] + 1, x[0] : x[-1] + 1]
    if inside.shape[:2] == (len(y), len(x)):
        return inside
    return picture[y.unsqueeze(1), x]


def mirror(places: Tensor, side: int) -> Tensor:
    """Where places at and beyond `side` lie in a picture mirrored again and again at its last pixels."""
    if side == 1:
        return torch.zeros_like(places)
    period = 2 * (side - 1)
    return side - 1 - (places % period - (side - 1)).abs()
