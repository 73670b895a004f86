"""Images as a file of a format that is written, with all that surrounds the pixels and that it can hold."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from io import BytesIO
from typing import Any

import torch
from numpy.typing import NDArray
from PIL import Image as PILImage
from torch import Tensor

from engine.imageio.codecs.png import animated_png, encoded
from engine.imageio.formats import FORMATS, CannotWrite, Format, Holds, listed
from engine.imageio.image import (
    DEPTHS,
    STRIP,
    WHITE,
    File,
    Image,
    Written,
    in_mode,
    to_integers,
)
from engine.imageio.metadata import Metadata
from engine.imageio.metadata.pillow import save_options
from engine.imageio.metadata.png import add_png_metadata
from engine.imageio.metadata.tiff import add_tiff_exif, tiff_byte_order, tifffile_tags

# Fast, and good for photographs: see png.py.
PNG_LEVEL = 1

# What fits in one of a JPEG's segments, its name left out.
JPEG_BLOCK = 65_000

_DTYPES = {depth: dtype for dtype, depth in DEPTHS.items()}
_DEPTH_WORDS = {"8": "8 bits a channel", "16": "16 bits a channel", "float": "floating point"}


def encode(file: File, kind: Format, quality: int | None = None, png_level: int = PNG_LEVEL) -> Written:
    """The pages as a file of that kind, with all that surrounds the pixels and that the kind can hold.

    Depth that it cannot hold is rounded away, and `changed` says so. Transparency and pages that it cannot hold
    are refused: raises CannotWrite with the kinds that can. quality: 1 to 100, for those that are not lossless;
    WebP is unless there is one. png_level: deflate's, 0 (none) to 9 (smallest).
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


def encode_png(image: Image, level: int = PNG_LEVEL) -> bytes:
    """One image as PNG."""
    return encode(File(FORMATS["png"], (image,)), FORMATS["png"], png_level=level).data


def _fitted(file: File, kind: Format) -> tuple[tuple[Image, ...], list[str]]:
    """The pages as the kind can hold them, and what that changes."""
    holds = kind.writes
    if holds is None:
        raise CannotWrite(f"{kind.title} is read and not written.")
    _refuse_pages(file, kind, holds)
    first = file.pages[0]
    if any(page.alpha is not None for page in file.pages) and not holds.alpha:
        able = _able(lambda other: other.alpha)
        raise CannotWrite(f"The image has transparency, which {kind.title} cannot hold; ask for {able}.")
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
    fitting = (in_mode(page, not holds.grey, False) for page in file.pages)
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


def _rounded(image: Image, dtype: torch.dtype) -> Image:
    """In less depth, a strip at a time."""

    def less(values: Tensor) -> Tensor:
        strips = torch.split(values, STRIP)
        return torch.cat([to_integers(strip.float() / WHITE[strip.dtype], dtype) for strip in strips])

    alpha = None if image.alpha is None else less(image.alpha)
    return replace(image, samples=less(image.samples), alpha=alpha)


def _array(image: Image) -> NDArray[Any]:
    """(H, W) or (H, W, channels), alpha last."""
    samples = image.samples
    if image.alpha is not None:
        samples = torch.cat((samples, image.alpha.unsqueeze(2)), 2)
    array: NDArray[Any] = samples.squeeze(2).numpy()
    return array


def _png(pages: Sequence[Image], file: File, level: int) -> bytes:
    first = add_png_metadata(encoded(_array(pages[0]), level), pages[0].metadata)
    if len(pages) == 1:
        return first
    rest = (encoded(_array(page), level) for page in pages[1:])
    return animated_png([first, *rest], file.durations or (), file.plays)


def _by_pillow(pages: Sequence[Image], file: File, kind: Format, quality: int | None) -> bytes:
    known = pages[0].metadata
    if kind.name == "jpeg":
        known = known.without_blocks_over(JPEG_BLOCK)
    options = save_options(known, has_dpi=kind.name == "jpeg")
    # Of colours as many as of brightness: cleaned images have fine ones.
    options |= {"quality": quality or kind.quality, "subsampling": 0 if kind.name == "jpeg" else "4:4:4"}
    if kind.name == "webp":
        # Exact: what lies under full transparency, too.
        options |= {"lossless": quality is None, "exact": True, "quality": quality or 50}
    images = [PILImage.fromarray(_array(page)) for page in pages]
    if file.durations and len(images) > 1:
        options |= {"save_all": True, "append_images": images[1:], "loop": file.plays}
        options["duration"] = list(file.durations)
    packed = BytesIO()
    images[0].save(packed, kind.title.upper(), **options)
    return packed.getvalue()


def _tiff(pages: Sequence[Image]) -> bytes:
    import tifffile

    known = pages[0].metadata
    packed = BytesIO()
    with tifffile.TiffWriter(packed, byteorder=tiff_byte_order(known)) as writer:
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
                extratags=tifffile_tags(page.metadata),
                metadata=None,
                software=False,
                maxworkers=1,
            )
    return add_tiff_exif(packed.getvalue(), known)
