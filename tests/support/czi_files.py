"""CZI files, made by hand: no package under a licence like ours writes them.

Zeiss' own library, pylibCZIrw, reads what is made here.
"""

import struct
from dataclasses import dataclass, field

import imagecodecs
import numpy as np

PIXEL_TYPES = {("uint8", 1): 0, ("uint16", 1): 1, ("float32", 1): 2, ("uint8", 3): 3, ("uint16", 3): 4,
               ("float32", 3): 8, ("uint8", 4): 9, ("complex64", 1): 10}  # fmt: skip
COMPRESSIONS = {"none": 0, "jpeg": 1, "jpeg xr": 4, "zstd": 5, "zstd with header": 6, "zstd in halves": 6}
SCALING = "<ImageDocument><Metadata><Scaling><Items>{}</Items></Scaling></Metadata></ImageDocument>"
DISTANCE = '<Distance Id="{}">\n  <Value>{}</Value></Distance>'


@dataclass(frozen=True)
class Tile:
    """values: (H, W) or (H, W, 3), as red, green, blue. place: starts of dimensions, such as {"T": 1, "C": 0}.

    at: x and y. stored: rows and columns, if other than those of the values are told.
    """

    values: np.ndarray
    place: dict[str, int] = field(default_factory=dict)
    at: tuple[int, int] = (0, 0)
    compression: str = "none"
    size_of_place: int = 1
    shrunk: int = 1
    file_part: int = 0


def czi_file(*tiles, metres=None):
    """A file's bytes. metres: the width and height of a pixel."""
    parts, entries = [bytes(544)], []
    for tile in tiles:
        entry = _entry(tile, sum(map(len, parts)))
        entries.append(entry)
        data = packed(tile)
        head = struct.pack("<iiq", 0, 0, len(data)) + entry
        parts.append(_segment("ZISRAWSUBBLOCK", head.ljust(256, b"\0") + data))
    directory = sum(map(len, parts))
    parts.append(_segment("ZISRAWDIRECTORY", struct.pack("<i124x", len(entries)) + b"".join(entries)))
    metadata = 0
    if metres:
        text = SCALING.format("".join(map(DISTANCE.format, "XY", metres))).encode()
        metadata = sum(map(len, parts))
        parts.append(_segment("ZISRAWMETADATA", struct.pack("<ii248x", len(text), 0) + text))
    header = struct.pack("<iiii16s16siqqiq", 1, 0, 0, 0, bytes(16), bytes(16), 0, directory, metadata, 0, 0)
    return b"".join([_segment("ZISRAWFILE", header.ljust(512, b"\0")), *parts[1:]])


def _segment(name, data):
    size = -(-len(data) // 32) * 32
    return struct.pack("<16sqq", name.encode(), size, len(data)) + data.ljust(size, b"\0")


def _entry(tile, position):
    height, width = tile.values.shape[:2]
    dimensions = {"X": (tile.at[0], width), "Y": (tile.at[1], height)}
    dimensions |= {name: (start, tile.size_of_place) for name, start in tile.place.items()}
    channels = tile.values.shape[2] if tile.values.ndim == 3 else 1
    pixel_type = PIXEL_TYPES[tile.values.dtype.name, channels]
    head = struct.pack("<2siqii6xi", b"DV", pixel_type, position, tile.file_part,
                       COMPRESSIONS[tile.compression], len(dimensions))  # fmt: skip
    return head + b"".join(
        struct.pack("<4siifi", name.encode(), start, size * (tile.shrunk if name in "XY" else 1), 0, size)
        for name, (start, size) in dimensions.items()
    )


def packed(tile):
    """The bytes of the tile."""
    values = tile.values
    if tile.compression == "jpeg xr":
        return imagecodecs.jpegxr_encode(values)
    stored = values[..., [2, 1, 0, 3][: values.shape[2]]] if values.ndim == 3 else values
    data = stored.tobytes()
    match tile.compression:
        case "zstd":
            return imagecodecs.zstd_encode(data)
        case "zstd with header":
            return b"\x01" + imagecodecs.zstd_encode(data)
        case "zstd in halves":
            halves = np.frombuffer(data, np.uint8).reshape(-1, 2).T.tobytes()
            return b"\x03\x01\x01" + imagecodecs.zstd_encode(halves)
    return data
