"""What surrounds the pixels: colour profile, EXIF, XMP, resolution. The only file that knows them; no codec here.

An EXIF block is a TIFF file without an image, so both are read and written by the same few functions.
"""

import math
import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import count
from typing import Any, Literal, NamedTuple

# Inflated, or read from a file. The largest known profiles, of printers, have some 4 MB.
MOST_BYTES = 16 * 2**20
# A camera writes some 60, a microscope some 200.
MOST_ENTRIES = 4096
INCH = 0.0254  # metres

# Tags of TIFF and EXIF.
ORIENTATION, X_RESOLUTION, Y_RESOLUTION, UNIT = 0x0112, 0x011A, 0x011B, 0x0128
XMP, ICC, EXIF_IFD, GPS_IFD, INTEROP_IFD = 0x02BC, 0x8773, 0x8769, 0x8825, 0xA005
_THUMBNAIL_AT, _THUMBNAIL_SIZE = 0x0201, 0x0202
_SUB_IFDS = (EXIF_IFD, GPS_IFD, INTEROP_IFD)
# Say how a TIFF's pixels lie in the file, or hold a preview of them; the writer has its own.
_OF_THE_PIXELS = frozenset(
    {*range(254, 267), *range(273, 285), *range(286, 293), 296, 297, *range(317, 348), 400, *range(512, 516)}
    | {*range(517, 522), *range(529, 533), 559, 700, 32997, 32998, 34377, 34675, 37724, 50255}
)
# By which a TIFF's writer knows those of them that a page points to.
_NAMES = {EXIF_IFD: "ExifTag", GPS_IFD: "GPSTag"}
_READ_HERE = frozenset({ORIENTATION, X_RESOLUTION, Y_RESOLUTION, UNIT, XMP, ICC})
_LONG, _SHORT, _RATIONAL = 4, 3, 5
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_THUMBNAILS_IN_XMP = re.compile(rb"<xmp:Thumbnails>.*?</xmp:Thumbnails>", re.DOTALL)
_ORIENTATION_IN_XMP = re.compile(rb"(tiff:Orientation(?:=[\"']|>))[2-8](?=[\"'<])")
_XMP_IN_PNG = b"XML:com.adobe.xmp\0"
_XMP_IN_JP2 = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")


class BrokenMetadata(ValueError):
    """Metadata that is not as it should be."""


class TooMuchMetadata(BrokenMetadata):
    """More of it than anybody writes, perhaps packed into little."""


@dataclass(frozen=True)
class Metadata:
    """exif: from its byte order on. resolution: dots an inch, across and down.

    chunks: a PNG's own on colour and its texts, as they are in the file. lost: what could not be read.
    """

    icc_profile: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    resolution: tuple[float, float] | None = None
    chunks: bytes = b""
    lost: tuple[str, ...] = ()

    @property
    def orientation(self) -> int:
        """How the image is to be turned, 1 (not at all) to 8, as EXIF counts it."""
        try:
            found = _ifd(self.exif, *_first(self.exif)).get(ORIENTATION) if self.exif else None
        except BrokenMetadata:
            return 1
        value = found.whole(self.exif) if found and self.exif else 1
        return value if 1 <= value <= 8 else 1

    def upright(self) -> "Metadata":
        """For an image that has been turned, or changed: no orientation, and no small image of how it was."""
        xmp = self.xmp and _ORIENTATION_IN_XMP.sub(rb"\g<1>1", _THUMBNAILS_IN_XMP.sub(b"", self.xmp))
        try:
            return replace(self, xmp=xmp, exif=self.exif and _upright(self.exif))
        except TooMuchMetadata:
            raise
        except BrokenMetadata:
            return replace(self, xmp=xmp, exif=None, lost=(*self.lost, "EXIF that cannot be read"))


NOTHING_KNOWN = Metadata()


class Entry(NamedTuple):
    """One of an IFD. value: in the file's order of bytes. at: where it lies in the file."""

    tag: int
    kind: int
    length: int
    value: bytes
    at: int

    def whole(self, data: bytes) -> int:
        """The first of its numbers, if they are whole ones; data: the file, which knows the order of bytes."""
        form = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}.get(self.kind)
        if not form or len(self.value) < _SIZES[self.kind]:
            return 0
        return int(struct.unpack_from(_order(data) + form, self.value)[0])

    def number(self, data: bytes) -> float:
        """The same for a fraction."""
        if self.kind != _RATIONAL or len(self.value) < 8:
            return float(self.whole(data))
        above, below = struct.unpack_from(f"{_order(data)}II", self.value)
        return above / below if below else 0.0


# Reading


def from_info(info: Mapping[Any, Any]) -> Metadata:
    """What Pillow, and pillow-heif, have found."""
    exif, xmp = info.get("exif"), info.get("xmp")
    exif = exif.removeprefix(b"Exif\0\0") if isinstance(exif, bytes) else None
    xmp = xmp.encode() if isinstance(xmp, str) else xmp
    dpi = info.get("dpi")
    resolution = _sensible(*map(float, dpi)) if dpi else exif_resolution(exif)
    return Metadata(info.get("icc_profile") or None, exif or None, xmp or None, resolution)


def from_png(data: bytes) -> Metadata:
    """Raises BrokenMetadata."""
    found = Metadata()
    for kind, body, whole in png_chunks(data):
        match kind:
            case b"iCCP":
                profile = _inflated(body[body.find(b"\0") + 2 :], "The colour profile")
                found = replace(found, icc_profile=profile)
            case b"eXIf":
                found = replace(found, exif=body.removeprefix(b"Exif\0\0"))
            case b"pHYs" if len(body) == 9 and body[8] == 1:
                x, y = struct.unpack(">II", body[:8])
                found = replace(found, resolution=_sensible(x * INCH, y * INCH))
            case b"iTXt" if body.startswith(_XMP_IN_PNG):
                found = replace(found, xmp=_itxt(body))
            case b"gAMA" | b"cHRM" | b"sRGB" | b"cICP" | b"tEXt" | b"zTXt" | b"iTXt":
                found = replace(found, chunks=found.chunks + whole)
        if len(found.chunks) > MOST_BYTES:
            raise TooMuchMetadata(f"The texts have more than {MOST_BYTES} bytes.")
    return found


def from_tiff(data: bytes, offset: int) -> Metadata:
    """Of the page whose IFD lies at the offset: its own tags become an EXIF block. Raises BrokenMetadata."""
    page = _ifd(data, offset, _is_big(data))
    icc, xmp = (page[tag].value if tag in page else None for tag in (ICC, XMP))
    found = Metadata(
        icc_profile=icc or None,
        xmp=xmp or None,
        resolution=_resolution(data, page),
    )
    try:
        return replace(found, exif=_block(data, page))
    except TooMuchMetadata:
        raise
    except BrokenMetadata:
        return replace(found, lost=("EXIF that cannot be read",))


def from_boxes(data: bytes) -> Metadata:
    """Of a JPEG XL or JPEG 2000 file: what lies in boxes. Raises BrokenMetadata."""
    found = Metadata()
    for kind, body in boxes(data):
        match kind:
            case b"Exif" if len(body) > 12:
                found = replace(found, exif=body[4:].removeprefix(b"Exif\0\0"))
            case b"xml " if b"x:xmpmeta" in body:
                found = replace(found, xmp=body)
            case b"uuid" if body.startswith(_XMP_IN_JP2):
                found = replace(found, xmp=body[16:])
            case b"brob":
                found = replace(found, lost=("packed metadata",))
            case b"colr" if body[:1] in (b"\2", b"\3"):
                found = replace(found, icc_profile=body[3:])
    if found.exif:
        found = replace(found, resolution=exif_resolution(found.exif))
    return found


def boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of each, and of those within the header's. Raises BrokenMetadata."""
    at = 0
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        start = at + 8
        if size == 1 and at + 16 <= len(data):
            size, start = struct.unpack_from(">Q", data, at + 8)[0], at + 16
        end = at + size if size else len(data)
        if not start <= end <= len(data):
            raise BrokenMetadata(f"The box {kind!r} ends beyond the file.")
        # Of the image itself its header is enough.
        yield kind, data[start : min(end, start + 1024) if kind in (b"jp2c", b"jxlc", b"jxlp") else end]
        if kind == b"jp2h":
            yield from boxes(data[start:end])
        at = end


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Kind, content, and the whole as it is in the file, up to one that is cut short."""
    at = 8
    while at + 12 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        if at + 12 + size > len(data):
            return
        yield kind, data[at + 8 : at + 8 + size], data[at : at + 12 + size]
        if kind == b"IEND":
            return
        at += 12 + size


def bare_png(data: bytes) -> bytes:
    """The same image with nothing around it: a codec that needs none of it cannot stumble over it."""
    needed = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
    return data[:8] + b"".join(whole for kind, _, whole in png_chunks(data) if kind in needed)


def exif_resolution(exif: bytes | None) -> tuple[float, float] | None:
    """What the block says, in dots an inch."""
    try:
        return _resolution(exif, _ifd(exif, _first(exif)[0])) if exif else None
    except BrokenMetadata:
        return None


def _resolution(data: bytes, page: Mapping[int, Entry]) -> tuple[float, float] | None:
    unit = page[UNIT].whole(data) if UNIT in page else 2
    inches = {2: 1.0, 3: 2.54}.get(unit)
    across, down = (page[tag].number(data) if tag in page else 0.0 for tag in (X_RESOLUTION, Y_RESOLUTION))
    return _sensible(across * inches, down * inches) if inches else None


def _inflated(packed: bytes, what: str) -> bytes:
    """Raises BrokenMetadata as soon as it is too much: little can hold a thousand times as much."""
    unpacking = zlib.decompressobj()
    try:
        plain = unpacking.decompress(packed, MOST_BYTES + 1)
    except zlib.error as error:
        raise BrokenMetadata(f"{what} is broken: {error}") from error
    if len(plain) > MOST_BYTES:
        raise TooMuchMetadata(f"{what} has more than {MOST_BYTES} bytes.")
    return plain


def _itxt(body: bytes) -> bytes:
    packed = body[len(_XMP_IN_PNG) : len(_XMP_IN_PNG) + 1] == b"\1"
    # A language and a translated keyword come before the text.
    text = body[len(_XMP_IN_PNG) + 2 :].split(b"\0", 2)[-1]
    return _inflated(text, "XMP") if packed else text


def _sensible(across: float, down: float) -> tuple[float, float] | None:
    """Files say 0, 1 and infinity for "unknown"."""
    return (across, down) if all(math.isfinite(n) and 1 < n < 1e6 for n in (across, down)) else None


# TIFF's structure


def _order(data: bytes) -> str:
    return ">" if data[:2] == b"MM" else "<"


def _is_big(data: bytes) -> bool:
    """Whether it is a BigTIFF."""
    return data[2:4] in (b"+\0", b"\0+")


def _first(data: bytes) -> tuple[int, bool]:
    """Where the first IFD of a block lies; never a BigTIFF's. Raises BrokenMetadata."""
    if len(data) < 8 or data[:4] not in (b"II*\0", b"MM\0*"):
        raise BrokenMetadata("EXIF does not begin as it should.")
    return struct.unpack_from(f"{_order(data)}I", data, 4)[0], False


def _ifd(data: bytes, offset: int, big: bool = False) -> dict[int, Entry]:
    """Raises BrokenMetadata."""
    order = _order(data)
    head, entry, width = (f"{order}Q", f"{order}HHQ", 8) if big else (f"{order}H", f"{order}HHI", 4)
    try:
        (many,) = struct.unpack_from(head, data, offset)
        if many > MOST_ENTRIES:
            raise TooMuchMetadata(f"EXIF or TIFF has {many} entries; at most {MOST_ENTRIES} are taken.")
        found: dict[int, Entry] = {}
        left = MOST_BYTES
        for number in range(many):
            at = offset + struct.calcsize(head) + number * (struct.calcsize(entry) + width)
            tag, kind, items = struct.unpack_from(entry, data, at)
            at += struct.calcsize(entry)
            size = _SIZES.get(kind, 0) * items
            if size > width:
                (at,) = struct.unpack_from(order + ("Q" if big else "I"), data, at)
            known = tag not in _OF_THE_PIXELS or tag in _READ_HERE or size <= 8
            if known and kind in _SIZES and at + size <= len(data):
                # Many entries can say that the same bytes are theirs.
                left -= size
                if left < 0:
                    raise TooMuchMetadata(f"The metadata have more than {MOST_BYTES} bytes.")
                found[tag] = Entry(tag, kind, items, data[at : at + size], at)
    except struct.error as error:
        raise BrokenMetadata("An IFD ends beyond the file.") from error
    return found


def _tree(data: bytes, page: Mapping[int, Entry]) -> dict[int, dict[int, Entry]]:
    """The IFDs that a page's entries point to, by tag, and those in one of them; without what cannot be read."""
    found: dict[int, dict[int, Entry]] = {}
    for tag in (EXIF_IFD, GPS_IFD, INTEROP_IFD):
        pointer = page.get(tag) or found.get(EXIF_IFD, {}).get(tag)
        try:
            if pointer:
                found[tag] = _ifd(data, pointer.whole(data), _is_big(data))
        except TooMuchMetadata:
            raise
        except BrokenMetadata:
            continue
    return found


def _block(data: bytes, page: Mapping[int, Entry]) -> bytes | None:
    """An EXIF block of what a TIFF's page says beside its pixels."""
    kept = {tag: each for tag, each in page.items() if tag not in _OF_THE_PIXELS or tag == ORIENTATION}
    if not kept.keys() - {ORIENTATION}:
        return _orientation_alone(data, kept) if kept else None
    subs = _tree(data, page)
    kept = {tag: each for tag, each in kept.items() if tag not in _SUB_IFDS or tag in subs}
    return _head(_order(data)) + _packed(_order(data), kept, subs, 8)


def _orientation_alone(data: bytes, kept: Mapping[int, Entry]) -> bytes | None:
    """Nothing is left of it once the image is upright, so that it is a block only where it says something."""
    if kept[ORIENTATION].whole(data) == 1:
        return None
    return new_exif(_order(data), [(ORIENTATION, _SHORT, 1, kept[ORIENTATION].value[:2])])


def new_exif(order: str, entries: Iterable[tuple[int, int, int, bytes]]) -> bytes:
    """A block of these (tag, kind, count, value)."""
    return _head(order) + _packed(order, {each[0]: Entry(*each, 0) for each in entries}, {}, 8)


def _head(order: str) -> bytes:
    return (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)


def _packed(order: str, page: Mapping[int, Entry], subs: Mapping[int, Mapping[int, Entry]], at: int) -> bytes:
    """An IFD and, behind it, its values and the IFDs `subs` that it points to, to lie at `at` in a file."""
    # Kinds from 16 on only a BigTIFF knows.
    entries = sorted(each for tag, each in page.items() if each.kind < 16 or tag in subs)
    table, behind = struct.pack(f"{order}H", len(entries)), b""
    end = at + 2 + 12 * len(entries) + 4
    for each in entries:
        kind, length, value = each.kind, each.length, each.value
        if each.tag in subs:
            behind += b"\0" * (len(behind) % 2)
            offset = end + len(behind)
            behind += _packed(order, subs[each.tag], {t: s for t, s in subs.items() if t == INTEROP_IFD}, offset)
            kind, length, value = _LONG, 1, struct.pack(f"{order}I", offset)
        elif len(value) > 4:
            behind += b"\0" * (len(behind) % 2)
            offset = end + len(behind)
            behind += value
            value = struct.pack(f"{order}I", offset)
        table += struct.pack(f"{order}HHI", each.tag, kind, length) + value.ljust(4, b"\0")
    return table + bytes(4) + behind


def _upright(exif: bytes) -> bytes | None:
    """Changed where it lies: a camera's own notes hold for as long as nothing moves. Raises BrokenMetadata."""
    offset, _ = _first(exif)
    page, order = _ifd(exif, offset), _order(exif)
    _tree(exif, page)
    if not page.keys() - {ORIENTATION}:
        return None
    changed = bytearray(exif)
    if ORIENTATION in page and page[ORIENTATION].kind == _SHORT:
        struct.pack_into(f"{order}H", changed, page[ORIENTATION].at, 1)
    next_at = offset + 2 + 12 * struct.unpack_from(f"{order}H", exif, offset)[0]
    if next_at + 4 > len(exif):
        return bytes(changed)
    (second,) = struct.unpack_from(f"{order}I", exif, next_at)
    struct.pack_into(f"{order}I", changed, next_at, 0)
    if not second:
        return bytes(changed)
    # The second IFD is of a small image of how it was: blotted out, and cut off where it is the end.
    return bytes(changed[: _blot(changed, exif, second)])


def _blot(changed: bytearray, exif: bytes, second: int) -> int:
    """Zeros over the small image and what is said of it; gives where the rest ends, that is not blotted out."""
    preview = _ifd(exif, second)
    spans = [(each.at, len(each.value)) for each in preview.values()]
    spans.append((second, 2 + 12 * struct.unpack_from(f"{_order(exif)}H", exif, second)[0] + 4))
    if _THUMBNAIL_AT in preview and _THUMBNAIL_SIZE in preview:
        spans.append((preview[_THUMBNAIL_AT].whole(exif), preview[_THUMBNAIL_SIZE].whole(exif)))
    for start, size in spans:
        stop = min(start + size, len(exif))
        changed[start:stop] = bytes(max(0, stop - start))
    end = len(exif)
    for start, size in sorted(spans, reverse=True):
        # With an even length to fill up.
        end = start if start <= end <= start + size + 1 else end
    return end


# Writing


def into_png(png: bytes, metadata: Metadata) -> bytes:
    """The file with what is known of the image behind its first chunk."""
    chunks = b""
    if metadata.icc_profile:
        chunks += png_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(metadata.icc_profile))
    if metadata.resolution:
        x, y = (round(n / INCH) for n in metadata.resolution)
        chunks += png_chunk(b"pHYs", struct.pack(">IIB", x, y, 1))
    if metadata.exif:
        chunks += png_chunk(b"eXIf", metadata.exif)
    if metadata.xmp:
        chunks += png_chunk(b"iTXt", _XMP_IN_PNG + bytes(4) + metadata.xmp)
    chunks = metadata.chunks + chunks
    header = 8 + 12 + 13
    # A large file is copied only if there is something to say.
    return png[:header] + chunks + png[header:] if chunks else png


def animated_png(frames: Sequence[bytes], durations: Sequence[int], plays: int) -> bytes:
    """One file of PNG files of one size and kind: the first one's header, and the data of all."""
    first, *rest = ([(kind, body, whole) for kind, body, whole in png_chunks(frame)] for frame in frames)
    size = first[0][1][:8]
    numbers = count()

    def control(duration: int) -> bytes:
        # At the corner, each frame in place of the one before.
        place = struct.pack(">IIHHBB", 0, 0, min(duration, 65535), 1000, 0, 0)
        return png_chunk(b"fcTL", struct.pack(">I", next(numbers)) + size + place)

    head = b"".join(whole for kind, _, whole in first if kind not in (b"IDAT", b"IEND"))
    about = png_chunk(b"acTL", struct.pack(">II", len(frames), plays))
    parts = [frames[0][:8], head, about, control(durations[0])]
    parts += [whole for kind, _, whole in first if kind == b"IDAT"]
    for frame, duration in zip(rest, durations[1:], strict=True):
        parts.append(control(duration))
        bodies = (body for kind, body, _ in frame if kind == b"IDAT")
        parts += [png_chunk(b"fdAT", struct.pack(">I", next(numbers)) + body) for body in bodies]
    return b"".join([*parts, png_chunk(b"IEND", b"")])


def within(metadata: Metadata, most: int) -> Metadata:
    """Without the blocks that have more bytes."""
    exif, xmp = (block if len(block or b"") <= most else None for block in (metadata.exif, metadata.xmp))
    return replace(metadata, exif=exif, xmp=xmp)


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """With its length and its check sum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def into_options(metadata: Metadata, dots: bool) -> dict[str, Any]:
    """Pillow's options for what it saves. dots: whether the format has a place for the resolution."""
    exif = metadata.exif if dots else with_resolution(metadata.exif, metadata.resolution)
    options: dict[str, Any] = {"icc_profile": metadata.icc_profile, "xmp": metadata.xmp}
    options["exif"] = b"Exif\0\0" + exif if exif else None
    if dots and metadata.resolution:
        options["dpi"] = tuple(min(65535, round(n)) for n in metadata.resolution)
    return {name: value for name, value in options.items() if value is not None}


def with_resolution(exif: bytes | None, resolution: tuple[float, float] | None) -> bytes | None:
    """The block saying so, as some formats have no other place for it."""
    if not resolution or exif_resolution(exif) == resolution:
        return exif
    order = _order(exif or b"II")
    entries = [
        (X_RESOLUTION, _RATIONAL, 1, struct.pack(f"{order}II", *_fraction(resolution[0]))),
        (Y_RESOLUTION, _RATIONAL, 1, struct.pack(f"{order}II", *_fraction(resolution[1]))),
        (UNIT, _SHORT, 1, struct.pack(f"{order}H", 2)),
    ]
    if not exif:
        return new_exif(order, entries)
    page = _ifd(exif, _first(exif)[0]) | {each[0]: Entry(*each, 0) for each in entries}
    # A new first IFD at the end; all that it points to stays where it was.
    at = len(exif) + len(exif) % 2
    return exif[:4] + struct.pack(f"{order}I", at) + exif[8:].ljust(at - 8, b"\0") + _packed(order, page, {}, at)


def _fraction(value: float) -> tuple[int, int]:
    return Fraction(value).limit_denominator(1000).as_integer_ratio()


def byte_order(metadata: Metadata) -> Literal["<", ">"]:
    """In which a TIFF that holds the EXIF block has to be written."""
    return ">" if metadata.exif and _order(metadata.exif) == ">" else "<"


def tiff_tags(metadata: Metadata) -> list[tuple[int | str, int, int, bytes, bool]]:
    """For a TIFF's writer: (tag, kind, count, value, once). Where EXIF will lie is filled in by into_tiff."""
    tags: list[tuple[int | str, int, int, bytes, bool]] = []
    if metadata.xmp:
        tags.append((XMP, 1, len(metadata.xmp), metadata.xmp, True))
    if metadata.exif:
        page = _ifd(metadata.exif, _first(metadata.exif)[0])
        subs = _tree(metadata.exif, page)
        for tag, each in sorted(page.items()):
            if tag in _SUB_IFDS:
                # By name, or the writer leaves it out.
                tags += [(_NAMES[tag], _LONG, 1, bytes(4), True)] if tag in subs and tag in _NAMES else []
            elif tag not in _OF_THE_PIXELS:
                tags.append((tag, each.kind, each.length, each.value, True))
    return tags


def into_tiff(tiff: bytes, metadata: Metadata) -> bytes:
    """The file with the IFDs of the EXIF block at its end, where its first page's tags now point."""
    if not metadata.exif:
        return tiff
    exif, order = metadata.exif, _order(tiff)
    page = _ifd(tiff, _first(tiff)[0])
    whole = bytearray(tiff)
    subs = _tree(exif, _ifd(exif, _first(exif)[0]))
    for tag in (EXIF_IFD, GPS_IFD):
        if tag in subs and tag in page:
            whole += b"\0" * (len(whole) % 2)
            struct.pack_into(f"{order}I", whole, page[tag].at, len(whole))
            whole += _packed(order, subs[tag], {t: s for t, s in subs.items() if t == INTEROP_IFD}, len(whole))
    return bytes(whole)
