"""Samples of a TIFF page: decompresses strips and tiles, none beyond the size that the page states."""

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.imageio.formats import BrokenImage, UnsupportedImage

if TYPE_CHECKING:
    from tifffile import TiffPage

# Values of TIFF's tags.
UNCOMPRESSED = 1  # Compression
_LERC = 34887
_WHITE_IS_ZERO = 0  # PhotometricInterpretation
_SEPARATE_PLANES = 2  # PlanarConfiguration
_LERC_PARAMETERS = 50674  # a tag
# imagecodecs' functions by number of the compression: those that decompress no more than they are asked for.
_DECODERS = {
    5: "lzw_decode", 8: "zlib_decode", 32946: "zlib_decode", 32773: "packbits_decode", 34925: "lzma_decode",
    34926: "zstd_decode", 50000: "zstd_decode",
}  # fmt: skip
# The compressions that are read here.
DECOMPRESSED = frozenset({UNCOMPRESSED, _LERC, *_DECODERS})
# Those of up to 8 bits a channel that Pillow decompresses: also fax and JPEG.
PILLOWS_COMPRESSIONS = frozenset({UNCOMPRESSED, *_DECODERS, 2, 3, 4, 6, 7})
_COMPRESSION_NAMES = {
    22610: "JPEG XR", 33003: "JPEG 2000", 33004: "JPEG 2000", 33005: "JPEG 2000", 33007: "JPEG", 34661: "JBIG",
    34676: "LogLuv", 34677: "LogLuv", 34712: "JPEG 2000", 34892: "lossy JPEG of DNG", 34927: "WebP", 34933: "PNG",
    34934: "JPEG XR", 50001: "WebP", 50002: "JPEG XL", 52546: "JPEG XL",
}  # fmt: skip
# How LERC's own bytes are compressed, by the second of its parameters.
_LERC_DECODERS = {1: "zlib_decode", 2: "zstd_decode"}
# Bytes that LERC may add to the samples.
_LERC_HEADER_BYTES = 4096
# A tile or strip may be longer than the image, by at most this many rows.
_MAX_EXTRA_ROWS = 65536


def refuse_compression(page: "TiffPage", supported: Collection[int] = DECOMPRESSED) -> None:
    """Raises UnsupportedImage, naming the compression, if it is none of these."""
    number = int(page.compression)
    if number not in supported:
        name = _COMPRESSION_NAMES.get(number, f"number {number}")
        raise UnsupportedImage(
            f"The TIFF file's compression is {name}. Supported are none, LZW, deflate, PackBits, Zstandard, LZMA "
            "and LERC, and with up to 8 bits a channel JPEG and fax. Save the file with one of these."
        )


def read_samples(data: bytes, page: "TiffPage", shift: int = 0) -> NDArray[Any]:
    """(H, W, samples). shift: bytes from the page's samples to those that are read.

    A segment, which is a strip or a tile, is never decompressed beyond its size.
    Raises UnsupportedImage or BrokenImage.
    """
    samples = page.samplesperpixel
    planar = page.planarconfig == _SEPARATE_PLANES and samples > 1
    values = np.empty((page.imagelength, page.imagewidth, samples), page.dtype)
    decompress = _decompressor(page)
    segments = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    done = 0
    for index, (start, size) in enumerate(segments):
        offset = start + shift
        if not size or offset + size > len(data):
            raise BrokenImage("The TIFF file is broken or cut short: pixels lie beyond its end.")
        part, (_, _, top, left, _), _ = page.decode(decompress(data[offset : offset + size]), index)
        assert part is not None
        plane = index // (len(segments) // samples) if planar else 0
        part = part[0, : page.imagelength - top, : page.imagewidth - left]
        height, width = part.shape[:2]
        values[top : top + height, left : left + width, plane : plane + part.shape[2]] = part
        done += part.size
    if done < values.size:
        raise BrokenImage("The TIFF file is broken or cut short: pixels are missing.")
    return np.invert(values, out=values) if page.photometric == _WHITE_IS_ZERO else values


def _decompressor(page: "TiffPage") -> Callable[[bytes], bytes]:
    """Decompresses a segment up to its size. tifffile itself would decompress without a limit."""
    import imagecodecs

    compression = int(page.compression)
    refuse_compression(page)
    # tifffile then undoes what else was done to the samples.
    page.compression = UNCOMPRESSED
    rows, columns = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
    channels = 1 if page.planarconfig == _SEPARATE_PLANES else page.samplesperpixel
    row_bytes = (columns * channels * page.bitspersample + 7) // 8
    most = min(rows, page.imagelength + _MAX_EXTRA_ROWS) * row_bytes + 64
    if compression == UNCOMPRESSED:
        return lambda packed: packed[:most]
    if compression == _LERC:
        parameters = page.tags.valueof(_LERC_PARAMETERS, default=(0, 0))
        return _lerc_decompressor(page, int(parameters[1]), most, columns, channels)
    decode = getattr(imagecodecs, _DECODERS[compression])
    return lambda packed: decode(packed, out=most)


def _lerc_decompressor(
    page: "TiffPage", packing: int, most: int, columns: int, channels: int
) -> Callable[[bytes], bytes]:
    """packing: how LERC's bytes are compressed. most: bytes of a segment's samples."""
    import imagecodecs

    if packing and packing not in _LERC_DECODERS:
        raise UnsupportedImage(
            "The TIFF file's LERC data are compressed in an unknown way. Save them as deflate."
        )
    unpack = getattr(imagecodecs, _LERC_DECODERS[packing]) if packing else None

    def decompress(packed: bytes) -> bytes:
        plain = unpack(packed, out=most + _LERC_HEADER_BYTES) if unpack else packed
        # The decoder takes no limit, but refuses samples of another size than this array's.
        rows, width = _lerc_size(plain)
        size = rows * columns * channels * np.dtype(page.dtype).itemsize
        if width != columns or not 0 < size <= most:
            raise BrokenImage("The TIFF file is broken: its LERC data have another size than the image.")
        shape = (rows, columns, channels) if channels > 1 else (rows, columns)
        values, present = imagecodecs.lerc_decode(plain, masks=True, out=np.empty(shape, page.dtype))
        # libtiff writes samples that are not numbers as absent ones.
        if present is not None and values.dtype.kind == "f":
            values[~present] = np.nan
        return values.astype(values.dtype.newbyteorder(page.parent.byteorder)).tobytes()

    return decompress


def _lerc_size(packed: bytes) -> tuple[int, int]:
    """The height and width of a LERC block; 0 if it is none. Source: Esri, "LERC", `Lerc2.h`."""
    if packed[:6] != b"Lerc2 " or len(packed) < 26:
        return 0, 0
    version = int.from_bytes(packed[6:10], "little")
    # From version 3 on, a checksum lies between.
    at = 14 if version >= 3 else 10
    return int.from_bytes(packed[at : at + 4], "little"), int.from_bytes(packed[at + 4 : at + 8], "little")
