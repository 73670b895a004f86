"""Patch store: images end to end in one run of numbers, from which batches of patches are cut.

All of it is arithmetic on indices that reads no value back from a tensor: a GPU never has to synchronise.
"""

import math
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

# Most bytes of images held in memory. More go to a memory-mapped temporary file that is deleted at exit.
MAX_BYTES_IN_MEMORY = 2**30
# The images go to a GPU if they fill no more than this part of its free memory.
MAX_PART_OF_GPU = 0.5
# Detail is measured at no more than this many points along a side.
MAX_DETAIL_POINTS = 24


class CropBoxes(NamedTuple):
    """Square boxes in the images of a store, one for each element of these tensors of equal shape.

    image: its index. top, left: the corner, in whole pixels. side: in pixels, float32, as a box may end within
    a pixel.
    """

    image: Tensor
    top: Tensor
    left: Tensor
    side: Tensor

    def select(self, index: Tensor) -> "CropBoxes":
        """From boxes (N, M) those at (n, index[n]): (N,)."""
        return CropBoxes(*(part.gather(1, index[:, None]).squeeze(1) for part in self))


@dataclass(frozen=True)
class Concatenation:
    """The numbers of images (H, W, C), one image after the other, and their shapes.

    data: of the images' type. Spare numbers, more than a row of an image, follow the last image.
    """

    data: Tensor
    shapes: tuple[tuple[int, int, int], ...]


class PatchStore:
    """Images (H, W, C) of any size and the same C, from which patches are cut.

    They are uint8, or float32 on the same scale of 0-255: all of one type. zoom: the smallest factor by which a
    crop is scaled down to a patch. device: where patches are used; the images themselves stay on the CPU if they
    are too large for it. Raises ValueError if there are no images, and OSError if they fit neither in memory nor
    in a temporary file.
    """

    def __init__(
        self,
        images: Iterable[Tensor] | Concatenation,
        zoom: float = 1.0,
        device: torch.device | str = "cpu",
    ) -> None:
        if not isinstance(images, Concatenation):
            parts = concatenate_by_type(("", image) for image in images).get("", [])
            if len(parts) != 1:
                raise ValueError("images of different types" if parts else "there are no images")
            images = parts[0]
        data, shapes = images.data, images.shapes
        self.zoom, self.channels = zoom, shapes[0][2]
        self.output_device = torch.device(device)
        self.device = _storage_device(data.nbytes, self.output_device)
        self.data = data.to(self.device)
        sizes = torch.tensor(shapes, dtype=torch.int64)
        areas = sizes[:, 0] * sizes[:, 1]
        # Of each image's first pixel, in pixels.
        self.offsets = (areas.cumsum(0) - areas).to(self.device)
        self.heights, self.widths = sizes[:, 0].to(self.device), sizes[:, 1].to(self.device)
        self.shorter_sides = [min(height, width) for height, width, _ in shapes]
        self._large_enough: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.shorter_sides)

    def replace(self, index: int, image: Tensor) -> None:
        """Replace an image of a store whose images all have one size."""
        begin = index * image.numel()
        self.data[begin : begin + image.numel()].copy_(image.flatten())

    def random_images(self, shape: tuple[int, ...], side: int, rng: torch.Generator) -> Tensor:
        """Random indices of images that are large enough for a patch of that side.

        rng: on the store's device. Raises ValueError if no image is large enough.
        """
        if side not in self._large_enough:
            fitting = [index for index, shorter in enumerate(self.shorter_sides) if shorter >= side]
            if not fitting:
                raise ValueError(f"no photo is large enough to cut {side} x {side} pixels from")
            self._large_enough[side] = torch.tensor(fitting, device=self.device)
        indices = self._large_enough[side]
        return indices[torch.randint(len(indices), shape, generator=rng, device=self.device)]

    def random_boxes(self, image: Tensor, side: int, rng: torch.Generator) -> CropBoxes:
        """A random box in each of these images, for patches of that side.

        The zoom of each box is drawn evenly between the smallest and 1. rng: on the store's device.
        """
        zoom, down, right = torch.rand((3, *image.shape), generator=rng, device=self.device)
        height, width = self.heights[image], self.widths[image]
        box_side = (side / (self.zoom + (1 - self.zoom) * zoom)).minimum(torch.minimum(height, width))
        whole = box_side.ceil()
        top, left = (
            # The product may be rounded up to the limit itself.
            torch.minimum((part * (length - whole + 1)).floor(), length - whole).long()
            for part, length in ((down, height), (right, width))
        )
        return CropBoxes(image, top, left, box_side)

    def detail(self, boxes: CropBoxes, side: int) -> Tensor:
        """Standard deviation of the green channel's diagonal differences: large where there is fine structure.

        boxes: (N, M) -> (N, M). Measured at up to MAX_DETAIL_POINTS² points, spread over the box.
        """
        count = max(1, min(MAX_DETAIL_POINTS, side - 1))
        box_side = boxes.side[..., None]
        # The difference spans about one pixel of the patch.
        gap = (box_side / side).round()
        steps = ((box_side - gap) * torch.arange(count, device=self.device) / count).long()
        near, far = (self._read_green(boxes, steps + more) for more in (torch.zeros_like(steps), gap.long()))
        return (far - near).std((-2, -1), correction=0)

    def random_patches(self, boxes: CropBoxes, side: int, rng: torch.Generator) -> "PatchBatch":
        """The patches in boxes (N,), each flipped and turned to one of its eight orientations at random.

        rng: on the store's device.
        """
        orientation = torch.rand((3, len(boxes.image)), generator=rng, device=self.device) < 0.5
        return PatchBatch(self, boxes, side, orientation)

    def read(self, boxes: CropBoxes, side: int, orientation: Tensor) -> Tensor:
        """float32 (N, side, side, C) on [0, 1]: each pixel is the mean of the area it covers."""
        order = torch.arange(side, device=self.device)
        if self.zoom == 1:
            return self.read_pixels(boxes, side, orientation, order.view(1, -1, 1), order)
        y, x = (torch.where(reverse[:, None], side - 1 - order, order) for reverse in orientation[:2])
        count, span = len(boxes.image), self._source_side(side)
        last = boxes.side.ceil().long() - 1
        rows = torch.minimum(torch.arange(span, device=self.device), last[:, None])
        # Rows also hold pixels beside the box, or of the next image. They get no weight.
        source = self._row_view(span)[self._pixel_index(boxes, rows, torch.zeros_like(rows)) * self.channels]
        scale = boxes.side[:, None] / side
        lines = _area_mean(source.float(), y * scale, scale, self._taps).view(count, side, span, self.channels)
        # Columns as lines: the numbers of a line are contiguous in memory, which makes them fast to gather.
        columns = lines.transpose(1, 2).reshape(count, span, side * self.channels)
        transposed = _area_mean(columns, x * scale, scale, self._taps).view(count, side, side, self.channels)
        is_transposed = orientation[2].view(-1, 1, 1, 1)
        return torch.where(is_transposed, transposed, transposed.transpose(1, 2)).div_(255)

    def read_pixels(self, boxes: CropBoxes, side: int, orientation: Tensor, y: Tensor, x: Tensor) -> Tensor:
        """float32 (N, I, J, C) on [0, 1]: the pixels (y, x), each (N, I, J), of patches without zoom."""
        reverse_y, reverse_x, transpose = orientation.view(3, -1, 1, 1)
        down, right = torch.where(transpose, x, y), torch.where(transpose, y, x)
        down, right = (
            torch.where(reverse_y, side - 1 - down, down),
            torch.where(reverse_x, side - 1 - right, right),
        )
        index = self._pixel_index(boxes, down, right)
        pixels = self.data.view(-1, self.channels).index_select(0, index.flatten())
        return pixels.view(*index.shape, -1).float().div_(255)

    def _read_green(self, boxes: CropBoxes, steps: Tensor) -> Tensor:
        """Green, float32 (N, M, K, K), at steps (N, M, K) down and right of the boxes' corners."""
        pixel = self._pixel_index(boxes, steps[..., :, None], steps[..., None, :])
        return self.data[pixel * self.channels + 1].float()

    def _pixel_index(self, boxes: CropBoxes, down: Tensor, right: Tensor) -> Tensor:
        """Indices of the pixels at these offsets from the boxes' corners; the offsets have more dimensions."""
        more = (..., *[None] * (down.dim() - boxes.top.dim()))
        corner = self.offsets[boxes.image] + boxes.top * self.widths[boxes.image] + boxes.left
        return corner[more] + down * self.widths[boxes.image][more] + right

    @property
    def _taps(self) -> int:
        """Most source pixels, along a side, that one pixel of a zoomed patch overlaps."""
        return math.ceil(1 / self.zoom) + 1

    def _source_side(self, side: int) -> int:
        """Most source pixels, along a side, from which a patch of that side is made."""
        return min(math.ceil(side / self.zoom), max(self.shorter_sides))

    def _row_view(self, span: int) -> Tensor:
        """Row i holds `span` pixels, from byte i on. A view: nothing is copied."""
        length = span * self.channels
        return self.data.as_strided((self.data.numel() - length + 1, length), (1, 1))


class PatchBatch(NamedTuple):
    """Patches of a store, read when they are needed.

    orientation: bool (3, N), whether rows are reversed, columns are reversed, and the two are then transposed.
    """

    store: PatchStore
    boxes: CropBoxes
    side: int
    orientation: Tensor

    @property
    def device(self) -> torch.device:
        """Where the pixels are used."""
        return self.store.output_device

    def part(self, index: slice) -> "PatchBatch":
        """Some of the patches."""
        boxes = CropBoxes(*(each[index] for each in self.boxes))
        return self._replace(boxes=boxes, orientation=self.orientation[:, index])

    def read(self) -> Tensor:
        """All pixels: float32 (N, side, side, C) on [0, 1]."""
        return self._to_device(self.store.read(self.boxes, self.side, self.orientation))

    def read_pixels(self, y: Tensor, x: Tensor) -> Tensor:
        """Some pixels, float32 (N, I, J, C) on [0, 1]: those in rows y and columns x, each (N, I, J)."""
        y, x = y.to(self.store.device), x.to(self.store.device)
        if self.store.zoom < 1:
            sample = torch.arange(len(y), device=self.store.device).view(-1, 1, 1)
            return self._to_device(self.store.read(self.boxes, self.side, self.orientation)[sample, y, x])
        return self._to_device(self.store.read_pixels(self.boxes, self.side, self.orientation, y, x))

    def _to_device(self, pixels: Tensor) -> Tensor:
        if self.store.device == self.device:
            return pixels
        # Untried on a GPU.
        return pixels.pin_memory().to(self.device, non_blocking=True)


def concatenate_by_type(images: Iterable[tuple[str, Tensor]]) -> dict[str, list[Concatenation]]:
    """Of images with the names of their groups: of each group, the images of each type, in order.

    Each image is held only once. Raises OSError if they fit neither in memory nor in temporary files.
    """
    with ExitStack() as stack:
        runs: dict[tuple[str, torch.dtype], _Run] = {}
        for group, image in images:
            key = (group, image.dtype)
            if key not in runs:
                runs[key] = _Run(stack.enter_context(SpooledTemporaryFile(MAX_BYTES_IN_MEMORY)))
            runs[key].append(image)
        parts: dict[str, list[Concatenation]] = {}
        for (group, kind), run in runs.items():
            parts.setdefault(group, []).append(run.concatenation(kind))
        return parts


class _Run:
    """Images of one type in a temporary file, which is in memory while it is small."""

    def __init__(self, file: "SpooledTemporaryFile[bytes]") -> None:
        self.file = file
        self.shapes: list[tuple[int, int, int]] = []

    def append(self, image: Tensor) -> None:
        height, width, channels = image.shape
        self.shapes.append((height, width, channels))
        self.file.write(image.contiguous().numpy().data)

    def concatenation(self, kind: torch.dtype) -> Concatenation:
        """kind: the images' type."""
        file, shapes = self.file, tuple(self.shapes)
        file.write(bytes((max(width for _, width, _ in shapes) + 2) * shapes[0][2] * kind.itemsize))
        size = file.tell()
        file.seek(0)
        if size > MAX_BYTES_IN_MEMORY:
            # The file has no name, so it is deleted with the last view of the map.
            mapped = np.memmap(file, np.uint8, "r+", shape=(size,))
            return Concatenation(torch.from_numpy(mapped).view(kind), shapes)
        data = torch.empty(size, dtype=torch.uint8)
        file.readinto(data.numpy().data)
        return Concatenation(data.view(kind), shapes)


def _area_mean(lines: Tensor, begin: Tensor, width: Tensor, taps: int) -> Tensor:
    """Lines (N, L, K) -> (N, M, K): means over a width (N, 1) from each begin (N, M), both in lines."""
    count, length, size = lines.shape
    flat, first = lines.flatten(0, 1), begin.floor()
    base = first.long() + length * torch.arange(count, device=lines.device)[:, None]
    total = lines.new_zeros((base.numel(), size))
    for tap in range(taps):
        line = first + tap
        covered = torch.minimum(begin + width, line + 1) - torch.maximum(begin, line)
        weight = (covered.clamp(min=0) / width).view(-1, 1)
        # There is no line beyond the last, and its weight is 0.
        total.addcmul_(flat.index_select(0, (base + tap).clamp(max=len(flat) - 1).flatten()), weight)
    return total.view(count, -1, size)


def _storage_device(size: int, device: torch.device) -> torch.device:
    """Where `size` bytes of images are stored: on the device, or on the CPU if they would crowd a GPU."""
    # Untried on a GPU.
    if device.type == "cuda" and size > MAX_PART_OF_GPU * torch.cuda.mem_get_info(device)[0]:
        return torch.device("cpu")
    return device
