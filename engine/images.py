"""Bytes to pixels and back: float32 on [0, 1] inside, a file's own depth outside. The only file with codecs.

A whole picture is kept in the depth of its file, as `samples`; `pixels` are what networks work with. Pillow reads
and writes what has 8 bits; what has more goes through imagecodecs and tifffile, because Pillow drops the lower
bits of 16-bit colour without a word. A codec that few pictures need is imported when one comes.
"""

import logging
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, PngImagePlugin, UnidentifiedImageError
from torch import Tensor

from engine import jpegxl, metadata
from engine.formats import (
    FORMATS,
    KINDS_TAKEN,
    PIXELS_TAKEN,
    SUFFIXES,
    BrokenPicture,
    CannotWrite,
    Depth,
    Format,
    Holds,
    PictureTooLarge,
    UnsupportedPicture,
    kind_of,
    listed,
)
from engine.metadata import NOTHING_KNOWN, Metadata

if TYPE_CHECKING:
    from tifffile import TiffPage

STRIP = 256
# Measured on denoised photographs, with Pillow 13 (zlib-ng) on one Zen 3 core. Runs only, as here at level 1:
# 58-66 ms a megapixel, 0.90-1.69 bytes a pixel. The full search: 59-74 ms and 1.07-1.69 bytes at level 1, 105-138
# and 0.94-1.68 at level 4, 305-328 and 0.91-1.64 at level 6. It pays in drawings alone, which repeat themselves.
PNG_LEVEL = 1
MAX_PAGES = 100
# Float samples beyond it would overflow on their way through a network; counts of photons stay far below.
LARGEST_FLOAT = 1e9

# What fits in one of a JPEG's segments, its name left out.
JPEG_BLOCK = 65_000

# What white is.
_WHITE = {torch.uint8: 255, torch.uint16: 65535, torch.float32: 1}
_DEPTHS: dict[torch.dtype, Depth] = {torch.uint8: "8", torch.uint16: "16", torch.float32: "float"}
_DTYPES = {depth: dtype for dtype, depth in _DEPTHS.items()}
_DEPTH_WORDS = {"8": "8 bits a channel", "16": "16 bits a channel", "float": "floating point"}
# Pillow's modes.
_GREY, _GREY_16 = {"1", "L", "LA", "La"}, {"I;16", "I;16B", "I;16L"}
_PALETTE = {"P", "PA"}
_COLOUR = {*_PALETTE, "RGB", "RGBA", "RGBa", "RGBX", "YCbCr"}
_CONVERTED = {"CMYK": "CMYK", "LAB": "CIELAB"}
_OTHER_MODES = {"I": "grey", "F": "floating-point grey"}

# Pillow would warn at 90 megapixels and refuse at 179; the limit here is max_pixels.
Image.MAX_IMAGE_PIXELS = None
# glibc's malloc would keep blocks of Pillow's own 16 MiB for the thread that freed them, until the threads of a
# service together hold some 100 MB of nothing; blocks above 32 MiB it always gives back.
Image.core.set_block_size(64 * 2**20)  # type: ignore[attr-defined]  # Pillow's way, in its documentation
# Of a profile or a text, unpacked; Pillow's own limit is below what printers' profiles have.
PngImagePlugin.MAX_TEXT_CHUNK = metadata.MOST_BYTES
# It logs what it finds odd in a file, and then goes on or raises.
logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)
# How much red, green and blue count for in brightness. Source: ITU-R BT.601.
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Picture:
    """A picture as its file has it, and what of that file has to be in the one that goes back.

    samples: uint8, uint16 or float32, (H, W, 3), or (H, W, 1) for grey. Floats are 1 where white is, and may lie
    outside [0, 1]. alpha: of the same type, (H, W), not to be changed.
    """

    samples: Tensor
    alpha: Tensor | None = None
    metadata: Metadata = NOTHING_KNOWN

    @property
    def grey(self) -> bool:
        """Whether there is one channel."""
        return self.samples.shape[2] == 1

    @property
    def depth(self) -> Depth:
        """Bits a channel, or that they are floating point."""
        return _DEPTHS[self.samples.dtype]

    @property
    def pixels(self) -> Tensor:
        """float32 (H, W, 3) on [0, 1], made anew: 12 bytes a pixel, so not for what serves large pictures."""
        return to_pixels(self.samples)


@dataclass(frozen=True)
class File:
    """What is in a picture file: its pages, or the frames of an animation.

    durations: each frame's, in milliseconds; None for what is no animation. plays: how many times, 0 for ever.
    changed: what is not as in the file it was read from, in words.
    """

    kind: Format
    pages: tuple[Picture, ...]
    durations: tuple[int, ...] | None = None
    plays: int = 1
    changed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Written:
    """A file's bytes, and in words what of the picture they do not hold."""

    kind: Format
    data: bytes
    changed: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Frame:
    """A page that is not decoded yet. load: gives it, and in words what was changed."""

    size: tuple[int, int]
    load: Callable[[], tuple[Picture, tuple[str, ...]]]
    duration: Callable[[], int | None] = lambda: None
    plays: int = 1


def to_pixels(samples: Tensor) -> Tensor:
    """Samples (H, W, 1 or 3), as in a Picture -> float32 (H, W, 3) on [0, 1]; grey in equal channels."""
    return samples.float().div_(_WHITE[samples.dtype]).expand(-1, -1, 3).contiguous()


def to_samples(pixels: Tensor, dtype: torch.dtype, channels: int) -> Tensor:
    """float32 (H, W, 3) -> (H, W, 1 or 3) of that type; integers are clipped to [0, 1] and rounded."""
    colour = pixels.mean(2, keepdim=True) if channels == 1 else pixels
    return colour if dtype == torch.float32 else _to_integers(colour, dtype)


def _to_integers(values: Tensor, dtype: torch.dtype) -> Tensor:
    return values.clamp(0, 1).mul_(_WHITE[dtype]).round_().to(dtype)


def decode(data: bytes, max_pixels: int | None = None) -> Picture:
    """The picture in a file's bytes; of several, the first. Raises as `read` does."""
    return read(data, max_pixels, page=1).pages[0]


def read(data: bytes, max_pixels: int | None = None, max_pages: int = MAX_PAGES, page: int | None = None) -> File:
    """All pages of a file, each turned as its orientation says; or only that page, counted from 1.

    max_pixels: of all of them together. Raises NotAPicture, BrokenPicture, UnsupportedPicture, PictureTooLarge,
    or CannotWrite for a page that is not there; all are ValueErrors.
    """
    kind = kind_of(data)
    try:
        # Codecs warn of what is odd in a file; who sent it gets the picture, or an error.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _read(kind, data, max_pixels, max_pages, page)
    except (PictureTooLarge, UnsupportedPicture, BrokenPicture, CannotWrite, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise BrokenPicture(f"The {kind.title} file's header is broken, cut short or of a rare kind.") from error
    # What codecs raise for bytes that are not as they should be is nearly anything: OSError, SyntaxError,
    # ValueError, TypeError, struct.error have been seen.
    except Exception as error:
        raise BrokenPicture(f"The {kind.title} file is broken or cut short: {error}") from error


def _read(kind: Format, data: bytes, max_pixels: int | None, max_pages: int, page: int | None) -> File:
    pages: list[Picture] = []
    durations: list[int | None] = []
    changed: dict[str, None] = {}
    taken, plays, count = 0, 1, 0
    for count, frame in enumerate(_OPENERS.get(kind.name, _open_pillow)(kind, data), 1):
        if page and count < page:
            continue
        if count > max_pages:
            raise PictureTooLarge(f"The file has more than {max_pages} pages, which are taken; page= takes one.")
        taken += frame.size[0] * frame.size[1]
        _refuse_larger(frame.size, taken, len(pages) + 1, max_pixels)
        picture, words = frame.load()
        changed |= dict.fromkeys((*words, *(f"without {lost}" for lost in picture.metadata.lost)))
        pages.append(picture)
        durations.append(frame.duration())
        plays = frame.plays
        if page:
            break
    if not pages:
        raise CannotWrite(f"Page {page} was asked for; the {kind.title} file has {count}.")
    timed = tuple(each or 0 for each in durations) if len(pages) > 1 and None not in durations else None
    return File(kind, _alike(pages) if timed else tuple(pages), timed, plays, tuple(changed))


def _refuse_larger(size: tuple[int, int], taken: int, pages: int, max_pixels: int | None) -> None:
    width, height = size
    if not width or not height:
        raise BrokenPicture(f"The picture has {width} x {height} pixels.")
    if max_pixels is not None and taken > max_pixels:
        raise PictureTooLarge(
            f"The picture has {width} x {height} = {taken} pixels; at most {max_pixels} are taken."
            if pages == 1
            else f"The first {pages} pages have {taken} pixels; at most {max_pixels} are taken. page= takes one."
        )


def _alike(frames: Sequence[Picture]) -> tuple[Picture, ...]:
    """An animation's frames in one mode: a GIF's first may be a palette of greys, its second in colour."""
    colour = any(not frame.grey for frame in frames)
    alpha = any(frame.alpha is not None for frame in frames)
    return tuple(_in_mode(frame, colour, alpha) for frame in frames)


def _in_mode(picture: Picture, colour: bool, alpha: bool) -> Picture:
    samples, there = picture.samples, picture.alpha
    if colour and picture.grey:
        samples = samples.expand(-1, -1, 3).contiguous()
    if alpha and there is None:
        there = torch.full(samples.shape[:2], _WHITE[samples.dtype]).to(samples.dtype)
    return replace(picture, samples=samples, alpha=there)


# Pillow: all that has 8 bits


def _open_pillow(kind: Format, data: bytes) -> Iterator[_Frame]:
    with Image.open(BytesIO(data), formats=["PNG" if kind.name == "png" else kind.title.upper()]) as image:
        number = 1 if image.info.get("default_image") else 0
        while True:
            try:
                # Of JPEG files some hold a second, smaller picture.
                if number and not kind.reads.pages:
                    return
                image.seek(number)
            except EOFError:
                return
            yield _Frame(
                image.size,
                lambda: _from_pillow(kind, data, image),
                lambda: _duration(image),
                int(image.info.get("loop", 0 if kind.name == "avif" else 1)),
            )
            number += 1


def _duration(image: Image.Image) -> int | None:
    """Milliseconds, or None for a picture that does not move."""
    if not getattr(image, "is_animated", False):
        return None
    return round(float(image.info.get("duration", 0)))


def _from_pillow(kind: Format, data: bytes, image: ImageFile.ImageFile) -> tuple[Picture, tuple[str, ...]]:
    bits = _bits(kind, data, image)
    if bits > 8 and kind.name in ("png", "avif"):
        _refuse_moving(kind, image)
        return _deep(kind, data, bits, _known(kind, data, image)), ()
    _refuse_unsupported(image, bits)
    if image.mode in _CONVERTED:
        return _converted(image)
    known = _known(kind, data, image)
    # A frame is copied, for the next one is drawn over it.
    moving = getattr(image, "is_animated", False)
    return _picture(_upright(image, copy=moving), known.upright()), ()


def _known(kind: Format, data: bytes, image: Image.Image) -> Metadata:
    return metadata.from_png(data) if kind.name == "png" else metadata.from_info(image.info)


def _upright(image: Image.Image, copy: bool = False) -> Image.Image:
    """As its EXIF says. In place, or a picture that needs no turn would be copied."""
    if copy:
        return ImageOps.exif_transpose(image)
    ImageOps.exif_transpose(image, in_place=True)
    return image


def _refuse_unsupported(image: ImageFile.ImageFile, bits: int) -> None:
    if image.mode in _CONVERTED and bits <= 8:
        return
    fault = "colour" if image.mode in _COLOUR else _OTHER_MODES.get(image.mode, image.mode)
    if bits > 8 or image.mode not in _GREY | _COLOUR:
        raise UnsupportedPicture(f"The picture's pixels are {fault} of {bits} bits a channel; {PIXELS_TAKEN}.")


def _refuse_moving(kind: Format, image: Image.Image) -> None:
    if kind.name == "png" and getattr(image, "is_animated", False):
        raise UnsupportedPicture("The animation has 16 bits a channel; animated PNG is taken with 8.")


def _bits(kind: Format, data: bytes, image: ImageFile.ImageFile) -> int:
    """Bits a channel in the file, of which Pillow may drop the lower ones without a word."""
    if kind.name == "png":
        return data[24]
    if kind.name == "avif":
        return _avif_bits(data)
    return 32 if image.mode in _OTHER_MODES else 8


def _avif_bits(data: bytes) -> int:
    """From the AV1 configuration: a marker, the profile and level, then whether it is 10 bits, or even 12."""
    flags = max((data[at + 6] for at in _places(data, b"av1C")), default=0)
    return (12 if flags & 0x20 else 10) if flags & 0x40 else 8


def _places(data: bytes, mark: bytes) -> Iterator[int]:
    at = data.find(mark, 0, 2**16)
    while at >= 0 and at + 6 < len(data):
        yield at
        at = data.find(mark, at + 1, 2**16)


def _picture(image: Image.Image, known: Metadata) -> Picture:
    mode, channels = ("L", 1) if image.mode in _GREY else ("RGB", 3)
    alpha = None
    if image.has_transparency_data:
        both = _samples(image, f"{mode}A", channels + 1)
        colour, alpha = both[..., :-1].contiguous(), both[..., -1].contiguous()
    else:
        colour = _samples(image, mode, channels)
    # GIF, and small PNG files, hold a grey picture as a palette of greys. With a profile it is one for RGB.
    if image.mode in _PALETTE and not known.icc_profile and _all_grey(colour):
        colour = colour[..., :1].contiguous()
    return Picture(colour, alpha, known)


def _samples(
    image: Image.Image, mode: str, channels: int, convert: Callable[[Image.Image], Image.Image] | None = None
) -> Tensor:
    """uint8 (H, W, channels), converted a strip at a time: a large picture's copies would add up."""
    samples = torch.empty(image.height, image.width, channels, dtype=torch.uint8)
    rows = samples.numpy()
    for top in range(0, image.height, STRIP):
        bottom = min(top + STRIP, image.height)
        strip = image.crop((0, top, image.width, bottom))
        strip = convert(strip) if convert else strip.convert(mode)
        rows[top:bottom] = np.asarray(strip).reshape(bottom - top, image.width, channels)
    return samples


def _all_grey(colour: Tensor) -> bool:
    return all(bool((strip == strip[..., :1]).all()) for strip in torch.split(colour, STRIP))


def _converted(image: ImageFile.ImageFile) -> tuple[Picture, tuple[str, ...]]:
    """CMYK by its own profile, or CIELAB, as sRGB: the profile says which colours its inks are."""
    from PIL import ImageCms

    name = _CONVERTED[image.mode]
    profile: bytes = image.info.get("icc_profile") or b""
    if image.mode == "CMYK" and not profile:
        raise UnsupportedPicture(
            "The picture's pixels are CMYK of 8 bits a channel, without the profile that says which colours its "
            f"inks are; {PIXELS_TAKEN}."
        )
    inks = ImageCms.ImageCmsProfile(BytesIO(profile)) if image.mode == "CMYK" else ImageCms.createProfile("LAB")
    transform = ImageCms.buildTransform(
        inks,
        ImageCms.createProfile("sRGB"),
        image.mode,
        "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    samples = _samples(
        _upright(image), "RGB", 3, lambda strip: ImageCms.applyTransform(strip, transform) or strip
    )
    known = replace(metadata.from_info(image.info).upright(), icc_profile=None)
    return Picture(samples, None, known), (f"{name} to sRGB",)


# imagecodecs: more than 8 bits


def _deep(kind: Format, data: bytes, bits: int, known: Metadata) -> Picture:
    import imagecodecs

    if kind.name == "png":
        values = imagecodecs.png_decode(metadata.bare_png(data))
    else:
        values = imagecodecs.avif_decode(data)
    return _from_array(values, bits, known, known.orientation)


def _from_array(values: NDArray[Any], bits: int, known: Metadata, orientation: int = 1) -> Picture:
    """(H, W) or (H, W, channels), alpha last, of whole numbers of so many bits or floats."""
    values = values.reshape(*values.shape[:2], -1)
    if values.shape[2] not in (1, 2, 3, 4):
        raise UnsupportedPicture(f"The picture has {values.shape[2]} channels; {PIXELS_TAKEN}.")
    values = _widened(_turned(values, orientation), bits)
    has_alpha = values.shape[2] in (2, 4)
    colour = np.ascontiguousarray(values[..., :-1] if has_alpha else values)
    alpha = np.ascontiguousarray(values[..., -1]) if has_alpha else None
    _refuse_unreal(colour)
    picture = Picture(torch.from_numpy(colour), None if alpha is None else torch.from_numpy(alpha))
    return replace(picture, metadata=known.upright())


def _turned(values: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Upright, where a file's EXIF says that it is not."""
    if orientation >= 5:
        values = values.transpose(1, 0, 2)
        orientation = {5: 1, 6: 2, 7: 3, 8: 4}[orientation]
    across, down = {1: (1, 1), 2: (-1, 1), 3: (-1, -1), 4: (1, -1)}[orientation]
    return values[::down, ::across]


def _widened(values: NDArray[Any], bits: int) -> NDArray[Any]:
    """To 8 or 16 bits, or float32, a strip at a time."""
    if values.dtype.kind == "f":
        return values.astype(np.float32, copy=False)
    if bits in (8, 16):
        return values.astype(np.uint8 if bits == 8 else np.uint16, copy=False)
    white, dtype = (255, np.uint8) if bits < 8 else (65535, np.uint16)
    wide = np.empty(values.shape, dtype)
    for top in range(0, len(values), STRIP):
        strip = values[top : top + STRIP].astype(np.uint32)
        wide[top : top + STRIP] = (strip * white + 2 ** (bits - 1)) // (2**bits - 1)
    return wide


def _refuse_unreal(values: NDArray[Any]) -> None:
    if values.dtype.kind != "f":
        return
    for top in range(0, len(values), STRIP):
        strip = np.abs(values[top : top + STRIP])
        # Not a number is not below anything.
        if not (strip <= LARGEST_FLOAT).all():
            raise UnsupportedPicture(
                f"The picture has samples that are infinite, not a number or beyond {LARGEST_FLOAT:g}; taken are "
                "finite ones, of which 1 is white."
            )


# tifffile: TIFF of more than 8 bits

# Packing that imagecodecs undoes with a limit, by TIFF's numbers.
_UNPACKERS = {5: "lzw_decode", 8: "zlib_decode", 32946: "zlib_decode", 32773: "packbits_decode"}
_TIFF_KINDS = {5: "CMYK", 6: "YCbCr", 8: "CIELAB", 9: "CIELAB", 10: "CIELAB", 32803: "a camera's raw"}
_PREVIEW_OR_MASK = 1 | 4


def _open_tiff(kind: Format, data: bytes) -> Iterator[_Frame]:
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
                yield _Frame((page.imagewidth, page.imagelength), _tiff_loader(kind, data, page, number))
            number += 1
    if not number:
        raise BrokenPicture("The TIFF file's header is broken, cut short or of a rare kind.")


def _tiff_loader(
    kind: Format, data: bytes, page: "TiffPage", number: int
) -> Callable[[], tuple[Picture, tuple[str, ...]]]:
    def load() -> tuple[Picture, tuple[str, ...]]:
        known = metadata.from_tiff(data, page.offset)
        _refuse_strange(page)
        bits = page.bitspersample
        if bits <= 8 and not _is_plain(page):
            with Image.open(BytesIO(data), formats=["TIFF"]) as image:
                image.seek(number)
                # Two readers, and a tag that is there twice.
                if sorted(image.size) != sorted((page.imagewidth, page.imagelength)):
                    raise BrokenPicture("The TIFF file is broken: it has more than one size.")
                _refuse_unsupported(image, bits)
                if image.mode in _CONVERTED:
                    return _converted(image)
                return _picture(_upright(image), known.upright()), ()
        values = _tiff_values(data, page)
        words = ("float16 to float32",) if values.dtype == np.float16 else ()
        return _from_array(values, bits, known, known.orientation), words

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
        raise UnsupportedPicture(f"The picture's pixels are {fault}; {PIXELS_TAKEN}.")


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
            raise BrokenPicture("The TIFF file is broken or cut short: pixels lie beyond its end.")
        part, (_, _, top, left, _), _ = page.decode(unpack(data[offset : offset + count]), index)
        assert part is not None
        plane = index // (len(where) // samples) if planar else 0
        part = part[0, : page.imagelength - top, : page.imagewidth - left]
        high, wide = part.shape[:2]
        values[top : top + high, left : left + wide, plane : plane + part.shape[2]] = part
        done += part.size
    if done < values.size:
        raise BrokenPicture("The TIFF file is broken or cut short: pixels are missing.")
    # White at 0.
    return np.invert(values, out=values) if page.photometric == 0 else values


def _undo_packing(page: "TiffPage") -> Callable[[bytes], bytes]:
    """The segments' compression, undone here, for tifffile itself would unpack without an end."""
    import imagecodecs

    compression = int(page.compression)
    if compression not in (1, *_UNPACKERS):
        raise UnsupportedPicture(
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


# HEIC, JPEG XL, JPEG 2000


def _open_heic(kind: Format, data: bytes) -> Iterator[_Frame]:
    """The main picture, which libheif turns itself, and of ten bits as of sixteen."""
    import pillow_heif

    file = pillow_heif.open_heif(BytesIO(data), convert_hdr_to_8bit=False)
    image = file[file.primary_index]

    def load() -> tuple[Picture, tuple[str, ...]]:
        depth = int(cast(int, image.info["bit_depth"]))
        known = metadata.from_info(image.info)
        words = ("only the main one of several pictures",) if len(file) > 1 else ()
        values = np.asarray(image)
        if image.premultiplied_alpha:
            raise UnsupportedPicture(f"The picture is multiplied with its transparency; {PIXELS_TAKEN}.")
        # pillow-heif shifts them up to 16 bits, which leaves white short of white.
        if depth > 8:
            values = values >> (16 - depth)
        return _from_array(values, depth, known), words

    yield _Frame(image.size, load)


def _open_jp2(kind: Format, data: bytes) -> Iterator[_Frame]:
    import imagecodecs

    boxed = data.startswith(b"\0")
    # Where the picture begins: what lies before it may look like one.
    start = next((body for kind, body in metadata.boxes(data) if kind == b"jp2c"), b"") if boxed else data
    size, bits = _jp2_header(start, _jp2_space(data) if boxed else None)
    known = metadata.from_boxes(data) if boxed else NOTHING_KNOWN

    def load() -> tuple[Picture, tuple[str, ...]]:
        return _from_array(imagecodecs.jpeg2k_decode(data), bits, known), ()

    yield _Frame(size, load)


def _jp2_header(data: bytes, space: int | None) -> tuple[tuple[int, int], int]:
    """(width, height) and bits. Raises UnsupportedPicture."""
    right, below, left, top = struct.unpack_from(">4I", data, 8)
    (count,) = struct.unpack_from(">H", data, 40)
    parts = [struct.unpack_from("BBB", data, 42 + 3 * number) for number in range(min(count, 5))]
    bits = parts[0][0] + 1
    fault = None
    if len(set(parts)) > 1 or parts[0][1:] != (1, 1) or not 1 <= len(parts) <= 4:
        fault = "channels of different sizes or depths"
    elif bits > 16:
        fault = "signed numbers, or more than 16 bits a channel"
    elif space not in (16, 17, None):
        fault = f"a colour space, {space}, that is neither sRGB nor grey"
    if fault:
        raise UnsupportedPicture(f"The JPEG 2000 file has {fault}; {PIXELS_TAKEN}.")
    return (right - left, below - top), bits


def _jp2_space(data: bytes) -> int | None:
    """The number of the colour space, or None where a profile says it."""
    for kind, body in metadata.boxes(data):
        if kind == b"colr":
            return struct.unpack_from(">I", body, 3)[0] if body[:1] == b"\1" else None
    return 16


def _open_jxl(kind: Format, data: bytes) -> Iterator[_Frame]:
    import imagecodecs

    header = jpegxl.read_header(data)
    known = metadata.from_boxes(data) if data.startswith(b"\0") else NOTHING_KNOWN
    if header.fault:
        raise UnsupportedPicture(f"The JPEG XL file has {header.fault}; {PIXELS_TAKEN}.")

    def load() -> tuple[Picture, tuple[str, ...]]:
        values = imagecodecs.jpegxl_decode(data)
        # Turned by the decoder.
        return _from_array(values, 8 * values.dtype.itemsize, known), ()

    yield _Frame(header.size, load)


_OPENERS: dict[str, Callable[[Format, bytes], Iterator[_Frame]]] = {
    "tiff": _open_tiff,
    "heic": _open_heic,
    "jp2": _open_jp2,
    "jxl": _open_jxl,
}


# Writing


def encode(file: File, kind: Format, quality: int | None = None, png_level: int = PNG_LEVEL) -> Written:
    """The pages as a file of that kind, with all that surrounds the pixels and that the kind can hold.

    Depth that it cannot hold is rounded away, and `changed` says so. Transparency and pages that it cannot hold
    are refused: raises CannotWrite with the kinds that can. quality: 1 to 100, for those that are not lossless;
    WebP is unless there is one. png_level: deflate's, 0 (none) to 9 (smallest); 1 looks for runs only, which
    suits photographs.
    """
    pages, words = _fitted(file, kind)
    match kind.name:
        case "png":
            data = _png(pages, file, png_level)
        case "tiff":
            data = _tiff(pages)
        case _:
            data = _by_pillow(pages, file, kind, quality)
    return Written(kind, data, (*file.changed, *words))


def encode_png(picture: Picture, level: int = PNG_LEVEL) -> bytes:
    """One picture as PNG."""
    return encode(File(FORMATS["png"], (picture,)), FORMATS["png"], png_level=level).data


def _fitted(file: File, kind: Format) -> tuple[tuple[Picture, ...], list[str]]:
    """The pages as the kind can hold them, and what that changes."""
    holds = kind.writes
    if holds is None:
        raise CannotWrite(f"{kind.title} is read and not written.")
    _refuse_pages(file, kind, holds)
    first = file.pages[0]
    if any(page.alpha is not None for page in file.pages) and not holds.alpha:
        able = _able(lambda other: other.alpha)
        raise CannotWrite(f"The picture has transparency, which {kind.title} cannot hold; ask for {able}.")
    longest = max(max(page.samples.shape[:2]) for page in file.pages)
    if longest > kind.largest:
        raise CannotWrite(f"A side has {longest} pixels; {kind.title} holds at most {kind.largest}.")
    words = []
    if file.durations and holds.pages == "pages":
        words.append("without the frames' timing")
    if file.durations and kind.name == "avif" and file.plays:
        words.append("played for ever")
    if first.alpha is not None and kind.name == "avif":
        words.append("transparency compressed with the colours")
    if first.depth not in holds.depths:
        clipped = ", clipped to what white and black are" if first.depth == "float" else ""
        words.append(f"{_DEPTH_WORDS[first.depth]} to {_DEPTH_WORDS[holds.depths[-1]]}{clipped}")
    if first.grey and not holds.grey:
        words.append("grey to RGB")
    words += _left_out(first.metadata, kind)
    deepest = _DTYPES[holds.depths[-1]]
    fitting = (_in_mode(page, not holds.grey, False) for page in file.pages)
    return tuple(page if page.depth in holds.depths else _rounded(page, deepest) for page in fitting), words


def _refuse_pages(file: File, kind: Format, holds: Holds) -> None:
    if len(file.pages) == 1 or holds.pages == "pages" or (holds.pages and file.durations):
        return
    able = _able(lambda other: other.pages == "pages" or bool(file.durations and other.pages))
    what = "an animation's only" if holds.pages else "one"
    raise CannotWrite(
        f"The file has {len(file.pages)} pages, and {kind.title} holds {what}; ask for {able}, or page= for one."
    )


def _able(can: Callable[[Holds], bool]) -> str:
    return listed([kind.title for kind in FORMATS.values() if kind.writes and can(kind.writes)])


def _left_out(known: Metadata, kind: Format) -> list[str]:
    """What there is no room or no place for, in words."""
    if kind.name == "jpeg":
        blocks = {"EXIF": known.exif, "XMP": known.xmp}
        large = [name for name, block in blocks.items() if len(block or b"") > JPEG_BLOCK]
        return [f"without {name}, too large for JPEG" for name in large]
    return []


def _rounded(picture: Picture, dtype: torch.dtype) -> Picture:
    """In less depth, a strip at a time."""

    def less(values: Tensor) -> Tensor:
        strips = torch.split(values, STRIP)
        return torch.cat([_to_integers(strip.float() / _WHITE[strip.dtype], dtype) for strip in strips])

    alpha = None if picture.alpha is None else less(picture.alpha)
    return replace(picture, samples=less(picture.samples), alpha=alpha)


def _array(picture: Picture) -> NDArray[Any]:
    """(H, W) or (H, W, channels), alpha last."""
    samples = picture.samples
    if picture.alpha is not None:
        samples = torch.cat((samples, picture.alpha.unsqueeze(2)), 2)
    array: NDArray[Any] = samples.squeeze(2).numpy()
    return array


def _png(pages: Sequence[Picture], file: File, level: int) -> bytes:
    first = metadata.into_png(_one_png(pages[0], level), pages[0].metadata)
    if len(pages) == 1:
        return first
    rest = (_one_png(page, level) for page in pages[1:])
    return metadata.animated_png([first, *rest], file.durations or (), file.plays)


def _one_png(picture: Picture, level: int) -> bytes:
    array = _array(picture)
    if array.dtype == np.uint16 and array.ndim == 3:
        import imagecodecs

        way = imagecodecs.PNG.STRATEGY.RLE if level == 1 else imagecodecs.PNG.STRATEGY.FILTERED
        return bytes(imagecodecs.png_encode(array, level=level, strategy=way))
    packed = BytesIO()
    strategy = zlib.Z_RLE if level == 1 else zlib.Z_FILTERED
    Image.fromarray(array).save(packed, "PNG", compress_level=level, compress_type=strategy)
    return packed.getvalue()


def _by_pillow(pages: Sequence[Picture], file: File, kind: Format, quality: int | None) -> bytes:
    known = pages[0].metadata
    if kind.name == "jpeg":
        known = metadata.within(known, JPEG_BLOCK)
    options = metadata.into_options(known, dots=kind.name == "jpeg")
    # Of colours as many as of brightness: cleaned pictures have fine ones.
    options |= {"quality": quality or kind.quality, "subsampling": 0 if kind.name == "jpeg" else "4:4:4"}
    if kind.name == "webp":
        # Exact: what lies under full transparency, too.
        options |= {"lossless": quality is None, "exact": True, "quality": quality or 50}
    images = [Image.fromarray(_array(page)) for page in pages]
    if file.durations and len(images) > 1:
        options |= {"save_all": True, "append_images": images[1:], "loop": file.plays}
        options["duration"] = list(file.durations)
    packed = BytesIO()
    images[0].save(packed, kind.title.upper(), **options)
    return packed.getvalue()


def _tiff(pages: Sequence[Picture]) -> bytes:
    import tifffile

    known = pages[0].metadata
    packed = BytesIO()
    with tifffile.TiffWriter(packed, byteorder=metadata.byte_order(known)) as writer:
        for page in pages:
            writer.write(
                _array(page),
                photometric="minisblack" if page.grey else "rgb",
                extrasamples=None if page.alpha is None else ["unassalpha"],
                planarconfig=None if page.grey and page.alpha is None else "contig",
                compression="zlib",
                compressionargs={"level": 6},
                predictor=True,
                rowsperstrip=max(1, 2**20 // max(1, page.samples[0].nbytes)),
                iccprofile=page.metadata.icc_profile,
                resolution=page.metadata.resolution,
                resolutionunit="INCH" if page.metadata.resolution else None,
                extratags=metadata.tiff_tags(page.metadata),
                metadata=None,
                software=False,
                maxworkers=1,
            )
    return metadata.into_tiff(packed.getvalue(), known)


# Files


def read_rgb(path: Path) -> Tensor:
    """The picture in a file, as uint8 (H, W, 3). Raises ValueError naming the file, or OSError."""
    try:
        picture = decode(path.read_bytes())
    except ValueError as error:
        raise type(error)(f"{path}: {error}") from error
    return to_samples(picture.pixels, torch.uint8, 3)


def is_picture_name(name: str) -> bool:
    """Whether a file's name has a picture's suffix, and is neither hidden nor another program's passing file."""
    # Names with a leading dot are other systems' notes beside pictures, too: "._photo.jpg".
    return not name.startswith((".", "~")) and Path(name).suffix.lower() in SUFFIXES


def picture_files(folder: Path) -> list[Path]:
    """The folder's picture files, told by suffix, in order of name. Raises ValueError if there are none."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    files = sorted(file for file in folder.iterdir() if is_picture_name(file.name))
    if not files:
        raise ValueError(f"{folder}: no pictures in this folder; {KINDS_TAKEN}")
    return files
