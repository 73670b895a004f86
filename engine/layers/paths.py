"""Every form of the convolution's products, and `choose`, the one place that picks one.

A convolution is three products: im2col(x) @ weight, its adjoint col2im(y @ weight'), and the weight's gradient
im2col(x)' @ y. A transposed convolution is the same three the other way about.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from math import prod
from typing import Protocol

import torch
from torch import Tensor

from engine.layers.products import by_onednn, inner, product, product_into, products_into, seconds
from engine.layers.strips import WHOLE, Finish, Strip, empty, empty_like, strips
from engine.layers.window import Window, col2im, taps, turned

# In each path `make` makes a strip: what it works in is free again when it returns, and so still in the cache.

# With fewer channels Winograd's sums take longer than the products that they save, in float32 by up to a third of
# all. In bfloat16 they would lose digits where they count, in the layers at half the picture's size: a network's
# mean PSNR moved by 0.016 dB instead of 0.009.
FEWEST = 48
# From so many on float32 saves more by a fourth of the products than tiles cost to gather: M's step takes 6 to 9
# per cent less. With 128 it lost 5 per cent.
MANY = 192


class Path(Protocol):
    """The three products of a convolution, in one form.

    x: (N, H, W, C), y: (N, H_out, W_out, C_out), contiguous; weight: (k² · C, C_out), rows as im2col has them.
    `finish` is called with each part of the result as soon as it is made.
    """

    def prepare(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """The weight as `product` wants it, once for many calls."""

    def product(self, x: Tensor, prepared: Tensor, finish: Finish | None) -> Tensor:
        """x -> y = im2col(x) @ weight."""

    def prepare_adjoint(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """The weight as `adjoint` wants it."""

    def adjoint(self, y: Tensor, prepared: Tensor, shape: Sequence[int], finish: Finish | None) -> Tensor:
        """y -> x = col2im(y @ weight'), of the given shape."""

    def gradient(self, x: Tensor, y: Tensor) -> Tensor:
        """im2col(x)' @ y over all rows: (k² · C, C_out), float32 at least."""


@cache
def choose(window: Window, in_channels: int, out_channels: int, dtype: torch.dtype, device: torch.device) -> Path:
    """The fastest form measured for the geometry, the type and the processor (`python -m tests.bench`).

    3x3 at stride 1 with few channels: the definition's products, stacked. With more, in float32, Winograd's
    F(4, 3), half of those products, or, with many, F(4x4, 3x3), a fourth; in bfloat16 F(2, 3), which costs few
    digits, but where the processor has a unit for matrices, which makes more products than memory can feed. A GPU
    wants few, large products.
    """
    if device.type == "cpu" and window == Window(3, 1, 1):
        channels = min(in_channels, out_channels)
        if channels < FEWEST:
            return Stacked()
        if dtype == torch.bfloat16:
            return Stacked() if has_matrix_unit() else Winograd(2)
        return Winograd(4) if channels < MANY else Tiles()
    if window.kernel_size == window.stride and not window.padding and window.dilation == 1:
        return Patches(window)
    if window == Window(3, 2, 1):
        return Phases(window)
    return Unfolded(window)


@cache
def has_matrix_unit() -> bool:
    """Whether bfloat16 is multiplied many times as fast as float32: 4 to 8 times with a unit for it, else 2."""
    factors = [torch.ones(512, 512, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)]
    single, half = (seconds(partial(product, factor, factor)) for factor in factors)
    return single > 3.5 * half


class Unfolded:
    """The definition, a strip at a time: the columns of the whole never exist."""

    def __init__(self, window: Window) -> None:
        self.window = window
        # At stride 1 the adjoint is a convolution with the kernel turned: one product, no scattered sums.
        self.turns = window.stride == 1 and window.padding < window.span

    def prepare(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """(k² · C, C_out)."""
        return weight.to(dtype)

    def product(self, x: Tensor, prepared: Tensor, finish: Finish | None) -> Tensor:
        """x -> y = im2col(x) @ weight."""
        y = empty((len(x), *self.window.out(*x.shape[1:3]), prepared.shape[1]), x.dtype, x.device)

        def make(strip: Strip) -> None:
            part = y[strip]
            product_into(part.view(-1, prepared.shape[1]), self._columns(x, strip), prepared)
            if finish:
                finish(part, strip)

        for strip in self._strips(x, prepared.shape[1]):
            make(strip)
        return y

    def prepare_adjoint(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """(C_out, k² · C) or, turned, (k² · C_out, C)."""
        if self.turns:
            return turned(weight, len(weight) // self.window.kernel_size**2).to(dtype)
        return weight.to(dtype).T

    def adjoint(self, y: Tensor, prepared: Tensor, shape: Sequence[int], finish: Finish | None) -> Tensor:
        """y -> x = col2im(y @ weight')."""
        if self.turns:
            back = self.window.turned()
            # Rows and columns of zeros for those that output padding adds to the result.
            more = [side - made for side, made in zip(shape[1:3], back.out(*y.shape[1:3]), strict=True)]
            if any(more):
                y = torch.constant_pad_nd(y, (0, 0, 0, more[1], 0, more[0]))
            return Unfolded(back).product(y, prepared, finish)
        x = col2im(y @ prepared, tuple(shape), self.window)
        if finish:
            finish(x, WHOLE)
        return x

    def gradient(self, x: Tensor, y: Tensor) -> Tensor:
        """im2col(x)' @ y."""

        def make(strip: Strip) -> Tensor:
            return inner(self._columns(x, strip)[None], y[strip].reshape(1, -1, y.shape[3]))[0]

        return _summed(make(strip) for strip in self._strips(x, y.shape[3]))

    def _strips(self, x: Tensor, out_channels: int) -> Iterator[Strip]:
        """Of y. A pixel takes its taps or its result, whichever is more."""
        height, width = self.window.out(*x.shape[1:3])
        widest = max(self.window.kernel_size**2 * x.shape[3], out_channels)
        return strips(len(x), height, width * widest * x.element_size(), x.device)

    def _columns(self, x: Tensor, strip: Strip) -> Tensor:
        """im2col(x) for a strip of y, as the rows of a matrix."""
        window = self.window
        first = strip.rows.start * window.stride - window.padding
        lines = Strip(
            strip.samples,
            slice(first, first + (strip.rows.stop - strip.rows.start - 1) * window.stride + window.span),
        )
        if window.padding:
            part = _padded(x, lines, above=0, below=0, wide=x.shape[2] + 2 * window.padding, left=window.padding)
        else:
            part = x[lines]
        columns = taps(part, replace(window, padding=0))
        if columns.is_contiguous():
            return columns.view(-1, columns.shape[3:].numel())
        made = empty(columns.shape, columns.dtype, columns.device)
        return made.copy_(columns).view(-1, columns.shape[3:].numel())


class Patches(Unfolded):
    """Kernel = stride, no padding: every number is in one window alone, so the adjoint writes and never adds."""

    def __init__(self, window: Window) -> None:
        super().__init__(window)
        self.turns = False

    def adjoint(self, y: Tensor, prepared: Tensor, shape: Sequence[int], finish: Finish | None) -> Tensor:
        """y -> x: one product, and its numbers laid in their places."""
        n, h, w, _ = y.shape
        k, channels = self.window.kernel_size, shape[3]
        if (h * k, w * k) != tuple(shape[1:3]):
            # What no window reaches has to be cleared.
            return super().adjoint(y, prepared, shape, finish)
        x = empty(shape, y.dtype, y.device)
        places = x.view(n, h, k, w, k, channels)

        def make(strip: Strip) -> None:
            columns = product(y[strip].reshape(-1, y.shape[3]), prepared)
            part = places[strip]
            part.copy_(columns.view(part.shape[0], part.shape[1], w, k, k, channels).transpose(2, 3))
            if finish:
                rows = Strip(strip.samples, slice(k * strip.rows.start, k * strip.rows.stop))
                finish(x[rows], rows)

        for strip in strips(n, h, w * k * k * channels * y.element_size(), y.device):
            make(strip)
        return x


class Phases(Unfolded):
    """3x3, stride 2, padding 1: the adjoint by the four phases of its result, of 1, 2, 2 and 4 taps.

    No zeros are multiplied and nothing is scattered: one product gives what each pixel of y adds by each tap, and
    result (2a + i, 2b + j) sums taps of y at (a, b), and for odd i at a + 1, for odd j at b + 1.
    """

    def adjoint(self, y: Tensor, prepared: Tensor, shape: Sequence[int], finish: Finish | None) -> Tensor:
        """y -> x, of 2H_out or 2H_out - 1 rows, and columns likewise."""
        n, h, w, depth = y.shape
        height, _, channels = shape[1:]
        x = empty(shape, y.dtype, y.device)

        def make(strip: Strip) -> None:
            padded = _padded(y, strip, above=0, below=1, wide=w + 1, left=0)
            added = product(padded.view(-1, depth), prepared).view(*padded.shape[:3], 3, 3, channels)
            place = Strip(strip.samples, slice(2 * strip.rows.start, min(2 * strip.rows.stop, height)))
            for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
                part = x[place][:, i::2, j::2]
                rows, columns = part.shape[1:3]
                first, *others = (
                    added[:, down : down + rows, right : right + columns, ky, kx]
                    for ky, down in _TAPS[i]
                    for kx, right in _TAPS[j]
                )
                if not others:
                    part.copy_(first)
                for other in others:
                    torch.add(first, other, out=part)
                    first = part
            if finish:
                finish(x[place], place)

        for strip in strips(n, h, 9 * (w + 1) * channels * y.element_size(), y.device):
            make(strip)
        return x


class SameSize(ABC):
    """3x3, stride 1, padding 1: the adjoint is the product with the kernel turned."""

    @abstractmethod
    def prepare(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """The weight as `product` wants it."""

    @abstractmethod
    def product(self, x: Tensor, prepared: Tensor, finish: Finish | None) -> Tensor:
        """x -> y, of the same height and width."""

    def prepare_adjoint(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """That of the kernel turned."""
        return self.prepare(turned(weight, len(weight) // 9), dtype)

    def adjoint(self, y: Tensor, prepared: Tensor, shape: Sequence[int], finish: Finish | None) -> Tensor:
        """y -> x: the product with the kernel turned."""
        return self.product(y, prepared, finish)


class Stacked(SameSize):
    """3x3, stride 1, padding 1: each pixel beside the ones above and below it, so that a kernel's nine taps are
    one run of numbers in memory.

    Every third pixel's run begins where the last one's ended: so three products, one for each place in three,
    take whole strips, with three copies of the picture where the definition has nine. Each sum is made at once,
    and in bfloat16 is rounded once.
    """

    def prepare(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """(9C, C_out): rows by the kernel's column, then its row."""
        kernel = weight.view(3, 3, -1, weight.shape[1])
        return kernel.transpose(0, 1).to(dtype).reshape(weight.shape)

    def product(self, x: Tensor, prepared: Tensor, finish: Finish | None) -> Tensor:
        """x -> y."""
        out_channels = prepared.shape[1]
        y = empty((*x.shape[:3], out_channels), x.dtype, x.device)

        def make(strip: Strip) -> None:
            stacked, part = self._stack(x, strip), y[strip]
            for place in range(3):
                out = part[:, :, place::3]
                made = product(_runs(stacked[None], place)[0], prepared)
                out.copy_(made.view(*part.shape[:2], -1, out_channels)[:, :, : out.shape[2]])
            if finish:
                finish(part, strip)

        for strip in self._strips(x, out_channels):
            make(strip)
        return y

    def gradient(self, x: Tensor, y: Tensor) -> Tensor:
        """im2col(x)' @ y. Stacked is what has fewer channels: seen from y, the kernel is turned."""
        if y.shape[3] < x.shape[3]:
            return turned(self.gradient(y, x), y.shape[3])

        def make(strip: Strip) -> Tensor:
            stacked = self._stack(x, strip)
            given = _padded(y, strip, above=0, below=0, wide=stacked.shape[2], left=0)
            return _summed(
                inner(_runs(stacked[None], place), _runs(given[None], place, 1))[0] for place in range(3)
            )

        total = _summed(make(strip) for strip in self._strips(x, y.shape[3]))
        return total.view(3, 3, -1, y.shape[3]).transpose(0, 1).reshape(total.shape)

    def _strips(self, x: Tensor, out_channels: int) -> Iterator[Strip]:
        n, height, width, channels = x.shape
        return strips(n, height, 3 * _wide(width) * max(channels, out_channels) * x.element_size(), x.device)

    def _stack(self, x: Tensor, strip: Strip) -> Tensor:
        """A strip's pixels with those above and below them: (samples, rows, wide, 3C). Beyond the picture 0."""
        height, width, channels = x.shape[1:]
        part, top, bottom = x[strip.samples], strip.rows.start, strip.rows.stop
        stacked = _held((len(part), bottom - top, _wide(width), 3 * channels), x, left=1, width=width)
        for row in range(3):
            place = stacked[:, :, 1 : width + 1, row * channels : (row + 1) * channels]
            start, stop = max(top + row - 1, 0), min(bottom + row - 1, height)
            first, last = start - top - row + 1, stop - top - row + 1
            place[:, :first] = 0
            place[:, last:] = 0
            place[:, first:last] = part[:, start:stop]
        return stacked


class Winograd(SameSize):
    """3x3, stride 1, padding 1: Winograd's F(m, 3) down the columns, and runs of three pixels along the rows.

    m rows of the result come from m + 2 products where the definition has 3m: half of them for m = 4, two
    thirds for m = 2. In one direction the sums before and after run over whole rows of the picture as they lie
    in memory.
    Source: Winograd, "Arithmetic complexity of computations", 1980; Lavin & Gray, "Fast algorithms for
    convolutional neural networks", CVPR 2016, section 4.
    """

    def __init__(self, m: int) -> None:
        self.m = m
        self.form: TwoRows | FourRows = TwoRows() if m == 2 else FourRows()

    def prepare(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """(m + 2, 3C, C_out)."""
        return _mixed(self.kernel, weight.view(3, -1), dtype).view(self.m + 2, -1, weight.shape[1])

    def product(self, x: Tensor, prepared: Tensor, finish: Finish | None) -> Tensor:
        """x -> y."""
        height = x.shape[1]
        x = self._whole_tiles(x)
        n, rows, width, channels = x.shape
        out_channels = prepared.shape[2]
        y = empty((n, rows, width, out_channels), x.dtype, x.device)

        def make(strip: Strip) -> None:
            part = y.view(n, -1, self.m, width, out_channels)[strip]
            for made, out in self._products(self._lifted(x, strip), prepared, part):
                self.form.lower(made, out)
            if finish:
                lines = _lines(strip, height, self.m)
                finish(y[lines], lines)

        for strip in self._strips(x, max(channels, out_channels)):
            make(strip)
        return y if rows == height else y[:, :height].contiguous()

    def _products(
        self, lifted: Tensor, prepared: Tensor, part: Tensor
    ) -> Iterator[tuple[Sequence[Tensor], Tensor]]:
        """The m + 2 products, each (samples, tiles, columns, C_out), and of the strip `part` those columns."""
        if by_onednn(_runs(lifted, 0)[0], prepared[0]):
            # Summed as they come, every third column: to lay them beside each other first would be a copy more.
            shape = (*lifted.shape[1:3], -1, prepared.shape[2])
            for place in range(3):
                out = part[:, :, :, place::3]
                made = (
                    product(runs, kernel) for runs, kernel in zip(_runs(lifted, place), prepared, strict=True)
                )
                yield [each.view(shape)[:, :, : out.shape[3]] for each in made], out
            return
        whole = empty((*lifted.shape[:4], prepared.shape[2]), lifted.dtype, lifted.device)
        for place in range(3):
            products_into(_runs(whole, place, 1), _runs(lifted, place), prepared)
        yield whole[:, :, :, : part.shape[3]].unbind(), part

    def gradient(self, x: Tensor, y: Tensor) -> Tensor:
        """im2col(x)' @ y: the adjoint of how the product depends on the weight."""
        x, y = self._whole_tiles(x), self._whole_tiles(y)
        tiles = self._tiles(y)

        def make(strip: Strip) -> Tensor:
            lifted = self._lifted(x, strip)
            spread, inside = self._held(y, strip, left=0)
            self.form.spread(tiles[strip], inside)
            return _summed(inner(_runs(lifted, place), _runs(spread, place, 1)) for place in range(3))

        total = _summed(make(strip) for strip in self._strips(x, max(x.shape[3], y.shape[3])))
        return _mixed(self.kernel.T, total.flatten(1), total.dtype).view(-1, y.shape[3])

    @property
    def kernel(self) -> Tensor:
        """What turns a kernel's rows into those that are multiplied: (m + 2, 3)."""
        return torch.tensor(self.form.kernel, dtype=torch.float64)

    def _whole_tiles(self, x: Tensor) -> Tensor:
        """With rows of zeros below, as many as the last tile lacks."""
        return torch.constant_pad_nd(x, (0, 0, 0, 0, 0, more)) if (more := -x.shape[1] % self.m) else x

    def _tiles(self, x: Tensor) -> Tensor:
        """(samples, tiles, m, W · C)."""
        return x.view(len(x), -1, self.m, x.shape[2] * x.shape[3])

    def _strips(self, x: Tensor, channels: int) -> Iterator[Strip]:
        """The batch cut into strips; their rows are rows of tiles, m rows each."""
        n, height, width, _ = x.shape
        return strips(n, height // self.m, (self.m + 2) * _wide(width) * channels * x.element_size(), x.device)

    def _lifted(self, x: Tensor, strip: Strip) -> Tensor:
        """The m + 2 sums of the m + 2 rows that each tile of the result depends on: (m + 2, ..., wide, C)."""
        lifted, inside = self._held(x, strip, left=1)
        tiles = self._tiles(x)[strip.samples]
        first, last = strip.rows.start, strip.rows.stop
        # The row above the first tile and the one below the last may lie beyond the picture, and be zeros.
        above, below = tiles[:, max(first - 1, 0) : last - 1, -1], tiles[:, first + 1 : last + 1, 0]
        self.form.lift(above, tiles[:, first:last], below, inside)
        return lifted

    def _held(self, x: Tensor, strip: Strip, left: int) -> tuple[Tensor, Tensor]:
        """Room for sums of rows of x: (m + 2, samples, tiles, wide, C), and its inside (..., W · C).

        Beyond the picture it is 0: `left` columns before it, and those up to `wide` after it.
        """
        width, channels = x.shape[2:]
        samples = len(range(*strip.samples.indices(len(x))))
        shape = (self.m + 2, samples, strip.rows.stop - strip.rows.start, _wide(width), channels)
        held = _held(shape, x, left, width)
        return held, held[..., left : left + width, :].flatten(3)


class Tiles(SameSize):
    """3x3, stride 1, padding 1: Winograd's F(4x4, 3x3): a fourth of the definition's products.

    A tile of 4x4 results comes from 36 sums of the 6x6 pixels that it depends on; the sums over a tile are one
    product with a matrix of 36x36. That costs the same for any number of channels, and so pays with many.
    Source: Lavin & Gray 2016, section 4.3.
    """

    # What FourRows.lift and FourRows.lower do.
    INTO = (
        (4.0, 0.0, -5.0, 0.0, 1.0, 0.0),
        (0.0, -4.0, -4.0, 1.0, 1.0, 0.0),
        (0.0, 4.0, -4.0, -1.0, 1.0, 0.0),
        (0.0, -2.0, -1.0, 2.0, 1.0, 0.0),
        (0.0, 2.0, -1.0, -2.0, 1.0, 0.0),
        (0.0, 4.0, 0.0, -5.0, 0.0, 1.0),
    )
    OUT = (
        (1.0, 1.0, 1.0, 1.0, 1.0, 0.0),
        (0.0, 1.0, -1.0, 2.0, -2.0, 0.0),
        (0.0, 1.0, 1.0, 4.0, 4.0, 0.0),
        (0.0, 1.0, -1.0, 8.0, -8.0, 1.0),
    )

    def __init__(self) -> None:
        matrices = (self.INTO, self.OUT, FourRows.kernel)
        rows = (torch.tensor(matrix, dtype=torch.float64) for matrix in matrices)
        self.into, self.out, self.kernel = (torch.kron(a, a) for a in rows)

    def prepare(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """(36, C, C_out)."""
        return _mixed(self.kernel, weight.view(9, -1), dtype).view(36, -1, weight.shape[1])

    def product(self, x: Tensor, prepared: Tensor, finish: Finish | None) -> Tensor:
        """x -> y."""
        n, height, width, channels = x.shape
        out_channels = prepared.shape[2]
        y = empty((n, height, width, out_channels), x.dtype, x.device)

        def make(strip: Strip) -> None:
            lifted = self._lifted(x, strip)
            made = empty((36, lifted.shape[1], out_channels), x.dtype, x.device)
            products_into(made, lifted, prepared)
            self._scatter(product(self.out.to(x), made.flatten(1)), y, strip)
            if finish:
                lines = _lines(strip, height)
                finish(y[lines], lines)

        for strip in self._strips(x, max(channels, out_channels)):
            make(strip)
        return y

    def gradient(self, x: Tensor, y: Tensor) -> Tensor:
        """im2col(x)' @ y: the adjoints of the same sums."""

        def make(strip: Strip) -> Tensor:
            given = self._gathered(y, strip, 4)
            spread = product(self.out.T.to(x), given.flatten(1)).view(36, *given.shape[1:])
            return inner(self._lifted(x, strip), spread)

        total = _summed(make(strip) for strip in self._strips(x, max(x.shape[3], y.shape[3])))
        return _mixed(self.kernel.T, total.flatten(1), total.dtype).view(-1, y.shape[3])

    def _strips(self, x: Tensor, channels: int) -> Iterator[Strip]:
        """The batch cut into strips; their rows are rows of tiles."""
        n, height, width, _ = x.shape
        return strips(n, -(-height // 4), 36 * -(-width // 4) * channels * x.element_size(), x.device)

    def _lifted(self, x: Tensor, strip: Strip) -> Tensor:
        """The 36 sums of every tile: (36, tiles + 1, C)."""
        gathered = self._gathered(x, strip, 6)
        return product(self.into.to(x), gathered.flatten(1)).view(gathered.shape)

    def _gathered(self, x: Tensor, strip: Strip, side: int) -> Tensor:
        """Each tile's 4x4 pixels, or those around them too, 6x6: (side², tiles + 1, C). Beyond the picture 0."""
        rows, across = strip.rows.stop - strip.rows.start, -(-x.shape[2] // 4)
        edge = (side - 4) // 2
        lines = Strip(strip.samples, slice(4 * strip.rows.start, 4 * strip.rows.stop))
        padded = _padded(x, lines, above=edge, below=edge, wide=4 * across + 2 * edge, left=edge)
        sample, row, pixel, _ = padded.stride()
        shape = torch.Size((side, side, len(padded), rows, across, x.shape[3]))
        tiles = padded.as_strided(shape, (row, pixel, sample, 4 * row, 4 * pixel, 1))
        # One tile of nothing more: planes that lie a power of two apart share the same few places of the cache,
        # and with as many planes as here a product took three times as long.
        held = empty((side, side, shape[2:5].numel() + 1, x.shape[3]), x.dtype, x.device)
        held[:, :, -1] = 0
        held[:, :, :-1].view(shape).copy_(tiles)
        return held.flatten(0, 1)

    def _scatter(self, lowered: Tensor, y: Tensor, strip: Strip) -> None:
        """Tiles (16, tiles + 1, C) to their places in y."""
        _, height, width, channels = y.shape
        lines, across = y[_lines(strip, height)], -(-width // 4)
        tiles = lowered.view(4, 4, -1, channels)[:, :, :-1]
        tiles = tiles.view(4, 4, len(lines), -1, across, channels).permute(2, 3, 0, 4, 1, 5)
        if height % 4 or width % 4:
            # What lies beyond the picture is dropped.
            lines.copy_(tiles.flatten(3, 4).flatten(1, 2)[:, : lines.shape[1], :width])
        else:
            lines.view(len(lines), -1, 4, across, 4, channels).copy_(tiles)


class TwoRows:
    """F(2, 3), from the points 0, 1, -1 and infinity. Source: Lavin & Gray 2016, section 4.1; two signs changed.

    Of a result's tile of two rows: d0 is the row of x above it, d1 and d2 lie under it, d3 is the row below.
    Beyond the picture they are zeros: then `above` and `below` are one tile short.
    """

    kernel = ((-1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, -1.0))

    @staticmethod
    def lift(above: Tensor, d: Tensor, below: Tensor, v: Tensor) -> None:
        """The sums that are multiplied: d2 - d0, d1 + d2, d2 - d1, d3 - d1."""
        d1, d2 = d.unbind(2)
        given, wanted = below.shape[1], d1.shape[1]
        first = wanted - above.shape[1]
        torch.sub(d2[:, first:], above, out=v[0, :, first:])
        torch.add(d1, d2, out=v[1])
        torch.sub(d2, d1, out=v[2])
        torch.sub(below, d1[:, :given], out=v[3, :, :given])
        if first:
            v[0, :, 0] = d2[:, 0]
        if given < wanted:
            torch.neg(d1[:, -1], out=v[3, :, -1])

    @staticmethod
    def lower(m: Sequence[Tensor], y: Tensor) -> None:
        """The rows of the result from the products: m0 + m1 + m2, m1 - m2 - m3. The products are used up."""
        torch.add(m[0].add_(m[1]), m[2], out=y[:, :, 0])
        torch.sub(m[1].sub_(m[2]), m[3], out=y[:, :, 1])

    @staticmethod
    def spread(g: Tensor, u: Tensor) -> None:
        """The adjoint of `lower`: g0, g0 + g1, g0 - g1, -g1."""
        g0, g1 = g.unbind(2)
        u[0] = g0
        torch.add(g0, g1, out=u[1])
        torch.sub(g0, g1, out=u[2])
        torch.neg(g1, out=u[3])


class FourRows:
    """F(4, 3), from the points 0, 1, -1, 2, -2 and infinity. Source: Lavin & Gray 2016, section 4.3.

    As TwoRows, with d1 to d4 under the tile.
    """

    kernel = (
        (1 / 4, 0.0, 0.0),
        (-1 / 6, -1 / 6, -1 / 6),
        (-1 / 6, 1 / 6, -1 / 6),
        (1 / 24, 1 / 12, 1 / 6),
        (1 / 24, -1 / 12, 1 / 6),
        (0.0, 0.0, 1.0),
    )

    @staticmethod
    def lift(above: Tensor, d: Tensor, below: Tensor, v: Tensor) -> None:
        """The sums that are multiplied: 4 d0 - 5 d2 + d4, (d4 - 4 d2) ± (d3 - 4 d1), (d4 - d2) ± 2 (d3 - d1),
        4 d1 - 5 d3 + d5.
        """
        d1, d2, d3, d4 = d.unbind(2)
        even, odd = empty_like(v[0]), empty_like(v[0])
        torch.sub(d4, d2, alpha=4, out=even)
        torch.sub(d3, d1, alpha=4, out=odd)
        torch.add(even, odd, out=v[1])
        torch.sub(even, odd, out=v[2])
        torch.sub(d4, d2, out=even)
        torch.sub(d3, d1, out=odd)
        torch.add(even, odd, alpha=2, out=v[3])
        torch.sub(even, odd, alpha=2, out=v[4])
        # Of v0 and v5 the part that sees the rows above and below, which are zeros beyond the picture.
        torch.sub(even, d2, alpha=4, out=v[0])
        torch.sub(torch.neg(d3, out=even), odd, alpha=4, out=v[5])
        v[0, :, d.shape[1] - above.shape[1] :].add_(above, alpha=4)
        v[5, :, : below.shape[1]].add_(below)

    @staticmethod
    def lower(m: Sequence[Tensor], y: Tensor) -> None:
        """The rows of the result from the products, which are used up: with a = m1 + m2, b = m1 - m2, c = m3 + m4
        and d = m3 - m4, they are m0 + a + c, b + 2 d, a + 4 c, b + 8 d + m5.
        """
        a, c = (torch.add(m[i], m[i + 1], out=empty_like(m[i])) for i in (1, 3))
        b, d = (m[i].sub_(m[i + 1]) for i in (1, 3))
        torch.add(m[0].add_(a), c, out=y[:, :, 0])
        torch.add(b, d, alpha=2, out=y[:, :, 1])
        torch.add(a, c, alpha=4, out=y[:, :, 2])
        torch.add(m[5].add_(b), d, alpha=8, out=y[:, :, 3])

    @staticmethod
    def spread(g: Tensor, u: Tensor) -> None:
        """The adjoint of `lower`: g0, (g0 + g2) ± (g1 + g3), (g0 + 4 g2) ± 2 (g1 + 4 g3), g3."""
        g0, g1, g2, g3 = g.unbind(2)
        even, odd = torch.add(g0, g2, out=empty_like(g0)), torch.add(g1, g3, out=empty_like(g1))
        torch.add(even, odd, out=u[1])
        torch.sub(even, odd, out=u[2])
        torch.add(g0, g2, alpha=4, out=even)
        torch.add(g1, g3, alpha=4, out=odd)
        torch.add(even, odd, alpha=2, out=u[3])
        torch.sub(even, odd, alpha=2, out=u[4])
        u[0], u[5] = g0, g3


# Along one side, for an even and an odd row of the adjoint at stride 2: the taps of the kernel that it sums, and
# how far on in y each lies.
_TAPS = (((1, 0),), ((2, 0), (0, 1)))


def _lines(strip: Strip, height: int, each: int = 4) -> Strip:
    """The strip of rows for one of rows of tiles, so many rows each; the last tile may end beyond the picture."""
    return Strip(strip.samples, slice(each * strip.rows.start, min(each * strip.rows.stop, height)))


def _wide(width: int) -> int:
    """A row's pixels with one of padding on each side, in whole threes."""
    return -(-(width + 2) // 3) * 3


def _runs(rows: Tensor, first: int, run: int = 3) -> Tensor:
    """(l, pixels / 3, run · C): of each of (l, ..., C), runs of pixels from pixels first, first + 3, ... on."""
    channels, count = rows.shape[-1], rows[0, ..., 0].numel() // 3
    place = rows.storage_offset() + first * channels
    return rows.as_strided((len(rows), count, run * channels), (rows.stride(0), 3 * channels, 1), place)


def _held(shape: Sequence[int], like: Tensor, left: int, width: int) -> Tensor:
    """Room for rows of pixels, (..., wide, C), of which `width` are to be filled, after `left` others.

    Those beside are 0, and so are two pixels after the last row, which runs of three may reach.
    """
    count, channels = prod(shape), shape[-1]
    memory = empty((count + 2 * channels,), like.dtype, like.device)
    memory[count:] = 0
    held = memory[:count].view(tuple(shape))
    if left:
        held[..., :left, :] = 0
    held[..., left + width :, :] = 0
    return held


def _padded(x: Tensor, strip: Strip, above: int, below: int, wide: int, left: int) -> Tensor:
    """A strip of x with rows of its neighbours above and below: (samples, rows + above + below, wide, C).

    Beyond the picture everything is 0.
    """
    _, height, width, channels = x.shape
    part = x[strip.samples]
    top, bottom = strip.rows.start - above, strip.rows.stop + below
    start = max(top, 0)
    stop = max(start, min(bottom, height))
    padded = _held((len(part), bottom - top, wide, channels), x, left, width)
    padded[:, : start - top] = 0
    padded[:, stop - top :] = 0
    padded[:, start - top : stop - top, left : left + width] = part[:, start:stop]
    return padded


def _mixed(matrix: Tensor, rows: Tensor, dtype: torch.dtype) -> Tensor:
    """matrix @ rows, in another type. As large as a weight, and so better in memory that was used before."""
    made = empty((len(matrix), rows.shape[1]), rows.dtype, rows.device)
    torch.mm(matrix.to(rows), rows, out=made)
    return made if dtype == rows.dtype else empty_like(made, dtype).copy_(made)


def _summed(parts: Iterable[Tensor]) -> Tensor:
    """The sum, in float32 at least: bfloat16 would lose the small ones. The first part is used up."""
    total: Tensor | None = None
    for part in parts:
        if total is None:
            total = part.to(torch.promote_types(part.dtype, torch.float32))
        else:
            total += part
    assert total is not None, "a batch has a strip"
    return total
