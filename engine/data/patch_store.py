"""Images end to end in one run of bytes, from which a batch of squares is cut at once.

It is all arithmetic on indices, without a look at any number in a tensor: on a GPU nothing waits for a batch.
"""

import math
from collections.abc import Iterable
from tempfile import SpooledTemporaryFile
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

# Most bytes of images held in memory. Beyond it they go to a temporary file, mapped to memory and gone at exit.
IN_MEMORY = 2**30
# A GPU takes the images if they fill no more than this part of what it has free.
PART_OF_GPU = 0.5
# Most points, along a side, at which a square is looked at for its detail.
PROBES = 24


class CropBoxes(NamedTuple):
    """Squares in an album's images, one for each number of these tensors of equal shape.

    image: which one; top, left: its corner; all whole. side: float32, as it may end within a pixel. In pixels.
    """

    image: Tensor
    top: Tensor
    left: Tensor
    side: Tensor

    def chosen(self, index: Tensor) -> "CropBoxes":
        """Of places (N, M) those at (n, index[n]): (N,)."""
        return CropBoxes(*(part.gather(1, index[:, None]).squeeze(1) for part in self))


class PatchStore:
    """Images, uint8 (H, W, C) of any size and the same C, and how to cut squares from them.

    zoom: the least factor by which a square is scaled down as it is cut. device: where squares are wanted; the
    images themselves stay on the CPU if they are too many for it. Raises ValueError if there are no images,
    and OSError if they fit neither in memory nor in a temporary file.
    """

    def __init__(self, images: Iterable[Tensor], zoom: float = 1.0, device: torch.device | str = "cpu") -> None:
        bytes_, shapes = _end_to_end(images)
        self.zoom, self.channels = zoom, shapes[0][2]
        self.target = torch.device(device)
        self.device = _home(bytes_.numel(), self.target)
        self.bytes = bytes_.to(self.device)
        sizes = torch.tensor(shapes, dtype=torch.int64)
        areas = sizes[:, 0] * sizes[:, 1]
        self.start = (areas.cumsum(0) - areas).to(self.device)
        self.height, self.width = sizes[:, 0].to(self.device), sizes[:, 1].to(self.device)
        self.shortest = [min(height, width) for height, width, _ in shapes]
        self.fitting: dict[int, Tensor] = {}

    def __len__(self) -> int:
        """How many images."""
        return len(self.shortest)

    def put(self, number: int, image: Tensor) -> None:
        """Another image, of equal size, in the place of one."""
        begin = number * image.numel()
        self.bytes[begin : begin + image.numel()].copy_(image.flatten())

    def picks(self, shape: tuple[int, ...], side: int, rng: torch.Generator) -> Tensor:
        """Numbers of images, each as likely, of those from which such a square can be cut.

        rng: on the album's device. Raises ValueError if there is none.
        """
        if side not in self.fitting:
            fitting = [number for number, shortest in enumerate(self.shortest) if shortest >= side]
            if not fitting:
                raise ValueError(f"no photo is large enough to cut {side} x {side} pixels from")
            self.fitting[side] = torch.tensor(fitting, device=self.device)
        fits = self.fitting[side]
        return fits[torch.randint(len(fits), shape, generator=rng, device=self.device)]

    def places(self, image: Tensor, side: int, rng: torch.Generator) -> CropBoxes:
        """A random place in each of these images, for squares of a side after zooming.

        The zoom is drawn evenly between the least and 1, for each place. rng: on the album's device.
        """
        zoom, down, right = torch.rand((3, *image.shape), generator=rng, device=self.device)
        height, width = self.height[image], self.width[image]
        extent = (side / (self.zoom + (1 - self.zoom) * zoom)).minimum(torch.minimum(height, width))
        whole = extent.ceil()
        top, left = (
            # The product may be rounded up to the limit itself.
            torch.minimum((part * (length - whole + 1)).floor(), length - whole).long()
            for part, length in ((down, height), (right, width))
        )
        return CropBoxes(image, top, left, extent)

    def detail(self, places: CropBoxes, side: int) -> Tensor:
        """Standard deviation of the green channel's diagonal differences: large where there is fine structure.

        places: (N, M) -> (N, M). Looked at in at most PROBES x PROBES points, spread over the square.
        """
        count = max(1, min(PROBES, side - 1))
        extent = places.side[..., None]
        # Differences over about one pixel of the zoomed square.
        gap = (extent / side).round()
        steps = ((extent - gap) * torch.arange(count, device=self.device) / count).long()
        near, far = (self._green(places, steps + more) for more in (torch.zeros_like(steps), gap.long()))
        return (far - near).std((-2, -1), correction=0)

    def cut(self, places: CropBoxes, side: int, rng: torch.Generator) -> "PatchBatch":
        """The squares at places (N,), each flipped and turned to one of its eight positions by chance.

        rng: on the album's device.
        """
        turn = torch.rand((3, len(places.image)), generator=rng, device=self.device) < 0.5
        return PatchBatch(self, places, side, turn)

    def square(self, places: CropBoxes, side: int, turn: Tensor) -> Tensor:
        """float32 (N, side, side, C) on [0, 1]: a pixel is the mean of the area it covers."""
        order = torch.arange(side, device=self.device)
        if self.zoom == 1:
            return self.pixels(places, side, turn, order.view(1, -1, 1), order)
        y, x = (torch.where(reverse[:, None], side - 1 - order, order) for reverse in turn[:2])
        count, span = len(places.image), self._span(side)
        last = places.side.ceil().long() - 1
        rows = torch.minimum(torch.arange(span, device=self.device), last[:, None])
        # What lies beside a square, or after its image, is read along with it, and then given no weight.
        square = self._runs(span)[self._pixel(places, rows, torch.zeros_like(rows)) * self.channels]
        scale = places.side[:, None] / side
        lines = _average(square.float(), y * scale, scale, self._taps).view(count, side, span, self.channels)
        # Columns as lines: a line's numbers are one run of memory, which makes it fast to pick.
        columns = lines.transpose(1, 2).reshape(count, span, side * self.channels)
        turned = _average(columns, x * scale, scale, self._taps).view(count, side, side, self.channels)
        return torch.where(turn[2].view(-1, 1, 1, 1), turned, turned.transpose(1, 2)).div_(255)

    def pixels(self, places: CropBoxes, side: int, turn: Tensor, y: Tensor, x: Tensor) -> Tensor:
        """float32 (N, I, J, C) on [0, 1]: pixels of squares without zoom; y, x: which, as (N, I, J)."""
        reverse_y, reverse_x, turned = turn.view(3, -1, 1, 1)
        down, right = torch.where(turned, x, y), torch.where(turned, y, x)
        down, right = (
            torch.where(reverse_y, side - 1 - down, down),
            torch.where(reverse_x, side - 1 - right, right),
        )
        index = self._pixel(places, down, right)
        picked = self.bytes.view(-1, self.channels).index_select(0, index.flatten())
        return picked.view(*index.shape, -1).float().div_(255)

    def _green(self, places: CropBoxes, steps: Tensor) -> Tensor:
        """Green, float32 (N, M, K, K), of the pixels at steps (N, M, K) down and right of the places' corners."""
        pixel = self._pixel(places, steps[..., :, None], steps[..., None, :])
        return self.bytes[pixel * self.channels + 1].float()

    def _pixel(self, places: CropBoxes, down: Tensor, right: Tensor) -> Tensor:
        """Numbers of the pixels so far from the places' corners, down and right of more dimensions."""
        more = (..., *[None] * (down.dim() - places.top.dim()))
        start = self.start[places.image] + places.top * self.width[places.image] + places.left
        return start[more] + down * self.width[places.image][more] + right

    @property
    def _taps(self) -> int:
        """Most pixels, along a side, that one pixel of a zoomed square covers a part of."""
        return math.ceil(1 / self.zoom) + 1

    def _span(self, side: int) -> int:
        """Most pixels, along a side, from which a square of that side is made."""
        return min(math.ceil(side / self.zoom), max(self.shortest))

    def _runs(self, span: int) -> Tensor:
        """Row i: as many pixels as a span has, from byte i on. A view: nothing is copied."""
        length = span * self.channels
        return self.bytes.as_strided((self.bytes.numel() - length + 1, length), (1, 1))


class PatchBatch(NamedTuple):
    """Squares of an album, cut when somebody looks.

    turn: bool (3, N), whether rows are in reverse, whether columns are, and whether rows then become columns.
    """

    album: PatchStore
    places: CropBoxes
    side: int
    turn: Tensor

    @property
    def device(self) -> torch.device:
        """Where pixels are wanted."""
        return self.album.target

    def whole(self) -> Tensor:
        """All pixels: float32 (N, side, side, C) on [0, 1]."""
        return self._moved(self.album.square(self.places, self.side, self.turn))

    def pixels(self, y: Tensor, x: Tensor) -> Tensor:
        """Some pixels, float32 (N, I, J, C) on [0, 1]: those in rows y and columns x, (N, I, J) each."""
        y, x = y.to(self.album.device), x.to(self.album.device)
        if self.album.zoom < 1:
            sample = torch.arange(len(y), device=self.album.device).view(-1, 1, 1)
            return self._moved(self.album.square(self.places, self.side, self.turn)[sample, y, x])
        return self._moved(self.album.pixels(self.places, self.side, self.turn, y, x))

    def _moved(self, pixels: Tensor) -> Tensor:
        if self.album.device == self.device:
            return pixels
        return pixels.pin_memory().to(self.device, non_blocking=True)


def _end_to_end(images: Iterable[Tensor]) -> tuple[Tensor, list[tuple[int, int, int]]]:
    """The bytes of all images, and some to spare, as wide as an image and more; and the images' shapes."""
    shapes: list[tuple[int, int, int]] = []
    with SpooledTemporaryFile(IN_MEMORY) as file:
        for image in images:
            height, width, channels = image.shape
            shapes.append((height, width, channels))
            file.write(image.contiguous().numpy().data)
        if not shapes:
            raise ValueError("there are no images")
        file.write(bytes((max(width for _, width, _ in shapes) + 2) * shapes[0][2]))
        size = file.tell()
        file.seek(0)
        if size > IN_MEMORY:
            # The file has no name: it is gone with the last view of the map.
            return torch.from_numpy(np.memmap(file, np.uint8, "r+", shape=(size,))), shapes
        bytes_ = torch.empty(size, dtype=torch.uint8)
        file.readinto(bytes_.numpy().data)
        return bytes_, shapes


def _average(lines: Tensor, begin: Tensor, width: Tensor, taps: int) -> Tensor:
    """Lines (N, L, K) -> (N, M, K): means over a width (N, 1), from where each begins (N, M), in lines."""
    count, length, size = lines.shape
    flat, first = lines.flatten(0, 1), begin.floor()
    base = first.long() + length * torch.arange(count, device=lines.device)[:, None]
    total = lines.new_zeros((base.numel(), size))
    for tap in range(taps):
        line = first + tap
        covered = torch.minimum(begin + width, line + 1) - torch.maximum(begin, line)
        weight = (covered.clamp(min=0) / width).view(-1, 1)
        # Beyond the end there is no line to take, and its weight is 0.
        total.addcmul_(flat.index_select(0, (base + tap).clamp(max=len(flat) - 1).flatten()), weight)
    return total.view(count, -1, size)


def _home(size: int, device: torch.device) -> torch.device:
    """Where so many bytes of images are kept: on the device, unless they would crowd a GPU."""
    if device.type == "cuda" and size > PART_OF_GPU * torch.cuda.mem_get_info(device)[0]:
        return torch.device("cpu")
    return device
