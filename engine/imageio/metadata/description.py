"""Descriptions of samples in a block of tags, kept true: how many images there are, their size, type and range.

Microscopes and maps describe their samples in TIFF's tags: ImageJ and tifffile in lines or JSON in the image
description, OME in XML, GDAL in tags of its own. What comes back can have another number of images than the file,
another size or another type.
Sources: ImageJ, `TiffEncoder.java`; "OME-TIFF specification 6.0"; GDAL, "GTiff -- GeoTIFF File Format".
"""

import json
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from xml.etree import ElementTree

from engine.imageio.metadata.ifd import (
    BYTE,
    LONG,
    SUB_IFDS,
    Entry,
    byte_order,
    first_ifd_offset,
    pack_header,
    pack_ifd,
    read_ifd,
    read_sub_ifds,
)
from engine.imageio.metadata.limits import BrokenMetadata

# Tags.
DESCRIPTION = 0x010E
IMAGEJ_COUNTS = 50838
IMAGEJ_METADATA = 50839
GDAL_METADATA = 42112
GDAL_NODATA = 42113
_ASCII = 2

# Names of types in OME that are not numpy's.
_OME_FLOATS = {"float32": "float", "float64": "double"}
# Keys of an ImageJ description that say how many images there are, and those that hold in the file's units.
_IMAGEJ_COUNTS = (b"images", b"channels", b"slices", b"frames", b"hyperstack", b"loop")
# The range that is shown, and the function from samples to values with its coefficients and unit.
_IMAGEJ_VALUES = (b"min", b"max", b"cf", b"c0", b"c1", b"c2", b"c3", b"c4", b"vunit")
# Parts of ImageJ's own block.
_LABELS = b"labl"
_RANGES = b"rang"
_OME_BITS = re.compile(rb"\s+SignificantBits=(?:\"[^\"]*\"|'[^']*')")
_GDAL_STATISTICS = re.compile(rb"\s*<Item\s[^>]*name=\"STATISTICS_[^>]*>[^<]*</Item>")
_GDAL_SCALE = re.compile(rb"\s*<Item\s[^>]*role=\"(?:scale|offset)\"[^>]*>[^<]*</Item>")
# Longer descriptions are not parsed.
_MAX_DESCRIPTION = 2**22


@dataclass(frozen=True)
class Described:
    """The images that a file holds. dtype: numpy's name."""

    pages: int
    width: int
    height: int
    channels: int
    dtype: str


def counted_images(text: bytes, samples: int) -> int:
    """How many images of this many samples an ImageJ or tifffile description counts; 1 if it does not say."""
    if text.startswith(b"ImageJ="):
        return _imagej_images(text)
    shape = _shape_of(text)
    return max(math.prod(shape) // samples, 1) if shape else 1


def _imagej_images(text: bytes) -> int:
    found = re.search(rb"^images=(\d{1,9})\s*$", text.rstrip(b"\0"), re.MULTILINE)
    return int(found[1]) if found else 1


def fit_description(exif: bytes | None, now: Described) -> tuple[bytes | None, tuple[str, ...]]:
    """The block with descriptions that are true of these images; and what had to be left out, in words."""
    try:
        return _fitted(exif, now) if exif else (exif, ())
    except (BrokenMetadata, struct.error):
        return exif, ()


def without_units(exif: bytes | None, keep_nodata: bool = False) -> bytes | None:
    """The block of samples that were scaled or subtracted, without values in the units that they had.

    keep_nodata: missing samples still have the value that they had.
    """
    try:
        if not exif:
            return exif
        ifd = read_ifd(exif, first_ifd_offset(exif))
        edits = _edits_without_units(ifd, byte_order(exif))
        if keep_nodata:
            edits.pop(GDAL_NODATA, None)
        return _edited(exif, edits) if edits else exif
    except (BrokenMetadata, struct.error):
        return exif


def without_nodata(exif: bytes | None) -> bytes | None:
    """The block without GDAL's value for "no data"."""
    try:
        return exif and _edited(exif, {GDAL_NODATA: None})
    except (BrokenMetadata, struct.error):
        return exif


def _edits_without_units(ifd: Mapping[int, Entry], order: str) -> dict[int, Entry | None]:
    edits: dict[int, Entry | None] = {GDAL_NODATA: None} if GDAL_NODATA in ifd else {}
    if GDAL_METADATA in ifd:
        edits[GDAL_METADATA] = _text_entry(GDAL_METADATA, _GDAL_SCALE.sub(b"", ifd[GDAL_METADATA].value))
    text = ifd[DESCRIPTION].value if DESCRIPTION in ifd else b""
    if text.startswith(b"ImageJ="):
        lines = [line for line in text.split(b"\n") if line.split(b"=")[0] not in _IMAGEJ_VALUES]
        edits[DESCRIPTION] = _text_entry(DESCRIPTION, b"\n".join(lines))
        if IMAGEJ_METADATA in ifd:
            edits |= _without_parts(order, ifd, _RANGES)
    elif _is_ome(text):
        edits[DESCRIPTION] = _text_entry(DESCRIPTION, _OME_BITS.sub(b"", text))
    return edits


def without_description(exif: bytes | None) -> bytes | None:
    """The block without the description of a stack, for all pages but the first."""
    try:
        if not exif or not is_stack_description(_description(exif)):
            return exif
        return _edited(exif, dict.fromkeys((DESCRIPTION, IMAGEJ_COUNTS, IMAGEJ_METADATA)))
    except (BrokenMetadata, struct.error):
        return exif


def is_stack_description(text: bytes) -> bool:
    """Whether the text describes all images of a file, so it stands in the first one only."""
    return text.startswith(b"ImageJ=") or _is_ome(text) or _shape_of(text) is not None


def _description(exif: bytes) -> bytes:
    entry = read_ifd(exif, first_ifd_offset(exif)).get(DESCRIPTION)
    return entry.value if entry else b""


def _fitted(exif: bytes, now: Described) -> tuple[bytes | None, tuple[str, ...]]:
    ifd, order = read_ifd(exif, first_ifd_offset(exif)), byte_order(exif)
    edits: dict[int, Entry | None] = {}
    words: tuple[str, ...] = ()
    text = ifd[DESCRIPTION].value if DESCRIPTION in ifd else b""
    if len(text) <= _MAX_DESCRIPTION and (fitted := _fit_text(text, now)) != text:
        edits[DESCRIPTION] = _text_entry(DESCRIPTION, fitted) if fitted else None
        words = () if fitted else ("without the OME description, which is of other images",)
    if text.startswith(b"ImageJ=") and _imagej_images(text) != now.pages and IMAGEJ_METADATA in ifd:
        edits |= _without_parts(order, ifd, _LABELS)
    if GDAL_METADATA in ifd and (value := ifd[GDAL_METADATA].value) != (kept := _GDAL_STATISTICS.sub(b"", value)):
        edits[GDAL_METADATA] = _text_entry(GDAL_METADATA, kept)
    return (_edited(exif, edits) if edits else exif), words


def _fit_text(text: bytes, now: Described) -> bytes:
    """The description; empty if it cannot be made true."""
    if text.startswith(b"ImageJ="):
        return _fit_imagej(text, now)
    if _is_ome(text):
        return _fit_ome(text, now)
    shape = _shape_of(text)
    return _fit_shape(text, shape, now) if shape else text


def _fit_imagej(text: bytes, now: Described) -> bytes:
    if _imagej_images(text) == now.pages:
        return text
    lines = text.rstrip(b"\0").split(b"\n")
    kept = [line for line in lines if line.split(b"=")[0] not in _IMAGEJ_COUNTS]
    if now.pages > 1:
        kept[1:1] = [b"images=%d" % now.pages, b"slices=%d" % now.pages]
    return b"\n".join(kept)


def _shape_of(text: bytes) -> list[int] | None:
    """The shape in a tifffile description; None if it is none."""
    plain = text.rstrip(b"\0").strip()
    if not (plain.startswith(b"{") and b'"shape"' in plain and len(plain) <= _MAX_DESCRIPTION):
        return None
    try:
        shape = json.loads(plain)["shape"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    is_shape = isinstance(shape, list) and all(type(n) is int and 0 < n < 2**31 for n in shape)
    return shape if is_shape else None


def _fit_shape(text: bytes, shape: list[int], now: Described) -> bytes:
    page = [now.height, now.width, now.channels] if now.channels > 1 else [now.height, now.width]
    stack = shape[: len(shape) - len(page)]
    known = json.loads(text.rstrip(b"\0"))
    fits = shape[len(stack) :] == page and math.prod(stack) == now.pages
    if fits and "truncated" not in known:
        return text
    known.pop("truncated", None)
    if not fits:
        known.pop("axes", None)
        known["shape"] = page if now.pages == 1 else [now.pages, *page]
    return json.dumps(known).encode("ascii")


def _is_ome(text: bytes) -> bool:
    return text.lstrip().startswith(b"<") and text.rstrip(b"\0 \r\n\t").endswith(b"OME>")


def _fit_ome(text: bytes, now: Described) -> bytes:
    # A document type could define entities that grow without end.
    if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
        return b""
    try:
        root = ElementTree.fromstring(text.rstrip(b"\0"))
        pixels = [each for each in root.iter() if each.tag.endswith("}Pixels") or each.tag == "Pixels"]
        if _planes(pixels, now.channels) == now.pages and all(_is_true(each, now) for each in pixels):
            return text
        if len(pixels) != 1:
            return b""
        _fit_pixels(pixels[0], now)
    except (ElementTree.ParseError, ValueError, ZeroDivisionError):
        return b""
    if root.tag.startswith("{"):
        ElementTree.register_namespace("", root.tag[1:].split("}")[0])
    return bytes(ElementTree.tostring(root, encoding="UTF-8", xml_declaration=True))


def _planes(pixels: list[ElementTree.Element], channels: int) -> int:
    sizes = ([int(each.get(name, "1")) for name in ("SizeZ", "SizeC", "SizeT")] for each in pixels)
    return sum(z * max(c // channels, 1) * t for z, c, t in sizes)


def _is_true(pixels: ElementTree.Element, now: Described) -> bool:
    size = pixels.get("SizeX"), pixels.get("SizeY")
    return size == (str(now.width), str(now.height)) and pixels.get("Type") == _ome_type(now.dtype)


def _ome_type(dtype: str) -> str:
    return _OME_FLOATS.get(dtype, dtype)


def _fit_pixels(pixels: ElementTree.Element, now: Described) -> None:
    if _planes([pixels], now.channels) != now.pages:
        pixels.attrib |= {"SizeZ": str(now.pages), "SizeC": str(now.channels), "SizeT": "1"}
        names = [(each, each.tag.rpartition("}")[2]) for each in pixels]
        # Which of the channels the page shows is not known.
        several = sum(name == "Channel" for _, name in names) > 1
        for each, name in names:
            if name in ("TiffData", "Plane") or (name == "Channel" and several):
                pixels.remove(each)
        space = pixels.tag.rpartition("Pixels")[0]
        ElementTree.SubElement(pixels, f"{space}TiffData", IFD="0", PlaneCount=str(now.pages))
    pixels.attrib |= {"SizeX": str(now.width), "SizeY": str(now.height)}
    if pixels.get("Type") != _ome_type(now.dtype):
        pixels.attrib.pop("SignificantBits", None)
        pixels.set("Type", _ome_type(now.dtype))


def _without_parts(order: str, ifd: Mapping[int, Entry], left_out: bytes) -> dict[int, Entry | None]:
    """ImageJ's own block without its parts of that kind.

    The block begins with a header: a signature, and pairs of a kind and how many parts have it. The counts are
    the bytes of the header and of each part.
    """
    block, counts = ifd[IMAGEJ_METADATA].value, ifd.get(IMAGEJ_COUNTS)
    sizes = (
        struct.unpack(f"{order}{counts.length}I", counts.value) if counts and counts.type_code == LONG else (0,)
    )
    kinds = [struct.unpack_from(f"{order}II", block, at) for at in range(4, sizes[0] - 7, 8)]
    header, body, new_sizes = block[:4], b"", list[int]()
    at, part = sizes[0], 1
    for kind, number in kinds:
        lengths = sizes[part : part + number]
        if struct.pack(">I", kind) != left_out:
            header += struct.pack(f"{order}II", kind, number)
            body += block[at : at + sum(lengths)]
            new_sizes += lengths
        at, part = at + sum(lengths), part + number
    if not new_sizes:
        return {IMAGEJ_COUNTS: None, IMAGEJ_METADATA: None}
    packed = struct.pack(f"{order}{len(new_sizes) + 1}I", len(header), *new_sizes)
    return {
        IMAGEJ_COUNTS: Entry(IMAGEJ_COUNTS, LONG, len(new_sizes) + 1, packed, 0),
        IMAGEJ_METADATA: Entry(IMAGEJ_METADATA, BYTE, len(header + body), header + body, 0),
    }


def _text_entry(tag: int, text: bytes) -> Entry:
    text = text.rstrip(b"\0") + b"\0"
    return Entry(tag, _ASCII, len(text), text, 0)


def _edited(exif: bytes, edits: Mapping[int, Entry | None]) -> bytes | None:
    """The block with these entries in place of its own; None takes an entry away."""
    ifd, order = read_ifd(exif, first_ifd_offset(exif)), byte_order(exif)
    sub_ifds = read_sub_ifds(exif, ifd)
    found = {tag: entry for tag, entry in ifd.items() if tag not in SUB_IFDS or tag in sub_ifds}
    kept = {tag: entry for tag, entry in {**found, **edits}.items() if entry is not None}
    return pack_header(order) + pack_ifd(order, kept, sub_ifds, 8) if kept else None
