"""The one table of image formats: what each can hold, read and written. Knows no codec, and no torch.

Refusals, the OpenAPI description, the command line's choices and the README's table are made from it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

# Bits of a sample, or floating point of 32 bits.
Depth = Literal["8", "16", "float"]
SAME = "same"


class NotAImage(ValueError):
    """Bytes that do not begin as any image does."""


class BrokenImage(ValueError):
    """A kind of image that is taken, but cut short or corrupt."""


class UnsupportedImage(ValueError):
    """A kind of file, or of pixels, that is not taken; says which, and what is."""


class ImageTooLarge(ValueError):
    """More pixels or pages than allowed: known from the header, before any of them is decoded."""


class CannotWrite(ValueError):
    """What a format cannot hold, or a page that is not there; says what can be had instead."""


@dataclass(frozen=True)
class Holds:
    """What can be read from a format, or written to it. pages: an animation's frames, or a document's pages."""

    depths: tuple[Depth, ...]
    grey: bool = True
    alpha: bool = False
    pages: Literal["", "frames", "pages"] = ""
    metadata: tuple[str, ...] = ()


@dataclass(frozen=True)
class Format:
    """A kind of file.

    writes: None for what is only read. quality: when none is asked for; None for what loses nothing then.
    largest: the longest side that can be written.
    """

    name: str
    title: str
    media_type: str
    suffixes: tuple[str, ...]
    signature: bytes
    reads: Holds
    writes: Holds | None = None
    quality: int | None = None
    largest: int = 2**31 - 1


_ALL = ("ICC", "EXIF", "XMP", "resolution")
_TYPES = rb"....ftyp"
_TABLE = (
    Format(
        "jpeg", "JPEG", "image/jpeg", (".jpg", ".jpeg"), rb"\xff\xd8\xff",
        Holds(("8",), metadata=_ALL),
        Holds(("8",), metadata=_ALL),
        quality=95, largest=65_500,
    ),
    Format(
        "png", "PNG", "image/png", (".png", ".apng"), rb"\x89PNG\r\n\x1a\n",
        Holds(("8", "16"), alpha=True, pages="frames", metadata=_ALL),
        Holds(("8", "16"), alpha=True, pages="frames", metadata=_ALL),
    ),
    Format(
        "webp", "WebP", "image/webp", (".webp",), rb"RIFF....WEBP",
        Holds(("8",), grey=False, alpha=True, pages="frames", metadata=_ALL),
        Holds(("8",), grey=False, alpha=True, pages="frames", metadata=_ALL),
        largest=16_383,
    ),
    Format(
        "tiff", "TIFF", "image/tiff", (".tif", ".tiff"), rb"II[*+]\0|MM\0[*+]",
        Holds(("8", "16", "float"), alpha=True, pages="pages", metadata=_ALL),
        Holds(("8", "16", "float"), alpha=True, pages="pages", metadata=_ALL),
    ),
    Format(
        "avif", "AVIF", "image/avif", (".avif",), _TYPES + rb"avi[fs]",
        Holds(("8", "16"), grey=False, alpha=True, pages="frames", metadata=_ALL),
        Holds(("8",), grey=False, alpha=True, pages="frames", metadata=_ALL),
        quality=85, largest=65_536,
    ),
    Format(
        "heic", "HEIC", "image/heic", (".heic", ".heif"), _TYPES + rb"(hei[cxms]|hev[cx]|mif1|msf1)",
        Holds(("8", "16"), alpha=True, metadata=_ALL),
    ),
    Format(
        "jxl", "JPEG XL", "image/jxl", (".jxl",), rb"\xff\x0a|\0\0\0\x0cJXL ",
        Holds(("8", "16", "float"), alpha=True, metadata=("EXIF", "XMP")),
    ),
    Format(
        "jp2", "JPEG 2000", "image/jp2", (".jp2", ".j2k"), rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51",
        Holds(("8", "16"), alpha=True, metadata=("ICC", "XMP")),
    ),
    Format(
        "bmp", "BMP", "image/bmp", (".bmp",), rb"BM",
        Holds(("8",), alpha=True, metadata=("resolution",)),
    ),
    Format(
        "gif", "GIF", "image/gif", (".gif",), rb"GIF8[79]a",
        Holds(("8",), alpha=True, pages="frames", metadata=("XMP",)),
    ),
)  # fmt: skip

FORMATS = {kind.name: kind for kind in _TABLE}
WRITTEN = tuple(kind.name for kind in _TABLE if kind.writes)
SUFFIXES = frozenset(suffix for kind in _TABLE for suffix in kind.suffixes)


def listed(names: list[str]) -> str:
    """One, two and three."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


KINDS_TAKEN = f"taken are {listed([kind.title for kind in _TABLE])}"
KINDS_WRITTEN = f"written are {listed(list(WRITTEN))}"
PIXELS_TAKEN = "taken are RGB and grey of up to 16 bits a channel, palettes, and floating point of 32"
# What people send instead.
_OTHERS = {
    "Photoshop": rb"8BPS",
    "PDF": rb"%PDF-",
    "SVG or other XML": rb"\s*<(svg|\?xml)",
    "film or other ISO media": _TYPES,
}


def kind_of(data: bytes, size: int | None = None) -> Format:
    """The format that the bytes begin as. size: of the file, where these are only its beginning.

    Raises NotAImage or UnsupportedImage, with what is taken.
    """
    if not data:
        raise NotAImage(f"There is no image: 0 bytes came; {KINDS_TAKEN}.")
    for kind in _TABLE:
        if re.match(kind.signature, data, re.DOTALL):
            return kind
    for other, signature in _OTHERS.items():
        if re.match(signature, data, re.DOTALL):
            raise UnsupportedImage(f"This is a file of the kind {other}; {KINDS_TAKEN}.")
    raise NotAImage(f"This is no image: {size or len(data)} bytes that begin with {data[:12]!r}; {KINDS_TAKEN}.")


def chosen(name: str, came: Format) -> Format:
    """The format to write. name: one of WRITTEN, or `same`, which is the one that came. Raises CannotWrite."""
    kind = came if name == SAME else FORMATS.get(name)
    if kind is None:
        raise CannotWrite(f"There is no format {name!r}; {KINDS_WRITTEN}, and {SAME} for what came.")
    if kind.writes is None:
        raise CannotWrite(f"{kind.title} is read and not written; {KINDS_WRITTEN}.")
    return kind


def suffix_of(kind: Format) -> str:
    """With which a file of that format is named."""
    return kind.suffixes[0]


def rows() -> Iterator[str]:
    """The README's table."""
    yield "| | read | written | metadata kept |"
    yield "| --- | --- | --- | --- |"
    for kind in _TABLE:
        written = f"{_told(kind.writes)}, {'lossy' if kind.quality else 'lossless'}" if kind.writes else "no"
        yield f"| {kind.title} | {_told(kind.reads)} | {written} | {', '.join(kind.reads.metadata)} |"


def _told(holds: Holds) -> str:
    parts = [f"{'/'.join(holds.depths)}{' bits' if holds.depths[-1] != 'float' else ''}"]
    parts += [word for word, there in (("RGB only", not holds.grey), ("alpha", holds.alpha)) if there]
    parts += [holds.pages] if holds.pages else []
    return ", ".join(parts)


if __name__ == "__main__":
    print(*rows(), sep="\n")
