"""The pages in a file's bytes, whatever its format. Nothing is decoded before its size is known."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from PIL import Image as PILImage
from PIL import UnidentifiedImageError
from torch import Tensor

from engine.defaults import MAX_PAGES
from engine.imageio.codecs.others import open_heic, open_jp2, open_jxl
from engine.imageio.codecs.pillow import open_pillow
from engine.imageio.codecs.tiff import open_tiff
from engine.imageio.formats import (
    KINDS_TAKEN,
    SUFFIXES,
    BrokenImage,
    CannotWrite,
    Format,
    ImageTooLarge,
    UnsupportedImage,
    kind_of,
)
from engine.imageio.image import File, Frame, Image, Outline, in_mode, to_samples

_OPENERS: dict[str, Callable[[Format, bytes], Iterator[Frame]]] = {
    "tiff": open_tiff,
    "heic": open_heic,
    "jp2": open_jp2,
    "jxl": open_jxl,
}


def decode(data: bytes, max_pixels: int | None = None) -> Image:
    """The image in a file's bytes; of several, the first. Raises as `read` does."""
    return read(data, max_pixels, page=1).pages[0]


def read(data: bytes, max_pixels: int | None = None, max_pages: int = MAX_PAGES, page: int | None = None) -> File:
    """All pages of a file, each turned as its orientation says; or only that page, counted from 1.

    max_pixels: of all of them together. Raises NotAImage, BrokenImage, UnsupportedImage, ImageTooLarge,
    or CannotWrite for a page that is not there; all are ValueErrors.
    """
    kind = kind_of(data)
    with _as_broken(kind):
        return _read(kind, data, max_pixels, max_pages, page)


def outline(
    data: bytes, max_pixels: int | None = None, max_pages: int = MAX_PAGES, page: int | None = None
) -> Outline:
    """What `read` would make of a file, by its headers alone: no pixel is decoded. Raises what `read` raises."""
    kind = kind_of(data)
    with _as_broken(kind):
        return _outline(kind, data, max_pixels, max_pages, page)


@contextmanager
def _as_broken(kind: Format) -> Iterator[None]:
    """Whatever a codec makes of a broken file is a BrokenImage."""
    try:
        # Codecs warn of what is odd in a file; who sent it gets the image, or an error.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (ImageTooLarge, UnsupportedImage, BrokenImage, CannotWrite, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise BrokenImage(f"The {kind.title} file's header is broken, cut short or of a rare kind.") from error
    # What codecs raise for bytes that are not as they should be is nearly anything: OSError, SyntaxError,
    # ValueError, TypeError, struct.error have been seen.
    except Exception as error:
        raise BrokenImage(f"The {kind.title} file is broken or cut short: {error}") from error


def _frames(kind: Format, data: bytes) -> Iterator[Frame]:
    return _OPENERS.get(kind.name, open_pillow)(kind, data)


def _outline(kind: Format, data: bytes, max_pixels: int | None, max_pages: int, page: int | None) -> Outline:
    pages = pixels = bits = 0
    for count, frame in enumerate(_frames(kind, data), 1):
        alike = frame.alike()
        if page and count < page and alike == 1:
            continue
        number = 1 if page else alike
        pages += number
        if not page:
            _refuse_more(pages, max_pages)
        pixels += number * frame.size[0] * frame.size[1]
        bits = max(bits, frame.bits)
        _refuse_larger(frame.size, pixels, pages, max_pixels)
        if page or alike > 1:
            break
    return Outline(kind, pixels, "8" if bits <= 8 else "16" if bits <= 16 else "float")


def _read(kind: Format, data: bytes, max_pixels: int | None, max_pages: int, page: int | None) -> File:
    pages: list[Image] = []
    durations: list[int | None] = []
    changed: dict[str, None] = {}
    taken, plays, count = 0, 1, 0
    for count, frame in enumerate(_frames(kind, data), 1):
        if page and count < page:
            continue
        _refuse_more(count, max_pages)
        taken += frame.size[0] * frame.size[1]
        _refuse_larger(frame.size, taken, len(pages) + 1, max_pixels)
        image, words = frame.load()
        changed |= dict.fromkeys((*words, *(f"without {lost}" for lost in image.metadata.lost)))
        pages.append(image)
        durations.append(frame.duration())
        plays = frame.plays
        if page:
            break
    if not pages:
        raise CannotWrite(f"Page {page} was asked for; the {kind.title} file has {count}.")
    timed = tuple(each or 0 for each in durations) if len(pages) > 1 and None not in durations else None
    return File(kind, _alike(pages) if timed else tuple(pages), timed, plays, tuple(changed))


def _refuse_more(pages: int, max_pages: int) -> None:
    if pages > max_pages:
        raise ImageTooLarge(f"The file has more than {max_pages} pages, which are taken; page= takes one.")


def _refuse_larger(size: tuple[int, int], taken: int, pages: int, max_pixels: int | None) -> None:
    width, height = size
    if not width or not height:
        raise BrokenImage(f"The image has {width} x {height} pixels.")
    if max_pixels is not None and taken > max_pixels:
        raise ImageTooLarge(
            f"The image has {width} x {height} = {taken} pixels; at most {max_pixels} are taken."
            if pages == 1
            else f"The first {pages} pages have {taken} pixels; at most {max_pixels} are taken. page= takes one."
        )


def _alike(frames: Sequence[Image]) -> tuple[Image, ...]:
    """An animation's frames in one mode: a GIF's first may be a palette of greys, its second in colour."""
    colour = any(not frame.grey for frame in frames)
    alpha = any(frame.alpha is not None for frame in frames)
    return tuple(in_mode(frame, colour, alpha) for frame in frames)


def read_rgb(path: Path) -> Tensor:
    """The image in a file, as uint8 (H, W, 3). Raises ValueError naming the file, or OSError."""
    try:
        image = decode(path.read_bytes())
    except ValueError as error:
        raise type(error)(f"{path}: {error}") from error
    return to_samples(image.pixels, torch.uint8, 3)


def load_codecs() -> None:
    """Import what is otherwise imported when an image needs it: for a process from which others are forked."""
    import imagecodecs  # noqa: F401
    import pillow_heif  # noqa: F401
    import tifffile  # noqa: F401
    from PIL import ImageCms  # noqa: F401

    PILImage.init()


def is_image_name(name: str) -> bool:
    """Whether a file's name has an image's suffix, and is neither hidden nor another program's passing file."""
    # Names with a leading dot are other systems' notes beside images, too: "._photo.jpg".
    return not name.startswith((".", "~")) and Path(name).suffix.lower() in SUFFIXES


def image_files(folder: Path) -> list[Path]:
    """The folder's image files, told by suffix, in order of name. Raises ValueError if there are none."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    files = sorted(file for file in folder.iterdir() if is_image_name(file.name))
    if not files:
        raise ValueError(f"{folder}: no images in this folder; {KINDS_TAKEN}")
    return files
