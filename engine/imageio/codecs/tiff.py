"""TIFF, read and written with tifffile. Pillow reads the 8-bit images that need more than decompression."""

import logging
import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import chain
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np
from PIL import ExifTags
from PIL import Image as PILImage

from engine.imageio.codecs.pillow import (
    CONVERTED,
    convert_to_srgb,
    from_pil,
    refuse_unsupported,
    turn_upright,
)
from engine.imageio.codecs.tiff_samples import (
    DECOMPRESSED,
    PILLOWS_COMPRESSIONS,
    UNCOMPRESSED,
    read_samples,
    refuse_compression,
)
from engine.imageio.formats import SUPPORTED_PIXELS, BrokenImage, Format, UnsupportedImage
from engine.imageio.image import Image, LazyFrame, from_array, is_kept, scaled_words, to_array
from engine.imageio.mapped_file import open_stream
from engine.imageio.metadata import Metadata
from engine.imageio.metadata.description import counted_images, without_nodata, without_units
from engine.imageio.metadata.exif import exact_resolution
from engine.imageio.metadata.tiff import (
    has_exif_ifds,
    read_tiff_description,
    read_tiff_metadata,
    tiff_byte_order,
    tiff_exif_edits,
    tifffile_tags,
)
from engine.imageio.samples import STORED_TYPES, is_exact_in_float32, parse_nodata

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage, TiffWriter

# Values of TIFF's tags.
_WHITE_IS_ZERO = 0  # PhotometricInterpretation
_BLACK_IS_ZERO = 1
_RGB = 2
_PALETTE = 3
_ICC_LAB = 9
_ITU_LAB = 10
_UNSPECIFIED = 0  # ExtraSamples
_ASSOCIATED_ALPHA = 1
_UNASSOCIATED_ALPHA = 2
_PREVIEW = 1  # NewSubfileType, bits
_MASK = 4
_INCH = 2  # ResolutionUnit
_GDAL_NODATA = 42113  # a tag
_METAMORPH_PLANES = 33629  # a tag
_UNSUPPORTED_COLOURS = {
    5: "CMYK", 6: "YCbCr", 8: "CIELAB", _ICC_LAB: "CIELAB", _ITU_LAB: "CIELAB", 32803: "a camera's raw",
}  # fmt: skip
# Bits of a sample that are read, by the kind of its type.
_BITS_READ = {"b": range(1, 2), "u": (*range(1, 17), 32), "i": (8, 16, 32), "f": (16, 32, 64)}
_FLOAT_BITS = 32
# Bytes that are written as one strip, before compression.
_STRIP_BYTES = 2**20
_DEFLATE_LEVEL = 6
# tifffile logs what it finds odd in a file, and then goes on or raises.
logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)


@dataclass(frozen=True)
class _Source:
    """Where an image of a file lies.

    number: of its page in the chain of IFDs. first: where the first page's IFD lies. shift: bytes from the page's
    samples to the image's, if several images lie behind one IFD.
    """

    data: bytes
    page: "TiffPage"
    number: int
    first: int
    shift: int = 0


def open_tiff(kind: Format, data: bytes) -> Iterator[LazyFrame]:
    """The images of the chain of IFDs, without previews, masks and smaller copies."""
    import tifffile

    with open_stream(data) as stream, tifffile.TiffFile(stream) as file:
        pages = _chain(file)
        first = next(pages, None)
        if first is None:
            raise BrokenImage("The TIFF file's header is broken, cut short or of an unsupported kind.")
        second = next(pages, None)
        if second is None:
            yield from _frames_behind(data, first)
            return
        # Slide scanners put the slide first, then smaller copies of it and of its label.
        is_slide = first.is_svs or first.is_ndpi or first.is_philips
        rest = () if is_slide else chain([second], pages)
        words = ("only the slide of several images",) if is_slide else ()
        found = False
        for number, page in enumerate(chain([first], rest)):
            if not page.subfiletype & (_PREVIEW | _MASK):
                yield _frame(_Source(data, page, number, first.offset), words)
                found = True
        if not found:
            yield _frame(_Source(data, first, 0, first.offset))


def _chain(file: "TiffFile") -> "Iterator[TiffPage]":
    number = 0
    while True:
        try:
            page = file.pages.get(number)
        except IndexError:
            return
        yield cast("TiffPage", page)
        number += 1


def _frame(source: _Source, words: tuple[str, ...] = ()) -> LazyFrame:
    page = source.page
    as_floats = page.dtype is not None and (page.dtype.kind in "fi" or page.dtype.itemsize > 2)
    bits = _FLOAT_BITS if as_floats else page.bitspersample
    return LazyFrame((page.imagewidth, page.imagelength), bits, lambda: _load(source, words))


def _frames_behind(data: bytes, page: "TiffPage") -> Iterator[LazyFrame]:
    """The images behind the only IFD of a file: one, or a stack whose images follow one another.

    ImageJ writes stacks of more than 4 GB so, tifffile with `truncate`, and MetaMorph all stacks.
    """
    bits = page.imagewidth * page.samplesperpixel * page.bitspersample
    size = page.imagelength * ((bits + 7) // 8)
    planes = page.tags[_METAMORPH_PLANES].count if _METAMORPH_PLANES in page.tags else 1
    text = read_tiff_description(data, page.offset)
    planes = max(planes, counted_images(text, page.imagewidth * page.imagelength * page.samplesperpixel))
    offsets, sizes = page.dataoffsets, page.databytecounts
    follow = all(start + length == stop for start, length, stop in zip(offsets, sizes, offsets[1:], strict=False))
    if planes > 1 and offsets and page.compression == UNCOMPRESSED and follow and not page.is_tiled:
        there = min((len(data) - offsets[0]) // max(size, 1), planes)
        if 1 < there < planes:
            raise BrokenImage(f"The TIFF file is cut short: {planes} images were in it, and {there} are left.")
        # With one, the description is that of another file, from which the image was taken.
        planes = max(there, 1)
    elif planes > 1 and (_METAMORPH_PLANES in page.tags or b'"truncated"' in text):
        raise UnsupportedImage(
            f"The TIFF file holds {planes} compressed images behind one directory. Save them as pages, each with "
            "a directory of its own."
        )
    else:
        planes = 1
    for plane in range(planes):
        yield _frame(_Source(data, page, 0, page.offset, plane * size))


def _load(source: _Source, words: tuple[str, ...]) -> tuple[Image, tuple[str, ...]]:
    page, bits = source.page, source.page.bitspersample
    metadata = read_tiff_metadata(source.data, page.offset, source.first)
    changed = list(words)
    _refuse_unsupported(page)
    kind = page.dtype.kind if page.dtype else "?"
    if kind in "bu" and not is_kept(np.dtype(page.dtype), bits) and page.photometric != _PALETTE:
        metadata = replace(metadata, exif=without_units(metadata.exif))
        changed.append(scaled_words(bits))
    if bits <= 8 and kind in "bu" and not _is_plain(page):
        image, more = _load_with_pillow(source, metadata)
        return image, (*changed, *more)
    values = read_samples(source.data, page, source.shift)
    if values.dtype == np.float16:
        changed.append("float16 to float32")
    if not is_exact_in_float32(values):
        changed.append(f"{STORED_TYPES[values.dtype.name]} to the precision of 32-bit floats")
    if _has_unspecified_alpha(page):
        changed.append("the fourth channel, of no stated meaning, taken for transparency")
    nodata, missing = page.tags.valueof(_GDAL_NODATA), None
    if nodata is not None and page.photometric != _WHITE_IS_ZERO:
        try:
            missing = parse_nodata(str(nodata))
        except ValueError:
            exif = without_nodata(metadata.exif)
            metadata = replace(metadata, exif=exif, lost=(*metadata.lost, "an unreadable nodata tag"))
    return from_array(values, bits, metadata, metadata.orientation, missing), tuple(changed)


def _load_with_pillow(source: _Source, metadata: Metadata) -> tuple[Image, tuple[str, ...]]:
    """An image of up to 8 bits a channel that needs more than decompression."""
    page = source.page
    refuse_compression(page, PILLOWS_COMPRESSIONS)
    if source.shift and page.photometric == _PALETTE and page.bitspersample == 8 and page.colormap is not None:
        colours = (page.colormap.T >> 8).astype(np.uint8)
        return from_array(
            colours[read_samples(source.data, page, source.shift)[..., 0]], 8, metadata, metadata.orientation
        ), ()
    if source.shift:
        raise UnsupportedImage(
            "The TIFF file holds several images of this kind behind one directory. Save them as pages."
        )
    with open_stream(source.data) as stream, PILImage.open(stream, formats=["TIFF"]) as image:
        image.seek(source.number)
        # If a file has the same tag twice, the two readers may not take the same one.
        if sorted(image.size) != sorted((page.imagewidth, page.imagelength)):
            raise BrokenImage("The TIFF file is broken: it says more than one size.")
        refuse_unsupported(image, page.bitspersample)
        # Otherwise Pillow turns the image while it loads it.
        image.getexif()[ExifTags.Base.Orientation] = 1
        image.load()
        image._size = image.im.size
        if image.mode in CONVERTED:
            return convert_to_srgb(image, metadata)
        return from_pil(turn_upright(image, metadata.orientation), metadata.upright()), ()


def _is_plain(page: "TiffPage") -> bool:
    """Whether its samples need no conversion once they are decompressed."""
    channels = page.samplesperpixel - len(page.extrasamples)
    return (
        page.bitspersample == 8
        and page.compression in DECOMPRESSED
        and channels == {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3}.get(page.photometric)
        and (tuple(page.extrasamples) in ((), (_UNASSOCIATED_ALPHA,)) or _has_unspecified_alpha(page))
    )


def _has_unspecified_alpha(page: "TiffPage") -> bool:
    """Whether the one channel besides RGB has no stated meaning. Other readers take it for transparency.

    Beside grey such a channel usually is a second image, for example of another dye.
    """
    return page.photometric == _RGB and page.samplesperpixel == 4 and tuple(page.extrasamples) == (_UNSPECIFIED,)


def _refuse_unsupported(page: "TiffPage") -> None:
    """Raises UnsupportedImage for pixels that are not supported, in words."""
    dtype, bits = page.dtype.kind if page.dtype else "?", page.bitspersample
    name = {"f": "floating point", "i": "signed integers", "c": "complex numbers"}.get(dtype, "colour or grey")
    is_deep = bits > 8 or dtype == "i"
    fault = None
    if bits not in _BITS_READ.get(dtype, ()):
        fault = f"{name} of {bits} bits a channel"
    elif page.photometric in _UNSUPPORTED_COLOURS and is_deep:
        fault = f"{_UNSUPPORTED_COLOURS[page.photometric]} of {bits} bits a channel"
    elif page.photometric in (_ICC_LAB, _ITU_LAB):
        fault = "CIELAB in the ICC or ITU encoding"
    elif page.photometric == _PALETTE and is_deep:
        fault = f"a palette of {bits} bits"
    elif any(each == _UNSPECIFIED for each in page.extrasamples) and not _has_unspecified_alpha(page):
        fault = f"{page.samplesperpixel} channels, one of which is neither colour nor transparency"
    elif is_deep and (len(page.extrasamples) > 1 or _ASSOCIATED_ALPHA in page.extrasamples):
        fault = f"{bits} bits a channel, multiplied by their transparency"
    elif is_deep and page.samplesperpixel - len(page.extrasamples) != (3 if page.photometric == _RGB else 1):
        fault = f"{page.samplesperpixel} channels of {bits} bits"
    elif page.photometric == _WHITE_IS_ZERO and dtype in "fi":
        fault = f"{name} in which 0 is white"
    elif page.imagedepth != 1:
        fault = "a volume"
    if fault:
        raise UnsupportedImage(f"The image's pixels are {fault}. {SUPPORTED_PIXELS}.")


def write_tiff(pages: Sequence[Image]) -> bytes:
    """The pages as a TIFF file, compressed with deflate."""
    encoded = BytesIO()
    writer = TiffPageWriter(encoded)
    for page in pages:
        writer.write(page)
    writer.close()
    return encoded.getvalue()


class TiffPageWriter:
    """Writes a TIFF file page by page, compressed with deflate. Call `close` after the last page.

    file: can be read too. big: BigTIFF, for files of more than 4 GB.
    changed: what the file cannot hold, in words.
    """

    def __init__(self, file: BinaryIO, big: bool = False) -> None:
        self.file, self.big = file, big
        self.changed: tuple[str, ...] = ()
        self._metadata: Metadata | None = None
        self._writer: TiffWriter | None = None

    def write(self, page: Image) -> None:
        """Add a page."""
        import tifffile

        if self._writer is None:
            self._metadata = page.metadata
            order = tiff_byte_order(page.metadata)
            self._writer = tifffile.TiffWriter(self.file, byteorder=order, bigtiff=self.big)
            if self.big and has_exif_ifds(page.metadata):
                self.changed = ("without EXIF and GPS, for which a BigTIFF file has another layout",)
        resolution, unit = _resolution(page.metadata)
        array = to_array(page)
        self._writer.write(
            array,
            photometric="minisblack" if page.grey else "rgb",
            extrasamples=None if page.alpha is None else ["unassalpha"],
            planarconfig=None if page.grey and page.alpha is None else "contig",
            compression="zlib",
            compressionargs={"level": _DEFLATE_LEVEL},
            predictor=True,
            rowsperstrip=max(1, _STRIP_BYTES // max(1, array[0].nbytes)),
            iccprofile=page.metadata.icc_profile,
            resolution=resolution,
            resolutionunit=unit,
            extratags=tifffile_tags(page.metadata, exif_ifds=not self.big),
            metadata=None,
            software=False,
            maxworkers=1,
        )

    def close(self) -> None:
        """Complete the file."""
        assert self._writer is not None
        assert self._metadata is not None
        self._writer.close()
        if self.big or not has_exif_ifds(self._metadata):
            return
        self.file.flush()
        for offset, part in self._exif_edits(self._metadata):
            self.file.seek(offset)
            self.file.write(part)

    def _exif_edits(self, metadata: Metadata) -> list[tuple[int, bytes]]:
        if isinstance(self.file, BytesIO):
            return tiff_exif_edits(self.file.getvalue(), metadata)
        with mmap.mmap(self.file.fileno(), 0, access=mmap.ACCESS_READ) as written:
            return tiff_exif_edits(cast(bytes, written), metadata)


def _resolution(metadata: Metadata) -> tuple[Any, int | None]:
    """tifffile's `resolution` and `resolutionunit`."""
    if metadata.resolution:
        return metadata.resolution, _INCH
    exact = exact_resolution(metadata.exif)
    return (exact[:2], exact[2]) if exact else (None, None)
