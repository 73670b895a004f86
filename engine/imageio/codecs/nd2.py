"""ND2, the format of Nikon's microscopes, read with nd2, an optional package.

- A page is a plane: one position, time, focal plane and channel. Pages are in this order, so channels are next to
  each other.
- nd2 gives zeros for frames that the file lacks, so the file's map of its frames is read here too. And it unpacks
  compressed frames whatever their size, so they are unpacked here, up to the size of the image.
- Images of colour cameras are refused: readers disagree on the order of their colours.

Source: nd2, "ND2 File Format Specification"; on the order of colours, Bio-Formats, pull request 4321.
"""

import math
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.imageio.formats import SUPPORTED_PIXELS, BrokenImage, Format, UnsupportedImage
from engine.imageio.image import Image, LazyFrame, from_array
from engine.imageio.mapped_file import open_stream
from engine.imageio.metadata import Metadata
from engine.imageio.metadata.limits import plausible_resolution

_LOST = "the ND2 metadata"
_TYPES = ("uint8", "uint16", "float32")
# Names of loops in the order of pages, and how people call what they run through; "" for time.
_LOOPS = {
    "XYPosLoop": "position",
    "CustomLoop": "step",
    "TimeLoop": "",
    "NETimeLoop": "",
    "ZStackLoop": "focal plane",
}
# The last bytes of a file: a signature, and where its map of chunks begins.
_MAP_SIGNATURE = b"ND2 CHUNK MAP SIGNATURE 0000001!"
_MAP_END_BYTES = 40
# An entry of the map for a frame: its number, and where its chunk begins.
_FRAME_ENTRY = re.compile(rb"ImageDataSeq\|(\d{1,9})!(.{8})", re.DOTALL)
# Bytes of a frame's chunk before its pixels.
_BEFORE_PIXELS = 4096
# What a file of version 3, or an older one, says of its images.
_PICTURE_CHUNKS = {"ImageMetadataSeqLV|0", "ImageMetadataSeq|0"}
# The head of a chunk: a signature, the length of its name, and that of its data. A frame begins with its time.
_CHUNK_HEAD = struct.Struct("<IIQ")
_TIME_BYTES = 8
_MICROMETRES_PER_INCH = 25_400


def open_nd2(kind: Format, data: bytes) -> Iterator[LazyFrame]:
    """The planes of the file."""
    nd2 = _import_nd2()
    offsets = _frame_offsets(data)
    with open_stream(data) as stream, nd2.ND2File(stream) as file:
        about = file.attributes
        _refuse_unsupported(about, file)
        frames, lacking = _ordered(file, offsets)
        words = (f"without {lacking} frames that were not recorded",) if lacking else ()
        metadata = Metadata(resolution=_read_resolution(file), lost=(_LOST,))
        read_frame = partial(_read_frame, data, file, offsets)
        size, bits = (about.widthPx, about.heightPx), 8 * file.dtype.itemsize
        for number, place in frames:
            for channel in range(about.componentCount):
                load = partial(_load, partial(read_frame, number), channel, metadata, words)
                of_channel = (
                    f"{place}channel {channel + 1}" if about.componentCount > 1 else place.removesuffix(", ")
                )
                yield LazyFrame(size, bits, load, place=of_channel)


def _frame_offsets(data: bytes) -> dict[int, int]:
    """Where the chunk of each recorded frame begins, by its number."""
    end = data[-_MAP_END_BYTES:]
    if not end.startswith(_MAP_SIGNATURE):
        raise BrokenImage("The ND2 file is broken or cut short: it does not end with a map of its frames.")
    (start,) = struct.unpack("<Q", end[len(_MAP_SIGNATURE) :])
    found = _FRAME_ENTRY.findall(data[start:] if start < len(data) else b"")
    if not found:
        raise BrokenImage("The ND2 file is broken: its map has no frames.")
    return {int(number): struct.unpack("<Q", offset)[0] for number, offset in found}


def _refuse_unsupported(about: Any, file: Any) -> None:
    if about.compressionType == "lossy":
        raise UnsupportedImage("The ND2 file is compressed with loss. Save its images as TIFF first.")
    if min(about.heightPx, about.widthPx or 0, about.componentCount) < 1:
        raise BrokenImage(f"The ND2 file is broken: its header says {about.widthPx} x {about.heightPx} pixels.")
    if file.dtype.name not in _TYPES:
        raise UnsupportedImage(f"The image's pixels are of the type {file.dtype.name}. {SUPPORTED_PIXELS}.")
    if file.is_rgb:
        raise UnsupportedImage(
            "The ND2 file is from a colour camera, and ND2 does not say in which order its colours are. "
            "Save its images as TIFF first."
        )


def _ordered(file: Any, offsets: dict[int, int]) -> tuple[list[tuple[int, str]], int]:
    """The recorded frames in the order of pages, each with its place, and how many others were planned."""
    loops = [(str(loop.type), int(loop.count)) for loop in file.experiment]
    planned = math.prod(count for _, count in loops)
    if max(offsets) >= planned or any(name not in _LOOPS for name, _ in loops):
        # The loops do not explain the frames, so these stay in the order of recording.
        return [(number, f"frame {number + 1}, ") for number in sorted(offsets)], 0
    frames = sorted((_indices(number, loops), number) for number in offsets)
    return [(number, _place_words(indices)) for indices, number in frames], planned - len(offsets)


def _indices(number: int, loops: list[tuple[str, int]]) -> list[tuple[int, int]]:
    """The loops of a frame, as their numbers in _LOOPS, each with its index. The last loop is the fastest one."""
    indices: list[tuple[int, int]] = []
    for name, count in reversed(loops):
        number, index = divmod(number, count)
        indices.insert(0, (list(_LOOPS).index(name), index))
    return sorted(indices, key=lambda each: each[0])


def _place_words(indices: list[tuple[int, int]]) -> str:
    """Where a frame is, without its time, each part followed by a comma."""
    words = list(_LOOPS.values())
    return "".join(f"{words[loop]} {index + 1}, " for loop, index in indices if words[loop])


def _load(
    read_frame: Callable[[], NDArray[Any]], channel: int, metadata: Metadata, words: tuple[str, ...]
) -> tuple[Image, tuple[str, ...]]:
    # A copy, so that the frame's other channels and the mapped file can be freed.
    values = read_frame()[channel].copy()
    return from_array(values, 8 * values.dtype.itemsize, metadata), words


def _read_frame(data: bytes, file: Any, offsets: dict[int, int], number: int) -> NDArray[Any]:
    """(channels, H, W)."""
    about, size = file.attributes, file.dtype.itemsize
    shape = (about.heightPx, about.widthPx, about.componentCount)
    if about.compressionType is None:
        if offsets[number] + _BEFORE_PIXELS + math.prod(shape) * size > len(data):
            raise BrokenImage("The ND2 file is broken or cut short: pixels are missing.")
        frame: NDArray[Any] = file.read_frame(number)
        return frame.reshape(shape[2], *shape[:2])
    _, name, length = _CHUNK_HEAD.unpack_from(data, offsets[number])
    start = offsets[number] + _CHUNK_HEAD.size + name
    # Rows can be longer than their pixels.
    row = about.widthBytes or shape[1] * shape[2] * size
    most = (shape[0] - 1) * row + shape[1] * shape[2] * size
    packed = data[start + _TIME_BYTES : start + length]
    values = zlib.decompressobj().decompress(packed, most)
    return np.ndarray(shape, file.dtype, values, strides=(row, shape[2] * size, size)).transpose(2, 0, 1)


def _read_resolution(file: Any) -> tuple[float, float] | None:
    """Pixels per inch, if the file says how large a pixel is."""
    # nd2's voxel_size() reads all about the channels, and takes minutes if that is broken.
    with suppress(Exception):
        chunks = file.unstructured_metadata(strip_prefix=False, include=_PICTURE_CHUNKS)
        about = next(iter(chunks.values()))
        about = about.get("SLxPictureMetadata", about)
        if about["bCalibrated"]:
            dots = _MICROMETRES_PER_INCH / about["dCalibration"]
            return plausible_resolution(dots, dots)
    return None


def _import_nd2() -> Any:
    """Raises UnsupportedImage if nd2 is not installed."""
    try:
        return import_module("nd2")
    except ModuleNotFoundError as error:
        raise UnsupportedImage(
            "This is an ND2 file. Reading it needs the Python package nd2, which is not installed. "
            "Install it with: pip install 'denoise[microscopy]'. Or convert the file to TIFF first."
        ) from error
