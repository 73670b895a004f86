"""Image file directories (IFDs): the structure that TIFF files and EXIF blocks share.

An EXIF block is a TIFF file without an image, so the same functions read and write both.
Source: Adobe, "TIFF 6.0", 1992, section 2.
"""

import struct
from collections.abc import Iterator, Mapping, Set
from typing import Literal, NamedTuple

from engine.imageio.metadata.limits import MAX_BYTES, MAX_ENTRIES, BrokenMetadata, MetadataTooLarge

ByteOrder = Literal["<", ">"]

# Tags.
ORIENTATION = 0x0112
X_RESOLUTION = 0x011A
Y_RESOLUTION = 0x011B
RESOLUTION_UNIT = 0x0128
THUMBNAIL_OFFSET = 0x0201
THUMBNAIL_LENGTH = 0x0202
XMP = 0x02BC
EXIF_IFD = 0x8769
ICC_PROFILE = 0x8773
GPS_IFD = 0x8825
INTEROP_IFD = 0xA005

# Tags whose value is the offset of another IFD.
SUB_IFDS = (EXIF_IFD, GPS_IFD, INTEROP_IFD)
# Tags that describe how a TIFF's pixels lie in the file, or hold a preview of them. A writer sets its own.
LAYOUT_TAGS = frozenset(
    {*range(254, 267), *range(273, 285), *range(286, 293), 296, 297, *range(317, 348), 400, *range(512, 516)}
    | {*range(517, 522), *range(529, 533), 559, 700, 32997, 32998, 34377, 34675, 37724, 50255}
)
# Layout tags that are read here all the same.
_READ_LAYOUT_TAGS = frozenset({ORIENTATION, X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT, XMP, ICC_PROFILE})

# Types of values.
BYTE = 1
SHORT = 3
LONG = 4
RATIONAL = 5
# The first type that only a BigTIFF knows.
_FIRST_BIGTIFF_TYPE = 16
# Bytes of one item of each type.
_ITEM_SIZES = {
    1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8,
}  # fmt: skip
# Formats of `struct` for the types of unsigned integers, and of signed ones.
_INTEGER_FORMATS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_SIGNED_FORMATS = {6: "b", 8: "h", 9: "i", 17: "q"}


class Entry(NamedTuple):
    """An entry of an IFD. length: number of items. value: in the file's byte order. offset: of the value."""

    tag: int
    type_code: int
    length: int
    value: bytes
    offset: int

    def integer(self, order: ByteOrder) -> int:
        """The first item; 0 if it is no unsigned integer."""
        form = _INTEGER_FORMATS.get(self.type_code)
        if not form or len(self.value) < _ITEM_SIZES[self.type_code]:
            return 0
        return int(struct.unpack_from(order + form, self.value)[0])

    def number(self, order: ByteOrder) -> float:
        """The first item, an unsigned integer or fraction; 0 if it is neither."""
        if self.type_code != RATIONAL or len(self.value) < 8:
            return float(self.integer(order))
        numerator, denominator = struct.unpack_from(f"{order}II", self.value)
        return numerator / denominator if denominator else 0.0

    def any_number(self, order: ByteOrder) -> float:
        """The first item, of any type of number but floating point; 0 if it is none."""
        form = _SIGNED_FORMATS.get(self.type_code)
        if form and len(self.value) >= _ITEM_SIZES[self.type_code]:
            return float(struct.unpack_from(order + form, self.value)[0])
        return self.number(order)

    def with_number(self, order: ByteOrder, number: int) -> bytes:
        """The value with another first item, of the same type; unchanged if the type is none of `any_number`."""
        form = (_INTEGER_FORMATS | _SIGNED_FORMATS).get(self.type_code)
        if self.type_code == RATIONAL:
            first = struct.pack(f"{order}II", number, 1)
        else:
            first = struct.pack(order + form, number) if form else b""
        return first + self.value[len(first) :] if len(first) <= len(self.value) else self.value

    def integers(self, order: ByteOrder) -> tuple[int, ...]:
        """All items; none if they are no unsigned integers."""
        form = _INTEGER_FORMATS.get(self.type_code)
        return struct.unpack(f"{order}{self.length}{form}", self.value) if form else ()


def byte_order(data: bytes) -> ByteOrder:
    """The byte order of a TIFF file or an EXIF block, as `struct` writes it."""
    return ">" if data[:2] == b"MM" else "<"


def is_bigtiff(data: bytes) -> bool:
    """Whether the offsets in this TIFF file have 8 bytes."""
    return data[2:4] in (b"+\0", b"\0+")


def first_ifd_offset(data: bytes) -> int:
    """The offset of the first IFD of an EXIF block or TIFF file, but not BigTIFF. Raises BrokenMetadata."""
    if len(data) < 8 or data[:4] not in (b"II*\0", b"MM\0*"):
        raise BrokenMetadata("EXIF does not begin with a TIFF header.")
    return int(struct.unpack_from(f"{byte_order(data)}I", data, 4)[0])


def read_ifd(
    data: bytes, offset: int, big: bool = False, layout_tags: Set[int] = frozenset()
) -> dict[int, Entry]:
    """The entries by tag, without those that cannot be read. Raises BrokenMetadata.

    big: BigTIFF. layout_tags: those of LAYOUT_TAGS that are read however long they are.
    """
    order = byte_order(data)
    head, entry, width = (f"{order}Q", f"{order}HHQ", 8) if big else (f"{order}H", f"{order}HHI", 4)
    try:
        (entries,) = struct.unpack_from(head, data, offset)
        if entries > MAX_ENTRIES:
            raise MetadataTooLarge(f"EXIF or TIFF metadata has {entries} entries; the limit is {MAX_ENTRIES}.")
        found: dict[int, Entry] = {}
        left = MAX_BYTES
        for number in range(entries):
            at = offset + struct.calcsize(head) + number * (struct.calcsize(entry) + width)
            tag, type_code, length = struct.unpack_from(entry, data, at)
            at += struct.calcsize(entry)
            size = _ITEM_SIZES.get(type_code, 0) * length
            if size > width:
                (at,) = struct.unpack_from(order + ("Q" if big else "I"), data, at)
            needed = tag not in LAYOUT_TAGS or tag in _READ_LAYOUT_TAGS | layout_tags or size <= 8
            if needed and type_code in _ITEM_SIZES and at + size <= len(data):
                # Many entries can point to the same bytes.
                left -= size
                if left < 0:
                    raise MetadataTooLarge(f"EXIF or TIFF metadata has more than {MAX_BYTES} bytes, the limit.")
                found[tag] = Entry(tag, type_code, length, data[at : at + size], at)
    except struct.error as error:
        raise BrokenMetadata("An IFD ends beyond the end of the file.") from error
    return found


def entries_of(data: bytes, offset: int, tag: int) -> Iterator[Entry]:
    """All entries with that tag; a broken IFD has more than one. The IFD, not of a BigTIFF, can be read."""
    order = byte_order(data)
    (count,) = struct.unpack_from(f"{order}H", data, offset)
    for number in range(count):
        at = offset + 2 + 12 * number
        found, type_code, length = struct.unpack_from(f"{order}HHI", data, at)
        size = _ITEM_SIZES.get(type_code, 0) * length
        start = at + 8 if size <= 4 else struct.unpack_from(f"{order}I", data, at + 8)[0]
        if found == tag and start + size <= len(data):
            yield Entry(tag, type_code, length, data[start : start + size], start)


def next_ifd_offset(data: bytes, offset: int, big: bool = False) -> int:
    """The offset of the IFD that follows the one at `offset`; 0 if there is none. Raises BrokenMetadata."""
    order = byte_order(data)
    head, entry_bytes, pointer = (f"{order}Q", 20, "Q") if big else (f"{order}H", 12, "I")
    try:
        (entries,) = struct.unpack_from(head, data, offset)
        at = offset + struct.calcsize(head) + entries * entry_bytes
        return int(struct.unpack_from(order + pointer, data, at)[0])
    except struct.error as error:
        raise BrokenMetadata("An IFD ends beyond the end of the file.") from error


def read_sub_ifds(data: bytes, ifd: Mapping[int, Entry]) -> dict[int, dict[int, Entry]]:
    """The IFDs that an IFD and its EXIF IFD point to, by tag, without those that cannot be read."""
    found: dict[int, dict[int, Entry]] = {}
    for tag in SUB_IFDS:
        pointer = ifd.get(tag) or found.get(EXIF_IFD, {}).get(tag)
        try:
            if pointer:
                found[tag] = read_ifd(data, pointer.integer(byte_order(data)), is_bigtiff(data))
        except MetadataTooLarge:
            raise
        except BrokenMetadata:
            continue
    return found


def pack_header(order: ByteOrder) -> bytes:
    """The header of a TIFF file whose first IFD follows at once."""
    return (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)


def pack_ifd(
    order: ByteOrder, ifd: Mapping[int, Entry], sub_ifds: Mapping[int, Mapping[int, Entry]], offset: int
) -> bytes:
    """The bytes of an IFD, followed by its values and its sub-IFDs. offset: where in the file it will lie."""
    entries = sorted(each for tag, each in ifd.items() if each.type_code < _FIRST_BIGTIFF_TYPE or tag in sub_ifds)
    table, behind = struct.pack(f"{order}H", len(entries)), b""
    end = offset + 2 + 12 * len(entries) + 4
    for each in entries:
        type_code, length, value = each.type_code, each.length, each.value
        if each.tag in sub_ifds:
            behind += b"\0" * (len(behind) % 2)
            at = end + len(behind)
            behind += pack_ifd(order, sub_ifds[each.tag], interop_only(sub_ifds), at)
            type_code, length, value = LONG, 1, struct.pack(f"{order}I", at)
        elif len(value) > 4:
            behind += b"\0" * (len(behind) % 2)
            at = end + len(behind)
            behind += value
            value = struct.pack(f"{order}I", at)
        table += struct.pack(f"{order}HHI", each.tag, type_code, length) + value.ljust(4, b"\0")
    return table + bytes(4) + behind


def interop_only(sub_ifds: Mapping[int, Mapping[int, Entry]]) -> dict[int, Mapping[int, Entry]]:
    """The one IFD that lies within another sub-IFD."""
    return {tag: ifd for tag, ifd in sub_ifds.items() if tag == INTEROP_IFD}
