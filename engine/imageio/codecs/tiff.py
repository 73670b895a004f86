"""TIFF, read and written with tifffile. Pillow reads the 8-bit images that need more than decompression."""

import logging
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags
from PIL import Image as PILImage

from engine.imageio.codecs.pillow import (
    CONVERTED,
    convert_to_srgb,
    from_pil,
    refuse_unsupported,
    turn_upright,
)
from engine.imageio.formats import SUPPORTED_PIXELS, BrokenImage, Format, UnsupportedImage
from engine.imageio.image import Image, LazyFrame, from_array, to_array
from engine.imageio.metadata.tiff import (
    add_tiff_exif,
    read_tiff_metadata,
    tiff_byte_order,
    tifffile_tags,
)

if TYPE_CHECKING:
    from tifffile import TiffPage

# Values of TIFF's tags.
_UNCOMPRESSED = 1  # Compression
_WHITE_IS_ZERO = 0  # PhotometricInterpretation
_BLACK_IS_ZERO = 1
_RGB = 2
_PALETTE = 3
_ICC_LAB = 9
_ITU_LAB = 10
_UNSPECIFIED = 0  # ExtraSamples
_ASSOCIATED_ALPHA = 1
_UNASSOCIATED_ALPHA = 2
_SEPARATE_PLANES = 2  # PlanarConfiguration
_PREVIEW = 1  # NewSubfileType, bits
_MASK = 4
# imagecodecs' functions by number of the compression: those that decompress no more than they are asked for.
_DECODERS = {5: "lzw_decode", 8: "zlib_decode", 32946: "zlib_decode", 32773: "packbits_decode"}
_UNSUPPORTED_COLOURS = {
    5: "CMYK", 6: "YCbCr", 8: "CIELAB", _ICC_LAB: "CIELAB", _ITU_LAB: "CIELAB", 32803: "a camera's raw",
}  # fmt: skip
# Bytes that are written as one strip, before compression.
_STRIP_BYTES = 2**20
_DEFLATE_LEVEL = 6
# A tile or strip may be longer than the image, by at most this many rows.
_MAX_EXTRA_ROWS = 65536

# tifffile logs what it finds odd in a file, and then goes on or raises.
logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)


def open_tiff(kind: Format, data: bytes) -> Iterator[LazyFrame]:
    """The pages, without previews and masks."""
    import tifffile

    with tifffile.TiffFile(BytesIO(data)) as file:
        number = 0
        while True:
            try:
                page = file.pages.get(number)
            except IndexError:
                break
            assert isinstance(page, tifffile.TiffPage)
            if not page.subfiletype & (_PREVIEW | _MASK) or not number:
                bits = 32 if page.dtype and page.dtype.kind == "f" else page.bitspersample
                yield LazyFrame((page.imagewidth, page.imagelength), bits, _loader(data, page, number))
            number += 1
    if not number:
        raise BrokenImage("The TIFF file's header is broken, cut short or of an unsupported kind.")


def _loader(data: bytes, page: "TiffPage", number: int) -> Callable[[], tuple[Image, tuple[str, ...]]]:
    def load() -> tuple[Image, tuple[str, ...]]:
        metadata = read_tiff_metadata(data, page.offset)
        _refuse_unsupported(page)
        bits = page.bitspersample
        if bits <= 8 and not _is_plain(page):
            with PILImage.open(BytesIO(data), formats=["TIFF"]) as image:
                image.seek(number)
                # If a file has the same tag twice, the two readers may not take the same one.
                if sorted(image.size) != sorted((page.imagewidth, page.imagelength)):
                    raise BrokenImage("The TIFF file is broken: it says more than one size.")
                refuse_unsupported(image, bits)
                # Otherwise Pillow turns the image while it loads it.
                image.getexif()[ExifTags.Base.Orientation] = 1
                image.load()
                image._size = image.im.size
                if image.mode in CONVERTED:
                    return convert_to_srgb(image, metadata)
                return from_pil(turn_upright(image, metadata.orientation), metadata.upright()), ()
        values = _read_samples(data, page)
        changed = ("float16 to float32",) if values.dtype == np.float16 else ()
        return from_array(values, bits, metadata, metadata.orientation), changed

    return load


def _is_plain(page: "TiffPage") -> bool:
    """Whether its samples need no conversion once they are decompressed."""
    channels = page.samplesperpixel - len(page.extrasamples)
    return (
        page.bitspersample == 8
        and page.compression in (_UNCOMPRESSED, *_DECODERS)
        and channels == {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3}.get(page.photometric)
        and tuple(page.extrasamples) in ((), (_UNASSOCIATED_ALPHA,))
    )


def _refuse_unsupported(page: "TiffPage") -> None:
    """Raises UnsupportedImage for pixels that are not supported, in words."""
    dtype, bits = page.dtype.kind if page.dtype else "?", page.bitspersample
    name = {"f": "floating point", "i": "signed integers", "c": "complex numbers"}.get(dtype, "colour or grey")
    fault = None
    if not (dtype in "bu" and bits <= 16) and not (dtype == "f" and bits in (16, 32)):
        fault = f"{name} of {bits} bits a channel"
    elif page.photometric in _UNSUPPORTED_COLOURS and bits > 8:
        fault = f"{_UNSUPPORTED_COLOURS[page.photometric]} of {bits} bits a channel"
    elif page.photometric in (_ICC_LAB, _ITU_LAB):
        fault = "CIELAB in the ICC or ITU encoding"
    elif page.photometric == _PALETTE and bits > 8:
        fault = f"a palette of {bits} bits"
    elif any(each == _UNSPECIFIED for each in page.extrasamples):
        fault = f"{page.samplesperpixel} channels, one of which is neither colour nor transparency"
    elif bits > 8 and (len(page.extrasamples) > 1 or _ASSOCIATED_ALPHA in page.extrasamples):
        fault = f"{bits} bits a channel, multiplied by their transparency"
    elif bits > 8 and page.samplesperpixel - len(page.extrasamples) != (3 if page.photometric == _RGB else 1):
        fault = f"{page.samplesperpixel} channels of {bits} bits"
    elif page.photometric == _WHITE_IS_ZERO and dtype == "f":
        fault = "floating point in which 0 is white"
    elif page.imagedepth != 1:
        fault = "a volume"
    if fault:
        raise UnsupportedImage(f"The image's pixels are {fault}. {SUPPORTED_PIXELS}.")


def _read_samples(data: bytes, page: "TiffPage") -> NDArray[Any]:
    """(H, W, samples). A segment, which is a strip or a tile, is never decompressed beyond its size."""
    samples = page.samplesperpixel
    planar = page.planarconfig == _SEPARATE_PLANES and samples > 1
    values = np.empty((page.imagelength, page.imagewidth, samples), page.dtype)
    decompress = _decompressor(page)
    segments = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    done = 0
    for index, (offset, size) in enumerate(segments):
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
    if compression not in (_UNCOMPRESSED, *_DECODERS):
        raise UnsupportedImage(
            f"The TIFF file's compression is {page.compression!r}. Supported with more than 8 bits a channel: "
            "none, LZW, deflate and PackBits."
        )
    page.compression = _UNCOMPRESSED
    rows, columns = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
    channels = 1 if page.planarconfig == _SEPARATE_PLANES else page.samplesperpixel
    row_bytes = (columns * channels * page.bitspersample + 7) // 8
    most = min(rows, page.imagelength + _MAX_EXTRA_ROWS) * row_bytes + 64
    if compression == _UNCOMPRESSED:
        return lambda packed: packed[:most]
    decode = getattr(imagecodecs, _DECODERS[compression])
    return lambda packed: decode(packed, out=most)


def write_tiff(pages: Sequence[Image]) -> bytes:
    """The pages as a TIFF file, compressed with deflate."""
    import tifffile

    metadata = pages[0].metadata
    encoded = BytesIO()
    with tifffile.TiffWriter(encoded, byteorder=tiff_byte_order(metadata)) as writer:
        for page in pages:
            writer.write(
                to_array(page),
                photometric="minisblack" if page.grey else "rgb",
                extrasamples=None if page.alpha is None else ["unassalpha"],
                planarconfig=None if page.grey and page.alpha is None else "contig",
                compression="zlib",
                compressionargs={"level": _DEFLATE_LEVEL},
                predictor=True,
                rowsperstrip=max(1, _STRIP_BYTES // max(1, page.samples[0].nbytes)),
                iccprofile=page.metadata.icc_profile,
                resolution=page.metadata.resolution,
                resolutionunit="INCH" if page.metadata.resolution else None,
                extratags=tifffile_tags(page.metadata),
                metadata=None,
                software=False,
                maxworkers=1,
            )
    return add_tiff_exif(encoded.getvalue(), metadata)
