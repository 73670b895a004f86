"""Image reader for files of every supported format. Nothing is decoded before its size is known and allowed."""

import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PILImage
from PIL import UnidentifiedImageError
from torch import Tensor

from engine.defaults import COLOUR, MAX_PAGES, Colour
from engine.imageio.codecs.czi import open_czi
from engine.imageio.codecs.exr import open_exr
from engine.imageio.codecs.fits import open_fits
from engine.imageio.codecs.heif import open_heic
from engine.imageio.codecs.jpeg2000 import open_jp2
from engine.imageio.codecs.jpegxl import open_jxl
from engine.imageio.codecs.mrc import open_mrc
from engine.imageio.codecs.nd2 import open_nd2
from engine.imageio.codecs.netpbm import open_netpbm
from engine.imageio.codecs.pillow import open_pillow
from engine.imageio.codecs.qoi import open_qoi
from engine.imageio.codecs.raw import RawFile, RawMosaic, open_raw
from engine.imageio.codecs.tiff import open_tiff
from engine.imageio.colour import drop_unusable_profile
from engine.imageio.formats import (
    SUFFIXES,
    SUPPORTED_FORMATS,
    BrokenImage,
    Format,
    ImageTooLarge,
    NotCameraRaw,
    PageNotFound,
    TooManyPages,
    TooManyPixels,
    UnsupportedImage,
    detect_format,
)
from engine.imageio.image import Image, ImageInfo, ImageSequence, LazyFrame, convert_mode, to_samples
from engine.system.file_names import earlier_results

# Pages beyond those that are read, up to which they are counted.
MAX_COUNTED = 10_000

_OPENERS: dict[str, Callable[[Format, bytes], Iterator[LazyFrame]]] = {
    "tiff": open_tiff,
    "czi": open_czi,
    "exr": open_exr,
    "fits": open_fits,
    "heic": open_heic,
    "jp2": open_jp2,
    "jxl": open_jxl,
    "mrc": open_mrc,
    "nd2": open_nd2,
    "netpbm": open_netpbm,
    "qoi": open_qoi,
}


def decode(data: bytes, max_pixels: int | None = None) -> Image:
    """The image in a file's bytes, or the first of several. Raises the errors of `read`."""
    return read(data, max_pixels, page=1).pages[0]


def read(
    data: bytes,
    max_pixels: int | None = None,
    max_pages: int = MAX_PAGES,
    page: int | None = None,
    colour: Colour = COLOUR,
) -> ImageSequence:
    """All pages of an image file, turned upright; or one page, counted from 1.

    max_pixels: of the pages read, together. colour: what a camera raw file is developed to. Raises NotAnImage,
    BrokenImage, UnsupportedImage, ImageTooLarge, PageNotFound or NotCameraRaw; all are ValueErrors.
    """
    kind = detect_format(data)
    _refuse_colour(kind, colour)
    with _codec_errors(kind):
        return _read(kind, _frames(kind, data, colour), max_pixels, max_pages, page)


def read_info(
    data: bytes,
    max_pixels: int | None = None,
    max_pages: int = MAX_PAGES,
    page: int | None = None,
    colour: Colour = COLOUR,
    count_pages: bool = False,
) -> ImageInfo:
    """The size and depth of what `read` would return, from headers alone. Raises the errors of `read`.

    count_pages: also count the pages that are not read, which takes time in long files.
    """
    kind = detect_format(data)
    _refuse_colour(kind, colour)
    with _codec_errors(kind):
        return _read_info(kind, _frames(kind, data, colour), max_pixels, max_pages, page, count_pages)


def read_mosaic(data: bytes, max_pixels: int | None = None) -> RawMosaic | None:
    """What the sensor measured, of a camera raw file with a Bayer mosaic; None for other camera raw files.

    Raises NotCameraRaw, and the errors of `read`.
    """
    kind = detect_format(data)
    _refuse_other_kinds(kind)
    with _codec_errors(kind), RawFile(data) as file:
        _refuse_more_pixels(file.size, file.size[0] * file.size[1], 1, max_pixels)
        return file.mosaic()


def develop(
    data: bytes, mosaic: NDArray[np.uint16], max_pixels: int | None = None, colour: Colour = COLOUR
) -> ImageSequence:
    """What `read` returns for a camera raw file, with these values in place of its mosaic's.

    mosaic: as RawMosaic.values. Raises NotCameraRaw, and the errors of `read`.
    """
    kind = detect_format(data)
    _refuse_other_kinds(kind)
    with _codec_errors(kind):
        return _read(kind, open_raw(data, colour, mosaic), max_pixels, 1, None)


def count_pages(data: bytes) -> int:
    """How many pages `read_pages` yields, from headers alone. Raises the errors of `read`."""
    kind = detect_format(data)
    with _codec_errors(kind):
        return sum(1 for _ in _frames(kind, data, COLOUR))


def page_places(data: bytes) -> list[str | None]:
    """The place of each page that `read_pages` yields, as LazyFrame has it. Raises the errors of `read`."""
    kind = detect_format(data)
    with _codec_errors(kind):
        return [frame.place for frame in _frames(kind, data, COLOUR)]


def read_pages(data: bytes, chosen: Collection[int] | None = None) -> Iterator[tuple[Image, tuple[str, ...]]]:
    """The pages of a file one after another, each with its differences from the file, in words.

    In contrast to `read`, one page is in memory at a time, and there is no limit of pages. chosen: only these
    pages, counted from 0. Raises the errors of `read`.
    """
    kind = detect_format(data)
    frames = enumerate(_frames(kind, data, COLOUR))
    while True:
        with _codec_errors(kind):
            number, frame = next(frames, (0, None))
            if frame is None:
                return
            if chosen is not None and number not in chosen:
                continue
            _refuse_more_pixels(frame.size, 1, 1, None)
            image, words = frame.load()
        image = drop_unusable_profile(image)
        yield image, (*words, *(f"without {lost}" for lost in image.metadata.lost))


@contextmanager
def _codec_errors(kind: Format) -> Iterator[None]:
    """Turns the errors of codecs into BrokenImage, and a codec that is not installed into UnsupportedImage."""
    try:
        # Codecs warn about what is odd in a file. The caller gets the image or an error.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (ImageTooLarge, UnsupportedImage, BrokenImage, PageNotFound, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise BrokenImage(
            f"The {kind.title} file's header is broken, cut short or of an unsupported kind."
        ) from error
    except ModuleNotFoundError as error:
        raise UnsupportedImage(
            f"Reading this {kind.title} file needs the Python package {error.name}, which is not installed. "
            "Install it, or convert the file to PNG or JPEG with 8 bits a channel."
        ) from error
    # Codecs raise nearly anything for broken bytes: OSError, SyntaxError, ValueError, TypeError and struct.error
    # have been seen.
    except Exception as error:
        raise BrokenImage(f"The {kind.title} file is broken or cut short: {error}") from error


def _refuse_colour(kind: Format, colour: Colour) -> None:
    if colour != COLOUR and kind.name != "raw":
        raise NotCameraRaw(
            f"The colour space {colour} can be chosen for camera raw files only, and this is a {kind.title} "
            "file. Leave the colour space out."
        )


def _refuse_other_kinds(kind: Format) -> None:
    if kind.name != "raw":
        raise NotCameraRaw(f"Only a camera raw file has a mosaic, and this is a {kind.title} file.")


def _frames(kind: Format, data: bytes, colour: Colour) -> Iterator[LazyFrame]:
    if kind.name == "raw":
        return open_raw(data, colour)
    return _OPENERS.get(kind.name, open_pillow)(kind, data)


def _read_info(
    kind: Format,
    frames: Iterator[LazyFrame],
    max_pixels: int | None,
    max_pages: int,
    page: int | None,
    count_pages: bool,
) -> ImageInfo:
    pages = pixels = bits = last = 0
    remaining = 1
    for count, frame in enumerate(frames, 1):
        remaining = frame.remaining()
        last = count + remaining - 1
        if page and count < page and remaining == 1:
            continue
        number = 1 if page else remaining
        pages += number
        if not page:
            _refuse_more_pages(pages, max_pages)
        pixels += number * frame.size[0] * frame.size[1]
        bits = max(bits, frame.bits)
        _refuse_more_pixels(frame.size, pixels, pages, max_pixels)
        if page or remaining > 1:
            break
    if count_pages and remaining == 1:
        last += _count(frames)
    return ImageInfo(kind, pixels, "8" if bits <= 8 else "16" if bits <= 16 else "float", last)


def _count(frames: Iterator[LazyFrame]) -> int:
    """How many more pages there are: up to the first with a broken header, and MAX_COUNTED at most."""
    count = 0
    with suppress(Exception):
        for _ in islice(frames, MAX_COUNTED):
            count += 1
    return count


def _read(
    kind: Format, frames: Iterator[LazyFrame], max_pixels: int | None, max_pages: int, page: int | None
) -> ImageSequence:
    pages: list[Image] = []
    durations: list[int | None] = []
    changed: dict[str, None] = {}
    pixels, plays, count = 0, 1, 0
    for count, frame in enumerate(frames, 1):
        if page and count < page:
            continue
        if not page:
            _refuse_more_pages(count, max_pages)
        pixels += frame.size[0] * frame.size[1]
        _refuse_more_pixels(frame.size, pixels, len(pages) + 1, max_pixels)
        image, words = frame.load()
        image = drop_unusable_profile(image)
        kept = image.missing.words() if image.missing else ()
        changed |= dict.fromkeys((*words, *kept, *(f"without {lost}" for lost in image.metadata.lost)))
        pages.append(image)
        durations.append(frame.duration())
        plays = frame.plays
        if page:
            break
    if not pages:
        existing = f"{count} page" if count == 1 else f"{count} pages"
        raise PageNotFound(f"There is no page {page}: the {kind.title} file has {existing}.")
    timed = tuple(each or 0 for each in durations) if len(pages) > 1 and None not in durations else None
    return ImageSequence(kind, _in_one_mode(pages) if timed else tuple(pages), timed, plays, tuple(changed))


def _refuse_more_pages(pages: int, max_pages: int) -> None:
    if pages > max_pages:
        raise TooManyPages(f"The file has more than {max_pages} pages, the limit. Select one page.")


def _refuse_more_pixels(size: tuple[int, int], pixels: int, pages: int, max_pixels: int | None) -> None:
    width, height = size
    if not width or not height:
        raise BrokenImage(f"The {width} x {height} image has no pixels.")
    if max_pixels is not None and pixels > max_pixels:
        raise TooManyPixels(
            f"The image has {width} x {height} = {pixels} pixels; the limit is {max_pixels}."
            if pages == 1
            else f"The first {pages} pages have {pixels} pixels; the limit is {max_pixels}. Select one page."
        )


def _in_one_mode(frames: Sequence[Image]) -> tuple[Image, ...]:
    """An animation's frames in one mode: the first of a GIF may be a palette of greys, the second in colour."""
    colour = any(not frame.grey for frame in frames)
    alpha = any(frame.alpha is not None for frame in frames)
    return tuple(convert_mode(frame, colour, alpha) for frame in frames)


def read_rgb(path: Path) -> Tensor:
    """The image in a file, as uint8 (H, W, 3). Raises ValueError naming the file, or OSError."""
    try:
        image = decode(path.read_bytes())
    except ValueError as error:
        raise type(error)(f"{path}: {error}") from error
    return to_samples(image.pixels, torch.uint8, 3)


def load_codecs() -> None:
    """Import every codec now, for a process that others are forked from; but not rawpy, see codecs/raw.py."""
    import imagecodecs  # noqa: F401
    import pillow_heif  # noqa: F401
    import tifffile  # noqa: F401
    from PIL import ImageCms  # noqa: F401

    # Optional packages.
    for name in ("astropy.io.fits", "czifile", "mrcfile", "nd2"):
        with suppress(ModuleNotFoundError):
            import_module(name)

    PILImage.init()


def is_image_name(name: str) -> bool:
    """Whether a file's name has an image's suffix, and is neither hidden nor temporary."""
    # Some systems keep notes beside images, with a leading dot: "._photo.jpg".
    return not name.startswith((".", "~")) and Path(name).suffix.lower() in SUFFIXES


def image_files(folder: Path) -> list[Path]:
    """The folder's image files, by suffix, sorted by name. Raises ValueError if there are none.

    Other things with such a name, such as pipes, are left out: to open one could take for ever. Results that
    `denoise run` wrote beside their sources are left out too.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    files = [file for file in folder.iterdir() if is_image_name(file.name) and file.is_file()]
    files = sorted(set(files) - earlier_results(files))
    if not files:
        raise ValueError(f"{folder}: no images in this folder. {SUPPORTED_FORMATS}.")
    return files
