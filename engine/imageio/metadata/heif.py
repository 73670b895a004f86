"""Items of HEIF files, which AVIF and HEIC are: the main image's colour space by number, and the other images.

Sources: ISO/IEC 14496-12:2022, section 8.11; ISO/IEC 23008-12:2022, sections 6 and 7.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from engine.imageio.metadata.cicp import ColourCode
from engine.imageio.metadata.record import Metadata
from engine.imageio.metadata.xmp import DEPTH_LOST, GAIN_MAP_LOST, OTHERS_LOST, VIDEO_LOST

_NCLX = b"nclx"
# Items that are images.
_IMAGE_TYPES = frozenset((b"av01", b"hvc1", b"grid", b"iovl", b"iden", b"jpeg", b"avc1", b"j2k1", b"unci"))
_TONE_MAP = b"tmap"
# The box of a motion photo's video.
_VIDEO_BOX = b"mpvd"
# Boxes and items of a file are few; more than this are not looked at.
_MOST_BOXES = 10_000

Span = tuple[int, int]


@dataclass
class _Items:
    """primary: number of the main image. types: by number of the item.

    references: kind, the item that refers, and the items that it refers to. properties: boxes that items share.
    owned: numbers of an item's properties, from 1.
    """

    primary: int = 0
    types: dict[int, bytes] = field(default_factory=dict)
    references: list[tuple[bytes, int, tuple[int, ...]]] = field(default_factory=list)
    properties: list[tuple[bytes, bytes]] = field(default_factory=list)
    owned: dict[int, list[int]] = field(default_factory=dict)

    def properties_of(self, item: int) -> list[tuple[bytes, bytes]]:
        return [self.properties[at - 1] for at in self.owned.get(item, []) if 0 < at <= len(self.properties)]


def with_heif_items(metadata: Metadata, data: bytes) -> Metadata:
    """The metadata with the main image's colour space by number, and with the other images among `lost`.

    A profile describes the colours more closely: the number is left out beside it, and where it means sRGB.
    """
    try:
        items, has_video = _read_file(data)
    except (struct.error, IndexError):
        return metadata
    code = None if metadata.icc_profile else _colour_code(items, data)
    code = None if code and code.is_srgb else code
    lost = (*metadata.lost, *_other_images(items), *((VIDEO_LOST,) if has_video else ()))
    return replace(metadata, colour_code=code, lost=tuple(dict.fromkeys(lost)))


def set_colour_code(data: bytes, code: ColourCode) -> bytes:
    """The AVIF file with these numbers in its boxes of colour, which have the same place in every such file."""
    start = b"colr" + _NCLX
    parts = data.split(start)
    numbers = struct.pack(">HH", code.primaries, code.transfer)
    return start.join((parts[0], *(numbers + part[len(numbers) :] for part in parts[1:])))


def _colour_code(items: _Items, data: bytes) -> ColourCode | None:
    bodies = [body for kind, body in items.properties_of(items.primary) if kind == b"colr"]
    if not items.types:
        # An animation may have no items: its description of samples holds the box.
        movie = next((span for kind, span in _boxes(data, (0, len(data))) if kind == b"moov"), (0, 0))
        at = data.find(b"colr" + _NCLX, *movie)
        bodies = [data[at + 4 : at + 4 + 11]] if at >= 0 else []
    for body in bodies:
        if body[:4] == _NCLX and len(body) >= 8:
            return ColourCode(*struct.unpack_from(">HH", body, 4))
    return None


def _other_images(items: _Items) -> Iterator[str]:
    thumbnails = {item for kind, item, _ in items.references if kind == b"thmb"}
    auxiliary = {item for kind, item, _ in items.references if kind == b"auxl"}
    parts = {to for kind, _, all_to in items.references if kind == b"dimg" for to in all_to}
    names = [
        body[4:].split(b"\0")[0].lower()
        for item in auxiliary
        for kind, body in items.properties_of(item)
        if kind == b"auxC"
    ]
    if any(b"gainmap" in name for name in names) or _TONE_MAP in items.types.values():
        yield GAIN_MAP_LOST
    if any(b"depth" in name or b"disparity" in name or name.endswith(b"auxid:2") for name in names):
        yield DEPTH_LOST
    plain = (b"alpha", b"auxid:1", b"gainmap", b"depth", b"disparity", b"auxid:2")
    if any(not any(word in name for word in plain) for name in names):
        yield "auxiliary images"
    images = {item for item, kind in items.types.items() if kind in _IMAGE_TYPES}
    if images - {items.primary} - thumbnails - auxiliary - parts:
        yield OTHERS_LOST


def _boxes(data: bytes, span: Span) -> Iterator[tuple[bytes, Span]]:
    """The kind and the span of the content of each box. Ends at a box that ends beyond the span."""
    at, end = span
    for _ in range(_MOST_BOXES):
        if at + 8 > end:
            return
        size, kind = struct.unpack_from(">I4s", data, at)
        start = at + 8
        if size == 1 and at + 16 <= end:
            size, start = struct.unpack_from(">Q", data, at + 8)[0], at + 16
        stop = at + size if size else end
        if not start <= stop <= end:
            return
        yield kind, (start, stop)
        at = stop


def _read_file(data: bytes) -> tuple[_Items, bool]:
    items, has_video = _Items(), False
    for kind, (start, end) in _boxes(data, (0, len(data))):
        has_video |= kind == _VIDEO_BOX
        if kind == b"meta":
            # After the version and flags.
            for inner, span in _boxes(data, (start + 4, end)):
                _read_box(items, data, inner, span)
    return items, has_video


def _read_box(items: _Items, data: bytes, kind: bytes, span: Span) -> None:
    start, end = span
    version = data[start] if start < end else 0
    match kind:
        case b"pitm":
            (items.primary,) = struct.unpack_from(">I" if version else ">H", data, start + 4)
        case b"iinf":
            for inner, (at, _) in _boxes(data, (start + (8 if version else 6), end)):
                if inner == b"infe" and data[at] >= 2:
                    wide = data[at] >= 3
                    (item,) = struct.unpack_from(">I" if wide else ">H", data, at + 4)
                    at += 10 if wide else 8
                    items.types[item] = data[at : at + 4]
        case b"iref":
            for inner, (at, stop) in _boxes(data, (start + 4, end)):
                items.references.append((inner, *_read_reference(data, at, stop, wide=version > 0)))
        case b"iprp":
            for inner, inside in _boxes(data, span):
                if inner == b"ipco":
                    items.properties = [(name, data[at:stop]) for name, (at, stop) in _boxes(data, inside)]
                elif inner == b"ipma":
                    _read_associations(items, data, inside)


def _read_reference(data: bytes, at: int, end: int, wide: bool) -> tuple[int, tuple[int, ...]]:
    form, width = ("I", 4) if wide else ("H", 2)
    item, count = struct.unpack_from(f">{form}H", data, at)
    count = min(count, (end - at - width - 2) // width)
    return item, struct.unpack_from(f">{count}{form}", data, at + width + 2)


def _read_associations(items: _Items, data: bytes, span: Span) -> None:
    start, end = span
    version, wide = data[start], data[start + 3] & 1
    (count,) = struct.unpack_from(">I", data, start + 4)
    at = start + 8
    for _ in range(min(count, _MOST_BOXES)):
        if at + 3 > end:
            return
        (item,) = struct.unpack_from(">H" if version < 1 else ">I", data, at)
        at += 2 if version < 1 else 4
        owned = data[at]
        at += 1
        form, mask, width = ("H", 0x7FFF, 2) if wide else ("B", 0x7F, 1)
        numbers = struct.unpack_from(f">{owned}{form}", data, at)
        items.owned.setdefault(item, []).extend(number & mask for number in numbers)
        at += owned * width
