"""TIFF, by tifffile: of 16 bits, of floating point, and plain ones of 8. Others of 8 bits go through Pillow."""

import logging
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from engine.imageio.codecs.pillow import (
    CONVERTED,
    converted,
    from_image,
    refuse_unsupported,
    upright,
)
from engine.imageio.formats import PIXELS_TAKEN, BrokenImage, Format, UnsupportedImage
from engine.imageio.image import Frame, Image, from_array
from engine.imageio.metadata.tiff import read_tiff_metadata

if TYPE_CHECKING:
    from tifffile import TiffPage

# Packing that imagecodecs undoes with a limit, by TIFF's numbers.
_UNPACKERS = {5: "lzw_decode", 8: "zlib_decode", 32946: "zlib_decode", 32773: "packbits_decode"}
_TIFF_KINDS = {5: "CMYK", 6: "YCbCr", 8: "CIELAB", 9: "CIELAB", 10: "CIELAB", 32803: "a camera's raw"}
_PREVIEW_OR_MASK = 1 | 4

# It logs what it finds odd in a file, and then goes on or raises.
logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)


def open_tiff(kind: Format, data: bytes) -> Iterator[Frame]:
    """The pages, less previews and masks."""
    import tifffile

    with tifffile.TiffFile(BytesIO(data)) as file:
        number = 0
        while True:
            try:
                page = file.pages.get(number)
            except IndexError:
                break
            assert isinstance(page, tifffile.TiffPage)
            if not page.subfiletype & _PREVIEW_OR_MASK or not number:
                bits = 32 if page.dtype and page.dtype.kind == "f" else page.bitspersample
                load = _tiff_loader(kind, data, page, number)
                yield Frame((page.imagewidth, page.imagelength), bits, load)
            number += 1
    if not number:
        raise BrokenImage("The TIFF file's header is broken, cut short or of a rare kind.")


def _tiff_loader(
    kind: Format, data: bytes, page: "TiffPage", number: int
) -> Callable[[], tuple[Image, tuple[str, ...]]]:
    def load() -> tuple[Image, tuple[str, ...]]:
        known = read_tiff_metadata(data, page.offset)
        _refuse_strange(page)
        bits = page.bitspersample
        if bits <= 8 and not _is_plain(page):
            with PILImage.open(BytesIO(data), formats=["TIFF"]) as image:
                image.seek(number)
                # Two readers, and a tag that is there twice.
                if sorted(image.size) != sorted((page.imagewidth, page.imagelength)):
                    raise BrokenImage("The TIFF file is broken: it has more than one size.")
                refuse_unsupported(image, bits)
                if image.mode in CONVERTED:
                    return converted(image)
                return from_image(upright(image), known.upright()), ()
        values = _tiff_values(data, page)
        words = ("float16 to float32",) if values.dtype == np.float16 else ()
        return from_array(values, bits, known, known.orientation), words

    return load


def _is_plain(page: "TiffPage") -> bool:
    """Whether its samples need no more than to be unpacked."""
    channels = page.samplesperpixel - len(page.extrasamples)
    return (
        page.bitspersample == 8
        and page.compression in (1, *_UNPACKERS)
        and channels == {0: 1, 1: 1, 2: 3}.get(page.photometric)
        and tuple(page.extrasamples) in ((), (2,))
    )


def _refuse_strange(page: "TiffPage") -> None:
    """Pixels that are not taken, in words."""
    kind, bits = page.dtype.kind if page.dtype else "?", page.bitspersample
    name = {"f": "floating point", "i": "signed numbers", "c": "complex numbers"}.get(kind, "colour or grey")
    fault = None
    if not (kind in "bu" and bits <= 16) and not (kind == "f" and bits in (16, 32)):
        fault = f"{name} of {bits} bits a channel"
    elif page.photometric in _TIFF_KINDS and bits > 8:
        fault = f"{_TIFF_KINDS[page.photometric]} of {bits} bits a channel"
    elif page.photometric in (9, 10):
        fault = "CIELAB of a rare kind"
    elif page.photometric == 3 and bits > 8:
        fault = f"a palette of {bits} bits"
    elif any(each == 0 for each in page.extrasamples):
        fault = f"{page.samplesperpixel} channels, of which one is neither colour nor transparency"
    elif bits > 8 and (len(page.extrasamples) > 1 or 1 in page.extrasamples):
        fault = f"{bits} bits a channel multiplied with their transparency"
    elif bits > 8 and page.samplesperpixel - len(page.extrasamples) != (3 if page.photometric == 2 else 1):
        fault = f"{page.samplesperpixel} channels of {bits} bits"
    elif page.photometric == 0 and kind == "f":
        fault = "floating point with white at 0"
    elif page.imagedepth != 1:
        fault = "a volume"
    if fault:
        raise UnsupportedImage(f"The image's pixels are {fault}; {PIXELS_TAKEN}.")


def _tiff_values(data: bytes, page: "TiffPage") -> NDArray[Any]:
    """(H, W, samples). Whatever a segment says of itself, no more is unpacked than belongs in it."""
    samples = page.samplesperpixel
    planar = page.planarconfig == 2 and samples > 1
    values = np.empty((page.imagelength, page.imagewidth, samples), page.dtype)
    unpack = _undo_packing(page)
    where = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    done = 0
    for index, (offset, count) in enumerate(where):
        if not count or offset + count > len(data):
            raise BrokenImage("The TIFF file is broken or cut short: pixels lie beyond its end.")
        part, (_, _, top, left, _), _ = page.decode(unpack(data[offset : offset + count]), index)
        assert part is not None
        plane = index // (len(where) // samples) if planar else 0
        part = part[0, : page.imagelength - top, : page.imagewidth - left]
        high, wide = part.shape[:2]
        values[top : top + high, left : left + wide, plane : plane + part.shape[2]] = part
        done += part.size
    if done < values.size:
        raise BrokenImage("The TIFF file is broken or cut short: pixels are missing.")
    # White at 0.
    return np.invert(values, out=values) if page.photometric == 0 else values


def _undo_packing(page: "TiffPage") -> Callable[[bytes], bytes]:
    """The segments' compression, undone here, for tifffile itself would unpack without an end."""
    import imagecodecs

    compression = int(page.compression)
    if compression not in (1, *_UNPACKERS):
        raise UnsupportedImage(
            f"The TIFF file is compressed by {page.compression!r}; taken with more than 8 bits are none, LZW, "
            "deflate and PackBits."
        )
    page.compression = 1
    length, width = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
    channels = 1 if page.planarconfig == 2 else page.samplesperpixel
    most = (min(length, page.imagelength + 65536) * ((width * channels * page.bitspersample + 7) // 8)) + 64
    if compression == 1:
        return lambda packed: packed[:most]
    unpacker = getattr(imagecodecs, _UNPACKERS[compression])
    return lambda packed: unpacker(packed, out=most)
