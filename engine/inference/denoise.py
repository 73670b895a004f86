"""A whole image through a network: patches, windows, halo, borders.

A window's halo is work done twice, so the windows taken are those with the fewest pixels, halos counted, of all
that fit the memory. Every number of windows along each side is looked at, the patches shared out evenly because
the largest window has to fit: some 30 ways a side for 50 megapixels, which take a millisecond or two. An image
that fits in one window has no halo at all and runs in one.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise, product
from math import prod
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from engine.defaults import MEMORY_BUDGET
from engine.imageio.image import LUMA, WHITE, Image, to_pixels, to_samples
from engine.layers import Module, ensure_arena, parameters
from engine.layers.arena import empty
from engine.models.networks import bytes_per_pixel, halo

PATCH = 32
# Rows at a time of what is not done in windows.
STRIP = 256
# And of what is done in them: as few as stay in the cache, in memory that need not be taken anew each time.
LOW = 32


class Span(NamedTuple):
    """Along one side: the pixels start..stop that a window gives, of first..last that it is given."""

    first: int
    start: int
    stop: int
    last: int

    def inside(self, part: slice) -> slice:
        """Where a part of the image lies in what the window is given."""
        return slice(part.start - self.first, part.stop - self.first)


@dataclass(frozen=True)
class Finish:
    """What becomes of what the network took away.

    strength, luma, chroma: the part of it that is taken, 0 to 1; of brightness strength * luma, of colour
    strength * chroma. output: the clean image; the residual, which is what was removed, on mid-grey; or both
    images side by side to compare, the one that came on the left.
    """

    strength: float = 1.0
    luma: float = 1.0
    chroma: float = 1.0
    output: Literal["clean", "residual", "compare"] = "clean"

    @property
    def parts(self) -> tuple[float, float]:
        """Of brightness and of colour."""
        return self.strength * self.luma, self.strength * self.chroma


WHOLE = Finish()


@dataclass(frozen=True)
class Piece:
    """A window's work: what the network is given, made when it is asked for, and where the result goes.

    shape: (H, W) of what is given, halo included. pixels: how many of the image's own it gives. fits: how many
    such windows the memory budget holds at once. read: gives float32 (H, W, 3) on [0, 1], on the network's
    device. write: takes the result, and what was read.
    """

    net: Module
    shape: tuple[int, int]
    pixels: int
    fits: int
    read: Callable[[], Tensor]
    write: Callable[[Tensor, Tensor], None]


def run(pieces: Sequence[Piece]) -> None:
    """Pieces of one network and one shape, of whatever images, through the network in one batch."""
    read = [piece.read() for piece in pieces]
    # One alone is not copied.
    given = torch.stack(read) if len(read) > 1 else read[0].unsqueeze(0)
    with ensure_arena():
        made = pieces[0].net.forward(given)
    for piece, before, after in zip(pieces, given, made, strict=True):
        piece.write(after, before)


class Denoising:
    """An image on its way to one without its noise, in its own depth and kind.

    pieces: to be run, in any order, in any thread, beside other images' or not; then `result` is whole.

    What denoise_image gives for its pixels, clipped to [0, 1] and rounded where samples are integers; but only
    what is run is ever in float32. Pixels that are fully transparent stay as they are, and the network sees their
    visible neighbours in their place. Raises ValueError.
    """

    def __init__(
        self,
        net: Module,
        noisy: Image,
        memory_budget: int = MEMORY_BUDGET,
        window: tuple[int, int] | None = None,
        finish: Finish = WHOLE,
    ) -> None:
        self.noisy, self.finish = noisy, finish
        self.pieces: list[Piece] = []
        if any(finish.parts):
            self.clean = torch.empty_like(noisy.samples)
            # Not a method: one that its own piece holds would keep the image until garbage is looked for.
            write = partial(_write, self.clean, finish.parts)
            self.pieces += _pieces(net, _filled(noisy), to_pixels, write, memory_budget, window)
        else:
            self.clean = noisy.samples.clone()

    def result(self) -> Image:
        """What the finish makes of it. To be asked for once."""
        if self.pieces:
            _keep_hidden(self.clean, self.noisy)
        return _shown(self.noisy, self.clean, self.finish.output)


def denoise(
    net: Module,
    noisy: Image,
    memory_budget: int = MEMORY_BUDGET,
    window: tuple[int, int] | None = None,
    finish: Finish = WHOLE,
) -> Image:
    """An image without its noise: a Denoising, one window after the other. Raises ValueError."""
    denoising = Denoising(net, noisy, memory_budget, window, finish)
    with ensure_arena():
        for piece in denoising.pieces:
            run([piece])
    return denoising.result()


def _write(
    clean: Tensor, parts: tuple[float, float], rows: slice, cols: slice, pixels: Tensor, before: Tensor
) -> None:
    channels, target = clean.shape[2], clean[rows, cols]
    for here in _strips(len(target), LOW):
        mixed = _mixed(before[here], pixels[here], parts, channels == 1)
        target[here] = to_samples(mixed, clean.dtype, channels)


def _strips(height: int, rows: int) -> Iterator[slice]:
    for top in range(0, height, rows):
        yield slice(top, top + rows)


def _mixed(before: Tensor, after: Tensor, parts: tuple[float, float], grey: bool) -> Tensor:
    """So much of the change, in brightness and in colour; of grey there is only brightness."""
    luma, chroma = parts
    if (luma, chroma) == (1, 1):
        return after
    change = after - before
    if grey or luma == chroma:
        return before + luma * change
    bright = (change @ change.new_tensor(LUMA)).unsqueeze(2)
    return before + (luma * bright + chroma * (change - bright))


def _filled(image: Image) -> Tensor:
    """The samples, those fully transparent replaced by the nearest visible one of their row, or of a row nearby.

    What such pixels hold nobody sees: often black, or what was there before a cut. An edge to it would show.
    """
    if image.alpha is None or not bool((image.alpha == 0).any()):
        return image.samples
    filled = image.samples.clone()
    seen_rows = (image.alpha != 0).any(1)
    if not bool(seen_rows.any()):
        return filled
    for here in _strips(len(filled), STRIP):
        visible = image.alpha[here] != 0
        rows = torch.arange(here.start, here.start + len(visible)).unsqueeze(1)
        filled[here] = image.samples[rows, _nearest(visible)]
    # Row by row: torch has no way to write to many rows of uint16 at once.
    for row, nearest in enumerate(_nearest(seen_rows.unsqueeze(0)).squeeze(0).tolist()):
        if row != nearest:
            filled[row] = filled[nearest]
    return filled


def _nearest(visible: Tensor) -> Tensor:
    """For each place of each row, the nearest of that row that is visible; 0 where none is."""
    length = visible.shape[1]
    places = torch.arange(length).expand_as(visible)
    before = places.where(visible, -length).cummax(1).values
    after = places.where(visible, 3 * length).flip(1).cummin(1).values.flip(1)
    nearest = before.where(places - before <= after - places, after)
    return nearest.where((nearest >= 0) & (nearest < length), 0)


def _keep_hidden(clean: Tensor, noisy: Image) -> None:
    """Gives the pixels that are fully transparent what they came with."""
    if noisy.alpha is None:
        return
    for rows in _strips(len(clean), STRIP):
        hidden = (noisy.alpha[rows] == 0).unsqueeze(2)
        clean[rows] = noisy.samples[rows].where(hidden, clean[rows])


def _shown(noisy: Image, clean: Tensor, output: str) -> Image:
    """The image that was asked for; a strip of it at a time is in float32."""
    if output == "clean":
        return replace(noisy, samples=clean)
    if output == "compare":
        alpha = None if noisy.alpha is None else torch.cat((noisy.alpha, noisy.alpha), 1)
        return replace(noisy, samples=torch.cat((noisy.samples, clean), 1), alpha=alpha)
    white = WHITE[clean.dtype]
    # A whole number where samples are: half way between two, rounding would go now one way and now the other.
    middle = 0.5 if clean.dtype == torch.float32 else (white + 1) // 2 / white
    for rows in _strips(len(clean), STRIP):
        removed = to_pixels(noisy.samples[rows]) - to_pixels(clean[rows])
        clean[rows] = to_samples(removed + middle, clean.dtype, clean.shape[2])
    return replace(noisy, samples=clean)


def denoise_image(
    net: Module,
    image: Tensor,
    memory_budget: int = MEMORY_BUDGET,
    window: tuple[int, int] | None = None,
) -> Tensor:
    """image: float32 (H, W, 3) on [0, 1], any size from 1 x 1 -> the same shape, its noise removed.

    The image is taken as if mirrored, right and below, to whole patches of 32 x 32, and goes through the
    network in windows of whole patches, each with a halo of real neighbours as wide as the network's reach: so
    the result is that of the whole mirrored image, whatever the window. The windows are the cheapest that fit
    memory_budget, in bytes, and at least a patch; `window` sets them by hand, in patches (high, wide). The
    result lies on the CPU and is not clipped. Thread-safe. Raises ValueError for another shape or type.
    """
    if image.dim() != 3 or image.shape[2] != 3 or not image.is_floating_point() or not image.numel():
        raise ValueError(f"an image is (H, W, 3) of floats; got {tuple(image.shape)} of {image.dtype}")
    clean = torch.empty_like(image, device="cpu")

    def write(rows: slice, cols: slice, pixels: Tensor, before: Tensor) -> None:
        clean[rows, cols] = pixels

    with ensure_arena():
        for piece in _pieces(net, image, lambda part: part, write, memory_budget, window):
            run([piece])
    return clean


def _pieces(
    net: Module,
    source: Tensor,
    read: Callable[[Tensor], Tensor],
    write: Callable[[slice, slice, Tensor, Tensor], None],
    memory_budget: int,
    window: tuple[int, int] | None,
) -> Iterator[Piece]:
    """Each window's work: `read` makes pixels of its part of the source; `write` gets the clean, and these."""
    if PATCH % net.stride:
        raise ValueError(f"a network's stride must divide {PATCH}; this one's is {net.stride}")
    height, width = source.shape[:2]
    margin, device = halo(net), next(parameters(net)).value.device
    dtype = source.dtype if source.is_floating_point() else torch.float32
    most = memory_budget // bytes_per_pixel(net)
    if window is None:
        window = plan((height, width), margin, most)

    def given(rows: Span, cols: Span) -> Tensor:
        part = _mirrored(source, rows, cols)
        pixels = empty((*part.shape[:2], 3), dtype)
        for here in _strips(len(part), LOW):
            pixels[here] = read(part[here])
        return pixels.to(device)

    def keep(to: tuple[slice, slice], inside: tuple[slice, slice], result: Tensor, given: Tensor) -> None:
        write(*to, result[inside], given[inside])

    for rows, cols in product(spans(height, window[0], margin), spans(width, window[1], margin)):
        shape = (rows.last - rows.first, cols.last - cols.first)
        # Neither the halo nor what was mirrored is kept.
        to = (slice(rows.start, min(rows.stop, height)), slice(cols.start, min(cols.stop, width)))
        inside = (rows.inside(to[0]), cols.inside(to[1]))
        kept = prod(part.stop - part.start for part in to)
        fits = max(1, most // prod(shape))
        yield Piece(net, shape, kept, fits, partial(given, rows, cols), partial(keep, to, inside))


def plan(size: tuple[int, int], margin: int, most: int) -> tuple[int, int]:
    """The windows, in patches (high, wide), that cost least among those of at most `most` pixels.

    size: the image's (height, width); margin: the halo. One patch where nothing fits.

    Windows come one after the other, each on all threads. A window for each core, in a thread of its own, took
    1.4 times as long for 512x512 pixels on two cores, since both repeat the halo, and as long for 2048x1360, in
    twice the memory. So an image that fits the memory is one window.
    """
    rows, cols = (_splits(side, margin) for side in size)
    fitting = []
    for row, col in product(rows, cols):
        if row.largest * col.largest <= most:
            fitting.append((row.cost * col.cost, row.patches, col.patches))
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


def _mirrored(image: Tensor, rows: Span, cols: Span) -> Tensor:
    """The part of the mirrored image that a window is given; the mirrored whole is never made."""
    inside = image[rows.first : rows.last, cols.first : cols.last]
    high, wide = inside.shape[:2]
    y, x = (
        mirror(torch.arange(span.first, span.last), side)
        for span, side in ((rows, image.shape[0]), (cols, image.shape[1]))
    )
    if (high, wide) == (len(y), len(x)):
        return inside
    # Only the border is looked up pixel by pixel: that is many times slower than to copy a block.
    given = image.new_empty(len(y), len(x), image.shape[2])
    given[:high, :wide] = inside
    given[:high, wide:] = image[rows.first : rows.last, x[wide:]]
    given[high:] = image[y[high:].unsqueeze(1), x]
    return given


def mirror(places: Tensor, side: int) -> Tensor:
    """Where places at and beyond `side` lie in an image mirrored again and again at its last pixels."""
    if side == 1:
        return torch.zeros_like(places)
    period = 2 * (side - 1)
    return side - 1 - (places % period - (side - 1)).abs()
