"""CZI, the format of Zeiss' microscopes: its planes, found with czifile, an optional package.

- A page is a plane: one scene, time, focal plane and channel. Pages are in this order, so channels are next to
  each other.
- A plane may lie in several tiles. Where they overlap, the later ones count. Smaller copies are left out.
- czifile finds the tiles. They are unpacked here, because czifile for Python 3.11 knows no Zstandard, and because
  a broken JPEG XR header would end the process.

Sources: Carl Zeiss Microscopy, "ZISRAW (CZI) File Format, Design Specification", 2016; "CZI: Zstd compression",
the description of libCZI.
"""

import math
import re
import struct
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
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

_LOST = "the CZI metadata"
# Type and number of channels, by names of pixel types. Colours are stored as blue, green, red.
_PIXEL_TYPES: dict[str, tuple[str, int]] = {
    "gray8": ("uint8", 1),
    "gray16": ("uint16", 1),
    "gray32float": ("float32", 1),
    "bgr24": ("uint8", 3),
    "bgr48": ("uint16", 3),
    "bgr96float": ("float32", 3),
    "bgra32": ("uint8", 4),
}
# Dimensions of a plane's place, the slowest first. M is the number of a tile in its plane.
_ORDER = "SBVRIHTZC"
# Those that tell where a plane is rather than when, and how people call them.
_DIMENSIONS = {
    "S": "scene",
    "V": "view",
    "R": "rotation",
    "I": "illumination",
    "H": "phase",
    "Z": "focal plane",
    "C": "channel",
}
_TILE = "M"
_SIDES = ("X", "Y")
_UNCOMPRESSED = 0
_JPEG_XR = 4
_ZSTD = 5
_ZSTD_WITH_HEADER = 6
_COMPRESSIONS = {1: "JPEG", 2: "LZW"}
# The tag of a JPEG XR file for the place of its image, which begins with a signature, flags, and its size.
_JPEG_XR_OFFSET = 0xBCC0
_JPEG_XR_SIGNATURE = b"WMPHOTO\0"
# Format of the colours and type of the samples, in a byte of the codestream's header.
_JPEG_XR_TYPES = {"gray8": 0x01, "gray16": 0x02, "gray32float": 0x07, "bgr24": 0x71, "bgr48": 0x72}
_SHORT_HEADER = 0x80
_METRES_PER_INCH = 0.0254


@dataclass(frozen=True)
class _Tile:
    """A part of a plane. name: of its pixel type. box: left, top, right and bottom, in pixels."""

    entry: Any
    name: str
    number: int
    box: tuple[int, int, int, int]


def open_czi(kind: Format, data: bytes) -> Iterator[LazyFrame]:
    """The planes of the file."""
    czifile = _import_czifile()
    with open_stream(data) as stream, czifile.CziFile(stream) as file:
        planes, words = _find_planes(data, file)
        metadata = Metadata(resolution=_read_resolution(data, file), lost=(_LOST,))
        boxes = _boxes(planes)
        told = [
            name for name, starts in zip(_ORDER, zip(*planes, strict=True), strict=True) if len(set(starts)) > 1
        ]
        for place in sorted(planes):
            tiles = sorted(planes[place], key=lambda tile: tile.number)
            left, top, right, bottom = boxes[place[0]]
            if len({tile.name for tile in tiles}) > 1:
                raise BrokenImage("The CZI file is broken: the tiles of a plane differ in type.")
            bits = 8 * np.dtype(_PIXEL_TYPES[tiles[0].name][0]).itemsize
            load = partial(_load, file, tiles, (left, top, right, bottom), metadata, words)
            yield LazyFrame((right - left, bottom - top), bits, load, place=_place_words(place, told))


def _find_planes(data: bytes, file: Any) -> tuple[dict[tuple[int, ...], list[_Tile]], tuple[str, ...]]:
    """The tiles of each plane, by its place in the order of _ORDER, and in words what is left out."""
    # Without a directory, czifile goes through the file, and never ends if it is broken.
    if not _has_segment(data, file.header.directory_position, b"ZISRAWDIRECTORY"):
        raise BrokenImage("The CZI file is broken or cut short: it has no directory of its planes.")
    planes: dict[tuple[int, ...], list[_Tile]] = defaultdict(list)
    smaller = set[tuple[int, ...]]()
    for entry in file.subblock_directory:
        if entry.file_part:
            raise UnsupportedImage("The CZI file is one of several that belong together. Save them as one file.")
        dimensions = _dimensions(file, entry)
        place = _place(dimensions)
        x, y = (dimensions[side] for side in _SIDES)
        if any(each.stored_size not in (0, each.size) for each in (x, y)):
            smaller.add(place)
            continue
        if min(x.size, y.size) < 1:
            raise BrokenImage(f"The CZI file is broken: a tile has {x.size} x {y.size} pixels.")
        number = dimensions[_TILE].start if _TILE in dimensions else -1
        box = (x.start, y.start, x.start + x.size, y.start + y.size)
        planes[place].append(_Tile(entry, _pixel_type(entry), number, box))
    if not planes:
        raise UnsupportedImage("The CZI file has no plane in full resolution. Save its image as TIFF first.")
    lacking = len(smaller - planes.keys())
    return planes, (f"without {lacking} planes of another resolution",) if lacking else ()


def _has_segment(data: bytes, position: int, name: bytes) -> bool:
    return position > 0 and data[position : position + len(name)] == name


def _dimensions(file: Any, entry: Any) -> dict[str, Any]:
    """The dimensions of a tile by their letters, each with its start and size."""
    # czifile's versions from 2026 on, for Python 3.12 and later, name it otherwise than those before.
    if hasattr(entry, "dimension_entries"):
        return {str(each.dimension): each for each in entry.dimension_entries}
    return {str(each.dimension.value): each for each in entry.read_dimension_entries(file).values()}


def _place(dimensions: dict[str, Any]) -> tuple[int, ...]:
    others = {name: each for name, each in dimensions.items() if name not in (*_SIDES, _TILE)}
    if not all(side in dimensions for side in _SIDES) or any(each.size > 1 for each in others.values()):
        raise UnsupportedImage("The CZI file holds lines or points, not planes. Save its image as TIFF first.")
    if unknown := others.keys() - set(_ORDER):
        names = ", ".join(sorted(unknown))
        raise UnsupportedImage(f"The CZI file has an unknown dimension, {names}. Save its image as TIFF first.")
    return tuple(others[name].start if name in others else 0 for name in _ORDER)


def _place_words(place: tuple[int, ...], told: list[str]) -> str:
    """Where a plane is, without its time. told: the dimensions that differ in the file."""
    named = zip(_ORDER, place, strict=True)
    return ", ".join(
        f"{_DIMENSIONS[name]} {start + 1}" for name, start in named if name in told and name in _DIMENSIONS
    )


def _pixel_type(entry: Any) -> str:
    """The name of a tile's pixel type, in lower case."""
    name = str(getattr(entry.pixel_type, "name", entry.pixel_type)).lower()
    if name not in _PIXEL_TYPES:
        raise UnsupportedImage(f"The image's pixels are of the type {name}. {SUPPORTED_PIXELS}.")
    return name


def _boxes(planes: dict[tuple[int, ...], list[_Tile]]) -> dict[int, tuple[int, int, int, int]]:
    """The box around all tiles of each scene."""
    boxes: dict[int, tuple[int, int, int, int]] = {}
    for place, tiles in planes.items():
        for tile in tiles:
            left, top, right, bottom = boxes.get(place[0], tile.box)
            x, y, x_end, y_end = tile.box
            boxes[place[0]] = min(left, x), min(top, y), max(right, x_end), max(bottom, y_end)
    return boxes


def _load(
    file: Any, tiles: list[_Tile], box: tuple[int, int, int, int], metadata: Metadata, words: tuple[str, ...]
) -> tuple[Image, tuple[str, ...]]:
    left, top, right, bottom = box
    dtype, channels = _PIXEL_TYPES[tiles[0].name]
    if len(tiles) == 1 and tiles[0].box == box:
        values = _pixels(file, tiles[0])
    else:
        # What no tile covers is 0, as in Zeiss' viewer.
        values = np.zeros((bottom - top, right - left, channels), dtype)
        for tile in tiles:
            x, y, x_end, y_end = tile.box
            values[y - top : y_end - top, x - left : x_end - left] = _pixels(file, tile)
    if channels == 4:
        values = values[..., :3]
        words = (*words, "without the fourth channel, which has no meaning")
    return from_array(values, 8 * values.dtype.itemsize, metadata), words


def _pixels(file: Any, tile: _Tile) -> NDArray[Any]:
    """(H, W, channels), colours as red, green, blue."""
    dtype, channels = np.dtype(_PIXEL_TYPES[tile.name][0]), _PIXEL_TYPES[tile.name][1]
    left, top, right, bottom = tile.box
    shape = (bottom - top, right - left, channels)
    data = _packed(file, tile.entry)
    compression = int(tile.entry.compression)
    if compression == _JPEG_XR:
        return _unpack_jpeg_xr(data, tile.name, dtype, shape)
    size = math.prod(shape) * dtype.itemsize
    if compression in (_ZSTD, _ZSTD_WITH_HEADER):
        data = _unpack_zstd(data, size, compression == _ZSTD_WITH_HEADER)
    elif compression != _UNCOMPRESSED:
        name = _COMPRESSIONS.get(compression, f"method {compression}")
        raise UnsupportedImage(
            f"The CZI file is compressed with {name}. Save it uncompressed, or with Zstandard or JPEG XR."
        )
    if len(data) < size:
        raise BrokenImage("The CZI file is broken or cut short: pixels are missing.")
    values: NDArray[Any] = np.frombuffer(data, dtype.newbyteorder("<"), math.prod(shape)).reshape(shape)
    # Blue, green, red, and perhaps a fourth.
    return values if channels == 1 else values[..., [2, 1, 0, 3][:channels]]


def _packed(file: Any, entry: Any) -> bytes:
    """The bytes of a tile."""
    old = hasattr(entry, "data_segment")
    segment = entry.data_segment() if old else entry.read_segment_data(file)
    if segment.SID != "ZISRAWSUBBLOCK":
        raise BrokenImage("The CZI file is broken: a tile is not where the directory says.")
    return bytes(segment.data(raw=True))


def _unpack_zstd(data: bytes, size: int, with_header: bool) -> bytes:
    import imagecodecs

    start, split = 0, False
    if with_header:
        # Its length, and if it is 3, the type of a chunk and whether low and high bytes are apart.
        start = data[0]
        if start not in (1, 3) or (start == 3 and data[1] != 1):
            raise BrokenImage("The CZI file is broken: a tile has an unknown header.")
        split = start == 3 and bool(data[2] & 1)
    unpacked = bytes(imagecodecs.zstd_decode(data[start:], out=size))
    if not split:
        return unpacked
    return np.frombuffer(unpacked, np.uint8).reshape(2, -1).T.tobytes()


def _unpack_jpeg_xr(data: bytes, name: str, dtype: np.dtype[Any], shape: tuple[int, int, int]) -> NDArray[Any]:
    import imagecodecs

    values = None
    if _jpeg_xr_header(data) == (_JPEG_XR_TYPES.get(name), shape[1], shape[0]):
        values = imagecodecs.jpegxr_decode(data)
    if values is None or values.dtype != dtype or values.shape not in (shape, shape[:2]):
        raise BrokenImage("The CZI file is broken: a tile's JPEG XR header does not fit the tile.")
    return values.reshape(shape)


def _jpeg_xr_header(data: bytes) -> tuple[int, int, int]:
    """The byte that tells the samples' type, and width and height. Raises ValueError, struct.error.

    The decoder ends the process if they are not those of the file around.
    """
    (directory,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, directory)
    entries = struct.iter_unpack("<HHII", data[directory + 2 : directory + 2 + 12 * count])
    start = next(value for tag, _, _, value in entries if tag == _JPEG_XR_OFFSET)
    if data[start : start + len(_JPEG_XR_SIGNATURE)] != _JPEG_XR_SIGNATURE:
        raise ValueError("a tile has no JPEG XR image")
    flags, samples = struct.unpack_from(">BB", data, start + 10)
    width, height = struct.unpack_from(">HH" if flags & _SHORT_HEADER else ">II", data, start + 12)
    return samples, width + 1, height + 1


def _read_resolution(data: bytes, file: Any) -> tuple[float, float] | None:
    """Pixels per inch, if the file says how large a pixel is."""
    if not _has_segment(data, file.header.metadata_position, b"ZISRAWMETADATA"):
        return None
    with suppress(Exception):
        text = str(file.metadata())
        sizes = [
            float(found[1])
            for side in _SIDES
            if (found := re.search(rf'<Distance Id="{side}"[^>]*>\s*<Value>([^<]+)</Value>', text))
        ]
        return plausible_resolution(*(_METRES_PER_INCH / size for size in sizes))
    return None


def _import_czifile() -> Any:
    """Raises UnsupportedImage if czifile is not installed."""
    try:
        return import_module("czifile")
    except ModuleNotFoundError as error:
        raise UnsupportedImage(
            "This is a CZI file. Reading it needs the Python package czifile, which is not installed. "
            "Install it with: pip install 'denoise[microscopy]'. Or convert the file to TIFF first."
        ) from error
