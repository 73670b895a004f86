"""Image writer for every writable format: encodes images, with the metadata that the format can hold."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from engine.defaults import PNG_LEVEL
from engine.imageio.codecs.jpeg import Subsampling
from engine.imageio.codecs.pillow import JPEG_BLOCK, save_pillow
from engine.imageio.codecs.png import write_png
from engine.imageio.codecs.tiff import TiffPageWriter, write_tiff
from engine.imageio.colour import fit_colour
from engine.imageio.formats import FORMATS, CannotWrite, Capabilities, Format, join_words
from engine.imageio.image import (
    DEPTHS,
    STRIP,
    WHITE,
    EncodedImage,
    Image,
    ImageSequence,
    convert_mode,
    to_integers,
    with_missing,
)
from engine.imageio.metadata import Metadata
from engine.imageio.metadata.description import (
    Described,
    fit_description,
    without_description,
    without_units,
)
from engine.imageio.samples import to_16_bits

_DTYPES = {depth: dtype for dtype, depth in DEPTHS.items()}
_DEPTH_WORDS = {"8": "8 bits a channel", "16": "16 bits a channel", "float": "floating point"}


def encode(
    file: ImageSequence,
    kind: Format,
    quality: int | None = None,
    png_level: int = PNG_LEVEL,
    subsampling: Subsampling = "4:4:4",
) -> EncodedImage:
    """The pages as a file of that format.

    A depth that the format cannot hold is reduced, and `changed` says so. Raises CannotWrite for transparency and
    pages that it cannot hold, naming the formats that can.

    quality: 1 to 100; None for the format's default. WebP is lossless by default.
    png_level: of deflate, 0 (none) to 9 (smallest). subsampling: of the chroma of a JPEG file.
    """
    fitted, changes = _fit(file, kind)
    try:
        data = _encode(fitted, kind, quality, png_level, subsampling)
    except ModuleNotFoundError as error:
        raise CannotWrite(
            f"Writing {kind.title} needs the Python package {error.name}, which is not installed. "
            "Install it, or choose another format."
        ) from error
    return EncodedImage(kind, data, (*file.changed, *changes))


def _encode(
    file: ImageSequence, kind: Format, quality: int | None, png_level: int, subsampling: Subsampling
) -> bytes:
    match kind.name:
        case "png":
            return write_png(file, png_level)
        case "tiff":
            return write_tiff(file.pages)
        case _:
            return save_pillow(file, kind, quality, subsampling)


def encode_png(image: Image, level: int = PNG_LEVEL) -> bytes:
    """One image as PNG."""
    return encode(ImageSequence(FORMATS["png"], (image,)), FORMATS["png"], png_level=level).data


def _fit(file: ImageSequence, kind: Format) -> tuple[ImageSequence, list[str]]:
    """The file as the format can hold it, and the changes, in words."""
    supports = refuse_unfit(file, kind)
    fitted, depth_words, words = [], list[str](), dict[str, None]()
    for page in file.pages:
        reduced, depth_changes = _fit_depth(page, supports)
        depth_words = depth_words or depth_changes
        coloured, colour_changes = fit_colour(reduced, kind)
        fitted.append(convert_mode(coloured, colour=not supports.grey, alpha=False))
        words |= dict.fromkeys(colour_changes)
    described, lost = _describe(fitted)
    changes = _changes(file, kind, supports, depth_words)
    return replace(file, pages=described), [*changes, *words, *lost]


def refuse_unfit(file: ImageSequence, kind: Format) -> Capabilities:
    """What the format can hold. Raises CannotWrite if the file has pages, transparency or a size that it cannot.

    Call it before work that would be in vain.
    """
    supports = kind.writes
    if supports is None:
        raise CannotWrite(f"{kind.title} can be read but not written.")
    _refuse_pages(file, kind, supports)
    _refuse_alpha(file, kind, supports)
    longest = max(max(page.samples.shape[:2]) for page in file.pages)
    if longest > kind.largest:
        raise CannotWrite(f"A side of the image has {longest} pixels; {kind.title} holds at most {kind.largest}.")
    return supports


def _changes(file: ImageSequence, kind: Format, supports: Capabilities, depth_words: list[str]) -> list[str]:
    """The parts of the file that the format cannot hold, in words."""
    first = file.pages[0]
    changes = []
    if file.durations and supports.pages == "pages":
        changes.append("without the frames' timing")
    if file.durations and kind.name == "avif" and file.plays:
        changes.append("repeats endlessly")
    if first.alpha is not None and kind.name == "avif":
        changes.append("transparency compressed with the colours")
    changes += depth_words
    if first.grey and not supports.grey:
        changes.append("grey to RGB")
    return changes + _dropped_metadata(first.metadata, kind)


def _refuse_pages(file: ImageSequence, kind: Format, supports: Capabilities) -> None:
    if len(file.pages) == 1 or supports.pages == "pages" or (supports.pages and file.durations):
        return
    able = _formats_that(lambda other: other.pages == "pages" or bool(file.durations and other.pages))
    what = "holds several only as an animation" if supports.pages else "holds only one"
    raise CannotWrite(
        f"The file has {len(file.pages)} pages, and {kind.title} {what}. Select one page, or choose {able}."
    )


def _refuse_alpha(file: ImageSequence, kind: Format, supports: Capabilities) -> None:
    if supports.alpha or all(page.alpha is None for page in file.pages):
        return
    able = _formats_that(lambda other: other.alpha)
    raise CannotWrite(f"The image has transparency, which {kind.title} cannot hold. Choose {able}.")


def _formats_that(can: Callable[[Capabilities], bool]) -> str:
    """The formats that can, as in "PNG, WebP or TIFF"."""
    return join_words([kind.title for kind in FORMATS.values() if kind.writes and can(kind.writes)], "or")


def _dropped_metadata(metadata: Metadata, kind: Format) -> list[str]:
    """The metadata that the format cannot hold, in words."""
    if kind.name == "jpeg":
        blocks = {"EXIF": metadata.exif, "XMP": metadata.xmp}
        large = [name for name, block in blocks.items() if len(block or b"") > JPEG_BLOCK]
        return [f"without {name}, too large for JPEG" for name in large]
    return []


def _fit_depth(image: Image, supports: Capabilities) -> tuple[Image, list[str]]:
    """The image in a depth that the format can hold, and the changes, in words."""
    if image.depth in supports.depths:
        return image, []
    image = with_missing(image)
    words = []
    if image.stored and np.dtype(image.stored).kind in "iu":
        samples, change = to_16_bits(image.samples, image.stored)
        alpha = image.alpha
        if alpha is not None:
            alpha = to_integers(alpha / np.iinfo(image.stored).max, torch.uint16)
        image, words = replace(image, samples=samples, alpha=alpha), [change]
    if image.depth not in supports.depths:
        clipped = ", clipped to black and white" if image.depth == "float" else ""
        words.append(f"{_DEPTH_WORDS[image.depth]} to {_DEPTH_WORDS[supports.depths[-1]]}{clipped}")
        if bool(image.samples.isnan().any()):
            words.append("samples that are not numbers to black")
        image = _reduce_depth(image, _DTYPES[supports.depths[-1]])
    metadata = replace(image.metadata, exif=without_units(image.metadata.exif))
    return replace(image, metadata=metadata, stored=""), words


def _describe(pages: Sequence[Image]) -> tuple[tuple[Image, ...], tuple[str, ...]]:
    """The pages with descriptions that are true of them; and what had to be left out, in words."""
    first, words = _describe_first(pages[0], len(pages))
    return (first, *map(_describe_other, pages[1:])), words


def _describe_first(page: Image, count: int) -> tuple[Image, tuple[str, ...]]:
    """The first of `count` pages, whose description is one of all of them."""
    height, width, channels = page.samples.shape
    dtype = page.stored or str(page.samples.dtype).removeprefix("torch.")
    now = Described(count, width, height, channels + (page.alpha is not None), dtype)
    exif, words = fit_description(page.metadata.exif, now)
    return replace(page, metadata=replace(page.metadata, exif=exif)), words


def _describe_other(page: Image) -> Image:
    return replace(page, metadata=replace(page.metadata, exif=without_description(page.metadata.exif)))


class StackWriter:
    """Writes a TIFF stack of `count` pages into a file, page by page. Call `close` after the last page.

    file: can be read too. big: BigTIFF, for files of more than 4 GB.
    changed: what the file cannot hold, in words.
    """

    def __init__(self, file: BinaryIO, count: int, big: bool = False) -> None:
        self.count, self.written = count, 0
        self.changed: dict[str, None] = {}
        self._writer = TiffPageWriter(file, big)

    def write(self, page: Image) -> None:
        """Add a page."""
        page, words = fit_colour(page, FORMATS["tiff"])
        if not self.written:
            page, lost = _describe_first(page, self.count)
            words = (*words, *lost)
        else:
            page = _describe_other(page)
        self._writer.write(page)
        self.written += 1
        self.changed |= dict.fromkeys((*words, *self._writer.changed))

    def close(self) -> None:
        """Complete the file."""
        self._writer.close()


def _reduce_depth(image: Image, dtype: torch.dtype) -> Image:
    def reduced(values: Tensor) -> Tensor:
        # A strip at a time: floats of a whole image would need much memory.
        strips = torch.split(values, STRIP)
        pixels = (strip.float().div_(WHITE[strip.dtype]).nan_to_num_(0.0) for strip in strips)
        return torch.cat([to_integers(each, dtype) for each in pixels])

    alpha = None if image.alpha is None else reduced(image.alpha)
    return replace(image, samples=reduced(image.samples), alpha=alpha)
