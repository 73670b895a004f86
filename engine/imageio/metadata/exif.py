"""EXIF blocks: orientation, resolution and thumbnail. A block here begins with its TIFF header, not "Exif".

Source: CIPA DC-008, "Exif 3.0", 2023, section 4.
"""

import struct
from collections.abc import Iterable, Mapping
from fractions import Fraction

from engine.imageio.metadata.ifd import (
    EXIF_IFD,
    LAYOUT_TAGS,
    ORIENTATION,
    RATIONAL,
    RESOLUTION_UNIT,
    SHORT,
    SUB_IFDS,
    THUMBNAIL_LENGTH,
    THUMBNAIL_OFFSET,
    X_RESOLUTION,
    XMP,
    Y_RESOLUTION,
    ByteOrder,
    Entry,
    byte_order,
    entries_of,
    first_ifd_offset,
    pack_header,
    pack_ifd,
    read_ifd,
    read_sub_ifds,
)
from engine.imageio.metadata.limits import BrokenMetadata, plausible_resolution

# RESOLUTION_UNIT: how many of each unit make an inch.
_UNITS_PER_INCH = {2: 1.0, 3: 2.54}
_INCH = 2
_PIXEL_WIDTH = 0xA002
_PIXEL_HEIGHT = 0xA003
_RESOLUTION_TAGS = (X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT)


def new_exif(order: ByteOrder, entries: Iterable[tuple[int, int, int, bytes]]) -> bytes:
    """A block with one IFD of these entries: (tag, type, length, value)."""
    return pack_header(order) + pack_ifd(order, {each[0]: Entry(*each, 0) for each in entries}, {}, 8)


def exif_from_ifd(data: bytes, ifd: Mapping[int, Entry]) -> bytes | None:
    """A block of those tags of a TIFF page that do not describe its pixels; None if there are none.

    It has the resolution if that is not in dots per inch, as `exact_resolution` returns it.
    """
    order = byte_order(data)
    kept = {tag: each for tag, each in ifd.items() if tag not in LAYOUT_TAGS}
    if not ifd_resolution(order, ifd) and _exact_resolution(order, ifd):
        kept |= {tag: ifd[tag] for tag in _RESOLUTION_TAGS if tag in ifd}
    orientation = ifd.get(ORIENTATION)
    # Beside XMP it says that XMP's orientation does not count.
    if orientation and (kept or XMP in ifd or _orientation(order, orientation) != 1):
        kept[ORIENTATION] = orientation
    if not kept:
        return None
    sub_ifds = read_sub_ifds(data, ifd)
    kept = {tag: each for tag, each in kept.items() if tag not in SUB_IFDS or tag in sub_ifds}
    return pack_header(order) + pack_ifd(order, kept, sub_ifds, 8)


def _orientation(order: ByteOrder, entry: Entry) -> int:
    """1 to 8; 1, upright, for any other value."""
    value = entry.any_number(order)
    return int(value) if value in range(1, 9) else 1


def exif_orientation(exif: bytes | None) -> int | None:
    """1 to 8, as EXIF counts, whatever type of number the file has it in; None if the block does not say."""
    if not exif:
        return None
    try:
        entry = read_ifd(exif, first_ifd_offset(exif)).get(ORIENTATION)
    except BrokenMetadata:
        return None
    return _orientation(byte_order(exif), entry) if entry else None


def exif_resolution(exif: bytes | None) -> tuple[float, float] | None:
    """Dots per inch, (x, y); None if the block does not say or cannot be read."""
    try:
        return ifd_resolution(byte_order(exif), read_ifd(exif, first_ifd_offset(exif))) if exif else None
    except BrokenMetadata:
        return None


def ifd_resolution(order: ByteOrder, ifd: Mapping[int, Entry]) -> tuple[float, float] | None:
    """Dots per inch, (x, y)."""
    unit = ifd[RESOLUTION_UNIT].integer(order) if RESOLUTION_UNIT in ifd else _INCH
    factor = _UNITS_PER_INCH.get(unit)
    x, y = (ifd[tag].number(order) if tag in ifd else 0.0 for tag in (X_RESOLUTION, Y_RESOLUTION))
    return plausible_resolution(x * factor, y * factor) if factor else None


def exact_resolution(exif: bytes | None) -> tuple[tuple[int, int], tuple[int, int], int] | None:
    """Pixels a unit, (x, y) as fractions, and the unit, 1 for none, as a TIFF file has them; None if unknown.

    Microscopes count pixels a micrometre, and name the unit elsewhere.
    """
    try:
        return _exact_resolution(byte_order(exif), read_ifd(exif, first_ifd_offset(exif))) if exif else None
    except BrokenMetadata:
        return None


def _exact_resolution(
    order: ByteOrder, ifd: Mapping[int, Entry]
) -> tuple[tuple[int, int], tuple[int, int], int] | None:
    entries = [ifd[tag] for tag in (X_RESOLUTION, Y_RESOLUTION) if tag in ifd]
    if len(entries) < 2 or any(each.type_code != RATIONAL or len(each.value) < 8 for each in entries):
        return None
    x, y = ((*struct.unpack_from(f"{order}II", each.value),) for each in entries)
    unit = ifd[RESOLUTION_UNIT].integer(order) if RESOLUTION_UNIT in ifd else _INCH
    # What files write for "unknown".
    unknown = not all((*x, *y)) or (x[0] == x[1] and y[0] == y[1])
    return None if unknown or unit not in (1, *_UNITS_PER_INCH) else ((x[0], x[1]), (y[0], y[1]), unit)


def exif_with_resolution(exif: bytes | None, resolution: tuple[float, float] | None) -> bytes | None:
    """The block with this resolution, for formats that have no other place for it. Raises BrokenMetadata."""
    if not resolution or exif_resolution(exif) == resolution:
        return exif
    order = byte_order(exif or b"II")
    entries = [
        (X_RESOLUTION, RATIONAL, 1, struct.pack(f"{order}II", *_fraction(resolution[0]))),
        (Y_RESOLUTION, RATIONAL, 1, struct.pack(f"{order}II", *_fraction(resolution[1]))),
        (RESOLUTION_UNIT, SHORT, 1, struct.pack(f"{order}H", _INCH)),
    ]
    if not exif:
        return new_exif(order, entries)
    ifd = read_ifd(exif, first_ifd_offset(exif)) | {each[0]: Entry(*each, 0) for each in entries}
    # The new first IFD goes to the end, so everything that it points to stays in place.
    end = len(exif) + len(exif) % 2
    body = exif[8:].ljust(end - 8, b"\0")
    return exif[:4] + struct.pack(f"{order}I", end) + body + pack_ifd(order, ifd, {}, end)


def _fraction(value: float) -> tuple[int, int]:
    return Fraction(value).limit_denominator(1000).as_integer_ratio()


def exif_with_sides_swapped(exif: bytes) -> bytes:
    """The block of an image turned by a quarter: its resolutions, and its width and height, change places."""
    ifd = read_ifd(exif, first_ifd_offset(exif))
    photograph = read_sub_ifds(exif, ifd).get(EXIF_IFD, {})
    changed = bytearray(exif)
    for x, y in (
        (ifd.get(X_RESOLUTION), ifd.get(Y_RESOLUTION)),
        (photograph.get(_PIXEL_WIDTH), photograph.get(_PIXEL_HEIGHT)),
    ):
        if x and y and (x.type_code, len(x.value)) == (y.type_code, len(y.value)):
            changed[x.offset : x.offset + len(x.value)] = y.value
            changed[y.offset : y.offset + len(y.value)] = x.value
    return bytes(changed)


def upright_exif(exif: bytes) -> bytes | None:
    """The block of an image that has been turned upright or changed: orientation 1, and no thumbnail.

    Changes bytes in place: the offsets in a camera's maker notes are valid only while nothing moves. Returns None
    if nothing else is in the block. Raises BrokenMetadata.
    """
    offset = first_ifd_offset(exif)
    ifd, order = read_ifd(exif, offset), byte_order(exif)
    # Raises MetadataTooLarge here, before anything else reads the block.
    read_sub_ifds(exif, ifd)
    if not ifd.keys() - {ORIENTATION}:
        return None
    changed = bytearray(exif)
    for each in entries_of(exif, offset, ORIENTATION):
        changed[each.offset : each.offset + len(each.value)] = each.with_number(order, 1)
    next_at = offset + 2 + 12 * struct.unpack_from(f"{order}H", exif, offset)[0]
    if next_at + 4 > len(exif):
        return bytes(changed)
    (second,) = struct.unpack_from(f"{order}I", exif, next_at)
    struct.pack_into(f"{order}I", changed, next_at, 0)
    if not second:
        return bytes(changed)
    # The second IFD describes the thumbnail, which shows the image as it was.
    return bytes(changed[: _erase_thumbnail(changed, exif, second)])


def _erase_thumbnail(changed: bytearray, exif: bytes, offset: int) -> int:
    """Overwrite the thumbnail and its IFD at `offset` with zeros. Returns where the bytes that remain end."""
    ifd, order = read_ifd(exif, offset), byte_order(exif)
    spans = [(each.offset, len(each.value)) for each in ifd.values()]
    spans.append((offset, 2 + 12 * struct.unpack_from(f"{order}H", exif, offset)[0] + 4))
    if THUMBNAIL_OFFSET in ifd and THUMBNAIL_LENGTH in ifd:
        spans.append((ifd[THUMBNAIL_OFFSET].integer(order), ifd[THUMBNAIL_LENGTH].integer(order)))
    for start, size in spans:
        stop = min(start + size, len(exif))
        changed[start:stop] = bytes(max(0, stop - start))
    end = len(exif)
    for start, size in sorted(spans, reverse=True):
        # One more byte, which may pad the span to an even length.
        end = start if start <= end <= start + size + 1 else end
    return end
