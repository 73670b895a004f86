"""Tiling: divides an image into windows that fit the memory budget, each with a halo of neighbouring pixels.

The image is extended by mirroring to a multiple of GRID pixels, and windows begin and end on that grid. Halo
pixels are computed more than once, so the plan with the fewest pixels, halos included, is chosen among all that
fit the memory. An image that fits into one window needs no halo.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise, product
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from engine.layers import Module, ensure_arena, parameters
from engine.layers.arena import empty
from engine.models import receptive_field

# Windows begin and end at multiples of this many pixels. Every network's stride divides it.
GRID = 32
# Rows of a window that are converted at a time: few enough to stay in the cache, in memory that is used again.
WINDOW_STRIP_ROWS = 32


class Span(NamedTuple):
    """A window along one side, in pixels. It outputs start..stop, and reads first..last: the halo included."""

    first: int
    start: int
    stop: int
    last: int

    def inside(self, part: slice) -> slice:
        """A part of the image, relative to the first pixel that the window reads."""
        return slice(part.start - self.first, part.stop - self.first)


@dataclass(frozen=True)
class Window:
    """A part of an image that goes through the network at once.

    shape: (H, W) of the input, halo included.
    pixels: number of image pixels that it outputs.
    fits: number of such windows that the memory budget holds at once.
    read: makes the input when it is called: float32 (H, W, 3) on [0, 1], on the network's device.
    write: takes the network's output and its input.
    """

    net: Module
    shape: tuple[int, int]
    pixels: int
    fits: int
    read: Callable[[], Tensor]
    write: Callable[[Tensor, Tensor], None]


def run_batch(windows: Sequence[Window]) -> None:
    """Run windows of the same network and shape in one batch. They may belong to several images."""
    inputs = [window.read() for window in windows]
    # A single window is not copied.
    batch = torch.stack(inputs) if len(inputs) > 1 else inputs[0].unsqueeze(0)
    with ensure_arena():
        outputs = windows[0].net.forward(batch)
    for window, x, y in zip(windows, batch, outputs, strict=True):
        window.write(y, x)


def windows_of(
    net: Module,
    source: Tensor,
    read: Callable[[Tensor], Tensor],
    write: Callable[[slice, slice, Tensor, Tensor], None],
    memory_budget: int,
    window_size: tuple[int, int] | None,
) -> Iterator[Window]:
    """The windows of an image.

    read: converts a part of `source` to pixels.
    write: takes the rows and columns of the result, and there the network's output and its input.
    memory_budget: in bytes. window_size: (height, width) in grid cells; None chooses it.
    """
    if GRID % net.stride:
        raise ValueError(f"a network's stride must divide {GRID}; this network's stride is {net.stride}")
    height, width = source.shape[:2]
    halo, device = receptive_field.halo(net), next(parameters(net)).value.device
    dtype = source.dtype if source.is_floating_point() else torch.float32
    max_pixels = memory_budget // receptive_field.bytes_per_pixel(net)
    if window_size is None:
        window_size = plan((height, width), halo, max_pixels)

    def input_of(rows: Span, cols: Span) -> Tensor:
        part = _mirrored(source, rows, cols)
        pixels = empty((*part.shape[:2], 3), dtype)
        for strip in strips(len(part), WINDOW_STRIP_ROWS):
            pixels[strip] = read(part[strip])
        return pixels.to(device)

    def keep(to: tuple[slice, slice], inside: tuple[slice, slice], y: Tensor, x: Tensor) -> None:
        write(*to, y[inside], x[inside])

    for rows, cols in product(spans(height, window_size[0], halo), spans(width, window_size[1], halo)):
        shape = (rows.last - rows.first, cols.last - cols.first)
        # Neither the halo nor the mirrored pixels are kept.
        to = (slice(rows.start, min(rows.stop, height)), slice(cols.start, min(cols.stop, width)))
        inside = (rows.inside(to[0]), cols.inside(to[1]))
        pixels = prod(part.stop - part.start for part in to)
        fits = max(1, max_pixels // prod(shape))
        yield Window(net, shape, pixels, fits, partial(input_of, rows, cols), partial(keep, to, inside))


def strips(height: int, rows: int) -> Iterator[slice]:
    """Slices of `rows` rows each that cover the height."""
    for top in range(0, height, rows):
        yield slice(top, top + rows)


def plan(size: tuple[int, int], halo: int, max_pixels: int) -> tuple[int, int]:
    """The cheapest window size, (height, width) in grid cells, for an image of `size` (height, width) in pixels.

    No window, halo included, has more than max_pixels; where nothing fits, a window is one cell. Every number of
    windows along each side is tried, with the cells shared out evenly: some 30 ways a side for 50 megapixels,
    which takes a millisecond or two.

    Windows run one after another, each on all threads. On two cores, one window per core, each in its own
    thread, took 1.4 times as long for 512 x 512 pixels, since both compute the halo. For 2048 x 1360 it took the
    same time and twice the memory. So an image that fits the memory is one window.
    """
    rows, cols = (_splits(side, halo) for side in size)
    fitting = []
    for row, col in product(rows, cols):
        if row.largest * col.largest <= max_pixels:
            fitting.append((row.cost * col.cost, row.cells, col.cells))
    return min(fitting)[1:] if fitting else (1, 1)


class _Split(NamedTuple):
    """One way to divide a side. largest, cost: length of the largest window and of all, in pixels with halo."""

    cells: int
    largest: int
    cost: int


def _splits(side: int, halo: int) -> list[_Split]:
    """One for each number of windows, the cells shared out evenly."""
    cells = -(-side // GRID)
    sizes = sorted({-(-cells // parts) for parts in range(1, cells + 1)})
    lengths = {size: [span.last - span.first for span in spans(side, size, halo)] for size in sizes}
    return [_Split(size, max(each), sum(each)) for size, each in lengths.items()]


def spans(side: int, cells: int, halo: int) -> Iterator[Span]:
    """The windows along a side of `side` pixels, `cells` grid cells each. Halos end at the mirrored border."""
    extended = -(-side // GRID) * GRID
    for start, stop in pairwise([*range(0, extended, cells * GRID), extended]):
        yield Span(max(0, start - halo), start, stop, min(extended, stop + halo))


def _mirrored(image: Tensor, rows: Span, cols: Span) -> Tensor:
    """The part of the mirrored image that a window reads. The whole mirrored image is never made."""
    inside = image[rows.first : rows.last, cols.first : cols.last]
    height, width = inside.shape[:2]
    y, x = (
        mirror(torch.arange(span.first, span.last), side)
        for span, side in ((rows, image.shape[0]), (cols, image.shape[1]))
    )
    if (height, width) == (len(y), len(x)):
        return inside
    # Only the border is indexed pixel by pixel, which is many times slower than copying a block.
    part = image.new_empty(len(y), len(x), image.shape[2])
    part[:height, :width] = inside
    part[:height, width:] = image[rows.first : rows.last, x[width:]]
    part[height:] = image[y[height:].unsqueeze(1), x]
    return part


def mirror(positions: Tensor, side: int) -> Tensor:
    """The pixel at each position along a side of `side` pixels that is mirrored at its ends repeatedly."""
    if side == 1:
        return torch.zeros_like(positions)
    period = 2 * (side - 1)
    return side - 1 - (positions % period - (side - 1)).abs()
