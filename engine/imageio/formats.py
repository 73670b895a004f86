"""Image formats: the one table of what each can hold, read and written. Imports no codec and no torch.

Errors, the OpenAPI description, the command line's choices and the README's table are made from it.
`python -m engine.imageio.formats` prints the README's table.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from engine.imageio.metadata.camera_raw import is_camera_raw
from engine.imageio.other_kinds import file_brands, is_other_heif, other_kind

# How many of a file's first bytes an error shows.
SHOWN = 12
# Bits per sample, or floating point of 32 bits.
Depth = Literal["8", "16", "float"]
# The name of the output format that stands for the input's format.
SAME = "same"
# How similar a known name must be to be suggested, from 0 to 1: `fmt` and `format` are 0.67.
_SIMILAR = 0.6
# Characters of a name that are compared.
_COMPARED = 100


class NotAnImage(ValueError):
    """Bytes that do not begin like any image format."""


class BrokenImage(ValueError):
    """A file in a supported format that is cut short or corrupt."""


class UnsupportedImage(ValueError):
    """A format or kind of pixels that is not supported."""


class ImageTooLarge(ValueError):
    """An image beyond a limit. Raised from the header, before any pixel is decoded."""


class TooManyPixels(ImageTooLarge):
    """More pixels than the limit."""


class TooManyPages(ImageTooLarge):
    """More pages, or frames of an animation, than the limit."""


class PageNotFound(ValueError):
    """A page number beyond the last page."""


class NotCameraRaw(ValueError):
    """An option for camera raw files, given for a file of another kind."""


class CannotWrite(ValueError):
    """An image that the output format cannot hold, or a format that is only read."""


@dataclass(frozen=True)
class Capabilities:
    """The images that a format can hold, read or written. pages: frames of an animation, or pages of any kind."""

    depths: tuple[Depth, ...]
    grey: bool = True
    alpha: bool = False
    pages: Literal["", "frames", "pages"] = ""
    metadata: tuple[str, ...] = ()


@dataclass(frozen=True)
class Format:
    """A file format.

    signature: regular expression for a file's first bytes. AVIF and HEIC have none: their brands tell.
    writes: None if the format is only read.
    quality: the default; None if the default is lossless.
    largest: the longest side that can be written, in pixels.
    kept_as: the format in which `denoise run` writes its images, if it is only read and they have one page.
    """

    name: str
    title: str
    media_type: str
    suffixes: tuple[str, ...]
    signature: bytes
    reads: Capabilities
    writes: Capabilities | None = None
    quality: int | None = None
    largest: int = 2**31 - 1
    kept_as: Literal["png", "tiff"] = "png"


_ALL_METADATA = ("ICC", "EXIF", "XMP", "resolution")
# Brands of files with images in AV1, in HEVC, and in any coding. The major brand need not tell which.
_AVIF_BRANDS = (b"avif", b"avis")
_HEVC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")
_HEIF_BRANDS = (b"mif1", b"mif2", b"mif3", b"msf1", b"miaf")
# Matches nothing: AVIF and HEIC are told apart by their brands.
_BY_BRAND = rb"(?!)"
# Beginnings of camera raw files: Canon CR2, CRW and CR3, Fujifilm, Olympus, Panasonic and Leica, Minolta, Sigma,
# Phase One. Others begin like TIFF, and `is_camera_raw` recognises them.
_RAW_SIGNATURE = (
    rb"II\*\0....CR\x02|II\x1a\0\0\0HEAPCCDR|....ftypcrx |FUJIFILMCCD-RAW|IIR[OS]|MMOR|IIU\0|\0MRM|FOVb|"
    rb"IIIITwaR|MMMMRawT"
)
_TABLE = (
    Format(
        "jpeg", "JPEG", "image/jpeg", (".jpg", ".jpeg", ".jpe", ".jfif"), rb"\xff\xd8\xff",
        Capabilities(("8",), metadata=_ALL_METADATA),
        Capabilities(("8",), metadata=_ALL_METADATA),
        quality=95, largest=65_500,
    ),
    Format(
        "png", "PNG", "image/png", (".png", ".apng"), rb"\x89PNG\r\n\x1a\n",
        Capabilities(("8", "16"), alpha=True, pages="frames", metadata=_ALL_METADATA),
        Capabilities(("8", "16"), alpha=True, pages="frames", metadata=_ALL_METADATA),
    ),
    Format(
        "webp", "WebP", "image/webp", (".webp",), rb"RIFF....WEBP",
        Capabilities(("8",), grey=False, alpha=True, pages="frames", metadata=_ALL_METADATA),
        Capabilities(("8",), grey=False, alpha=True, pages="frames", metadata=_ALL_METADATA),
        largest=16_383,
    ),
    Format(
        "tiff", "TIFF", "image/tiff", (".tif", ".tiff"), rb"II[*+]\0|MM\0[*+]",
        Capabilities(("8", "16", "float"), alpha=True, pages="pages", metadata=_ALL_METADATA),
        Capabilities(("8", "16", "float"), alpha=True, pages="pages", metadata=_ALL_METADATA),
    ),
    Format(
        "avif", "AVIF", "image/avif", (".avif",), _BY_BRAND,
        Capabilities(("8", "16"), grey=False, alpha=True, pages="frames", metadata=_ALL_METADATA),
        Capabilities(("8",), grey=False, alpha=True, pages="frames", metadata=_ALL_METADATA),
        quality=85, largest=65_536,
    ),
    Format(
        "heic", "HEIC", "image/heic", (".heic", ".heif", ".hif"), _BY_BRAND,
        Capabilities(("8", "16"), alpha=True, metadata=_ALL_METADATA),
    ),
    Format(
        "jxl", "JPEG XL", "image/jxl", (".jxl",), rb"\xff\x0a|\0\0\0\x0cJXL ",
        Capabilities(("8", "16", "float"), alpha=True, metadata=("EXIF", "XMP")),
    ),
    Format(
        "jp2", "JPEG 2000", "image/jp2", (".jp2", ".j2k", ".j2c"), rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51",
        Capabilities(("8", "16"), alpha=True, metadata=("ICC", "XMP")),
    ),
    Format(
        "bmp", "BMP", "image/bmp", (".bmp", ".dib"), rb"BM",
        Capabilities(("8",), alpha=True, metadata=("ICC", "resolution")),
    ),
    Format(
        "gif", "GIF", "image/gif", (".gif",), rb"GIF8[79]a",
        Capabilities(("8",), alpha=True, pages="frames", metadata=("ICC", "XMP")),
    ),
    Format(
        "netpbm", "Netpbm", "image/x-portable-anymap", (".ppm", ".pgm", ".pbm", ".pnm", ".pam", ".pfm"),
        rb"P([1-6]|F4?|f)[\s#]|P7\n",
        Capabilities(("8", "16", "float"), alpha=True, pages="pages"),
    ),
    Format(
        "qoi", "QOI", "image/qoi", (".qoi",), rb"qoif",
        Capabilities(("8",), grey=False, alpha=True),
    ),
    Format(
        "exr", "OpenEXR", "image/x-exr", (".exr",), rb"\x76\x2f\x31\x01",
        Capabilities(("float",)),
        kept_as="tiff",
    ),
    Format(
        "raw", "camera raw", "image/x-dcraw",
        (
            ".dng", ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".erf", ".fff", ".iiq", ".kdc", ".mef",
            ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".rwl", ".sr2", ".srf", ".srw",
            ".x3f",
        ),
        _RAW_SIGNATURE,
        Capabilities(("16",), metadata=("EXIF",)),
    ),
    Format(
        "fits", "FITS", "image/fits", (".fits", ".fit", ".fts", ".fz"), rb"SIMPLE  =",
        Capabilities(("8", "16", "float"), pages="pages"),
        kept_as="tiff",
    ),
    Format(
        "mrc", "MRC", "image/x-mrc", (".mrc", ".mrcs", ".rec"), rb".{208}MAP ",
        Capabilities(("16", "float"), pages="pages"),
        kept_as="tiff",
    ),
    Format(
        "czi", "CZI", "image/x-zeiss-czi", (".czi",), rb"ZISRAWFILE",
        Capabilities(("8", "16", "float"), pages="pages", metadata=("resolution",)),
        kept_as="tiff",
    ),
    Format(
        "nd2", "ND2", "image/x-nikon-nd2", (".nd2",), rb"\xda\xce\xbe\x0a",
        Capabilities(("8", "16", "float"), pages="pages", metadata=("resolution",)),
        kept_as="tiff",
    ),
)  # fmt: skip

FORMATS = {kind.name: kind for kind in _TABLE}
WRITABLE_FORMATS = tuple(kind.name for kind in _TABLE if kind.writes)
SUFFIXES = frozenset(suffix for kind in _TABLE for suffix in kind.suffixes)


def join_words(words: list[str], conjunction: str = "and") -> str:
    """The words as in "one, two and three"."""
    return f" {conjunction} ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def did_you_mean(name: str, known: Collection[str]) -> str:
    """A question that names the known name nearest to an unknown one, after a space; nothing if none is near."""
    lower = name[:_COMPARED].lower()
    near = get_close_matches(lower, known, 1, _SIMILAR) or [
        each for each in known if lower and each.startswith(lower)
    ]
    return f" Did you mean {near[0]!r}?" if near else ""


def format_name(text: str) -> str:
    """The name of the format that a text means: any case, or a suffix such as jpg or tif. Other text stays."""
    name = text.strip().lower()
    if name in FORMATS or name == SAME:
        return name
    return next((kind.name for kind in _TABLE if f".{name.removeprefix('.')}" in kind.suffixes), text)


SUPPORTED_FORMATS = f"Supported formats: {join_words([kind.title for kind in _TABLE])}"
SUPPORTED_OUTPUTS = f"Output formats: {join_words(list(WRITABLE_FORMATS))}"
SUPPORTED_PIXELS = (
    "Supported pixels: RGB and grey of up to 16 bits a channel, palettes, floating point of 32 bits, and in "
    "TIFF, FITS and MRC signed integers, integers of 32 bits and floating point of 64 bits"
)


def detect_format(data: bytes, size: int | None = None) -> Format:
    """The format that the bytes begin as. Raises NotAnImage or UnsupportedImage.

    size: of the file, if the bytes are only its beginning. A camera raw file that begins like TIFF may need all
        its bytes to be recognised; without them it is taken for TIFF.
    """
    if not data:
        raise NotAnImage(f"The file is empty: 0 bytes. {SUPPORTED_FORMATS}.")
    raw = FORMATS["raw"]
    if re.match(raw.signature, data, re.DOTALL):
        return raw
    if kind := _by_brand(data):
        return kind
    for kind in _TABLE:
        if re.match(kind.signature, data, re.DOTALL):
            return raw if kind.name == "tiff" and is_camera_raw(data) else kind
    if name := other_kind(data):
        raise UnsupportedImage(f"This is {name}. {SUPPORTED_FORMATS}.")
    raise NotAnImage(
        f"This is not an image: {size or len(data)} bytes that begin with {_shown(data[:SHOWN])}. "
        f"{SUPPORTED_FORMATS}."
    )


def _shown(data: bytes) -> str:
    """Bytes for people: text in quotes, other bytes in hexadecimal."""
    text = b" ".join(data.split()).decode("latin-1")
    return f'"{text}"' if text and text.isascii() and text.isprintable() else data.hex(" ")


def _by_brand(data: bytes) -> Format | None:
    """AVIF or HEIC, by the first of the file's brands that tells them apart."""
    brands = file_brands(data)
    coded = next((brand for brand in brands if brand in (*_AVIF_BRANDS, *_HEVC_BRANDS)), None)
    if coded is None and any(brand in _HEIF_BRANDS for brand in brands) and not is_other_heif(brands):
        return FORMATS["heic"]
    return FORMATS["avif" if coded in _AVIF_BRANDS else "heic"] if coded else None


def output_format(name: str, source: Format) -> Format:
    """The format of that name; `same` is the source's own. Raises CannotWrite."""
    kind = source if name == SAME else FORMATS.get(name)
    if kind is None:
        raise CannotWrite(
            f"There is no format {name!r}.{did_you_mean(format_name(name), (*WRITABLE_FORMATS, SAME))} "
            f"{SUPPORTED_OUTPUTS}, or {SAME} to keep the input's format."
        )
    if kind.writes is None:
        raise CannotWrite(f"{_capital(kind.title)} can be read but not written. {SUPPORTED_OUTPUTS}.")
    return kind


def suffix_of(kind: Format) -> str:
    """The suffix that files of that format get."""
    return kind.suffixes[0]


def table_rows() -> Iterator[str]:
    """The README's table of formats, line by line."""
    yield "| | read | written | metadata kept |"
    yield "| --- | --- | --- | --- |"
    for kind in _TABLE:
        written = f"{_describe(kind.writes)}, {'lossy' if kind.quality else 'lossless'}" if kind.writes else "no"
        metadata = ", ".join(kind.reads.metadata)
        yield f"| {_capital(kind.title)} | {_describe(kind.reads)} | {written} | {metadata} |"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _describe(supports: Capabilities) -> str:
    parts = [f"{'/'.join(supports.depths)}{' bits' if supports.depths[-1] != 'float' else ''}"]
    parts += [word for word, applies in (("RGB only", not supports.grey), ("alpha", supports.alpha)) if applies]
    parts += [supports.pages] if supports.pages else []
    return ", ".join(parts)


if __name__ == "__main__":
    print(*table_rows(), sep="\n")
