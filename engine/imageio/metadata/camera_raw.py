"""Camera raw files that are built like TIFF: their recognition, cut data, noise profile and EXIF.

Sources: Adobe, "Digital Negative (DNG) Specification 1.7.1", 2023; ISO 12234-2:2001, "TIFF/EP".
"""

import math
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from fractions import Fraction
from io import BytesIO

from engine.imageio.metadata.ifd import (
    EXIF_IFD,
    GPS_IFD,
    INTEROP_IFD,
    LONG,
    ORIENTATION,
    RATIONAL,
    SHORT,
    SUB_IFDS,
    ByteOrder,
    Entry,
    byte_order,
    first_ifd_offset,
    is_bigtiff,
    next_ifd_offset,
    pack_header,
    pack_ifd,
    read_ifd,
    read_sub_ifds,
)
from engine.imageio.metadata.isobmff import boxes
from engine.imageio.metadata.limits import BrokenMetadata

# Noise of a colour: its variance is scale * x + offset, for signals x from black (0) to white (1).
NoiseProfile = tuple[tuple[float, float], ...]

# Tags.
_SUBFILE_TYPE = 0x00FE
_WIDTH = 0x0100
_HEIGHT = 0x0101
_PHOTOMETRIC = 0x0106
_STRIP_OFFSETS = 0x0111
_STRIP_BYTES = 0x0117
_FURTHER_IFDS = 0x014A
_TILE_OFFSETS = 0x0144
_TILE_BYTES = 0x0145
_DATE = 0x0132
_ARTIST = 0x013B
_EXPOSURE_TIME = 0x829A
_F_NUMBER = 0x829D
_ISO = 0x8827
_DATE_TAKEN = 0x9003
_FOCAL_LENGTH = 0x920A
_MAKER_NOTE = 0x927C
_LENS_MODEL = 0xA434
_DNG_VERSION = 0xC612
_NOISE_PROFILE = 0xC761
_READ_TAGS = frozenset({_STRIP_OFFSETS, _STRIP_BYTES, _FURTHER_IFDS, _TILE_OFFSETS, _TILE_BYTES})
# Tags that the developed image keeps: what describes the photograph, but neither the raw data nor their colours.
# They are description, maker, model, orientation, software, date, artist, copyright, and TIFF/EP's exposure.
_KEPT_TAGS = frozenset(
    {0x010E, 0x010F, 0x0110, ORIENTATION, 0x0131, _DATE, _ARTIST, 0x8298, _EXPOSURE_TIME, _F_NUMBER, 0x8822, _ISO}
    | {_DATE_TAKEN, 0x9209, _FOCAL_LENGTH, EXIF_IFD, GPS_IFD}
)

# Values of tags.
_PREVIEW = 1  # NewSubfileType, bit
_RAW_PHOTOMETRICS = (32803, 34892)  # PhotometricInterpretation: a colour filter array, linear raw
# Types of values.
_ASCII = 2
_DOUBLE = 12
_DOUBLE_BYTES = 8

# First bytes of files that hold IFDs: TIFF and BigTIFF, then Olympus and Panasonic.
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_IFD_FILES = (*_TIFF, b"IIRO", b"IIRS", b"MMOR", b"IIU\0")
_RAF = b"FUJIFILMCCD-RAW"
_CR3 = b"ftypcrx "
_CANON_UUID = bytes.fromhex("85c0b687820f11e08111f4ce462b6a48")
# Canon's boxes that hold the EXIF and GPS IFDs, each as the first IFD of a block.
_CANON_BOXES = {EXIF_IFD: b"CMT2", GPS_IFD: b"CMT4"}
# Where a RAF file has the offset and size of its JPEG preview.
_RAF_PREVIEW = 84
# IFDs that are looked at: in the chain, and beneath each of it. Cameras write up to 4 and 5.
_MAX_IFDS = 8
# The largest share of the raw bytes that may lie beyond the end of the file. Some cameras round the size up.
_MAX_MISSING = 0.01
# Raw data that are said to have more bytes a pixel: a size that is no size.
_MAX_PIXEL_BYTES = 16


def is_camera_raw(data: bytes) -> bool:
    """Whether a file that begins like TIFF is a camera's raw file. Never raises.

    It is one if an IFD holds raw data, or if its first IFD is a preview whose image lies in another IFD: it says
    so, or an IFD beneath it has more pixels.
    """
    for number, ifd in enumerate(_ifds(data)):
        if _is_raw_image(data, ifd):
            return True
        if number == 0 and ifd.keys() & {_FURTHER_IFDS, _DNG_VERSION}:
            if _integer(data, ifd, _SUBFILE_TYPE) & _PREVIEW:
                return True
            if any(_pixels(data, each) > _pixels(data, ifd) for each in _beneath(data, ifd)):
                return True
    return False


def is_dng(data: bytes) -> bool:
    """Whether the file is a DNG."""
    return _DNG_VERSION in next(_ifds(data), {})


def is_cut_short(data: bytes) -> bool:
    """Whether raw data lie beyond the end of a file that begins like TIFF. LibRaw reads some of them as black."""
    if not data.startswith(_TIFF):
        return False
    for ifd in _ifds(data):
        if _is_raw_image(data, ifd):
            segments = list(_segments(data, ifd))
            size = sum(size for _, size in segments)
            missing = sum(min(size, max(0, start + size - len(data))) for start, size in segments)
            pixels = _pixels(data, ifd)
            if _MAX_MISSING * size < missing and size <= _MAX_PIXEL_BYTES * pixels:
                return True
    return False


def read_noise_profile(data: bytes) -> NoiseProfile | None:
    """The noise of each colour as a DNG states it: one pair for all colours, or one for each."""
    for ifd in _ifds(data):
        entry = ifd.get(_NOISE_PROFILE)
        if entry and entry.type_code == _DOUBLE and entry.length and entry.length % 2 == 0:
            values = struct.unpack(f"{byte_order(data)}{entry.length}d", entry.value)
            if all(math.isfinite(value) and value >= 0 for value in values):
                return tuple(zip(values[::2], values[1::2], strict=True))
    return None


def read_raw_exif(data: bytes) -> bytes | None:
    """The EXIF block of a raw file, without maker notes: their offsets hold in the raw file only. Or None."""
    try:
        if data[4:].startswith(_CR3):
            return _cr3_exif(data)
        if data.startswith(_RAF):
            preview = _raf_exif(data)
            return _photograph_exif(preview) if preview else None
        return _photograph_exif(data) if data.startswith(_IFD_FILES) else None
    except (BrokenMetadata, struct.error):
        return None


def new_raw_exif(
    exposure: float,
    aperture: float,
    iso: float,
    focal_length: float,
    taken: datetime | None,
    artist: str,
    lens: str,
) -> bytes | None:
    """An EXIF block of what a decoder knows about a raw file; None if that is nothing.

    exposure: in seconds. focal_length: in millimetres. Numbers that are 0 and texts that are empty are left out.
    """
    date = _text(taken.strftime("%Y:%m:%d %H:%M:%S")) if taken else None
    first = {_DATE: date, _ARTIST: _text(artist)}
    photograph = {
        _EXPOSURE_TIME: _fraction(exposure),
        _F_NUMBER: _fraction(aperture),
        _ISO: (SHORT, 1, struct.pack("<H", round(iso))) if 1 <= iso < 2**16 else None,
        _DATE_TAKEN: date,
        _FOCAL_LENGTH: _fraction(focal_length),
        _LENS_MODEL: _text(lens),
    }
    ifd, exif_ifd = (
        {tag: Entry(tag, *value, 0) for tag, value in tags.items() if value} for tags in (first, photograph)
    )
    sub_ifds = {EXIF_IFD: exif_ifd} if exif_ifd else {}
    pointers = {tag: Entry(tag, LONG, 1, bytes(4), 0) for tag in sub_ifds}
    return pack_header("<") + pack_ifd("<", ifd | pointers, sub_ifds, 8) if ifd or exif_ifd else None


def _text(text: str) -> tuple[int, int, bytes] | None:
    value = text.encode("utf-8", "replace").strip(b"\0 ") + b"\0"
    return (_ASCII, len(value), value) if len(value) > 1 else None


def _fraction(value: float) -> tuple[int, int, bytes] | None:
    if not 0 < value < 1e6:
        return None
    near = Fraction(value).limit_denominator(1000) or Fraction(value).limit_denominator(10**6)
    return RATIONAL, 1, struct.pack("<II", *near.as_integer_ratio())


def _ifds(data: bytes) -> Iterator[Mapping[int, Entry]]:
    """The first IFDs of a file, each followed by those beneath it, as far as they can be read."""
    with suppress(BrokenMetadata, struct.error):
        order, big = byte_order(data), is_bigtiff(data)
        (offset,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
        for _ in range(_MAX_IFDS):
            if not offset:
                return
            ifd = read_ifd(data, offset, big, _READ_TAGS)
            yield ifd
            yield from _beneath(data, ifd)
            offset = next_ifd_offset(data, offset, big)


def _beneath(data: bytes, ifd: Mapping[int, Entry]) -> Iterator[Mapping[int, Entry]]:
    """The IFDs that an IFD points to, as far as they can be read."""
    further = ifd[_FURTHER_IFDS].integers(byte_order(data)) if _FURTHER_IFDS in ifd else ()
    for offset in further[:_MAX_IFDS]:
        with suppress(BrokenMetadata):
            yield read_ifd(data, offset, is_bigtiff(data), _READ_TAGS)


def _integer(data: bytes, ifd: Mapping[int, Entry], tag: int) -> int:
    return ifd[tag].integer(byte_order(data)) if tag in ifd else 0


def _pixels(data: bytes, ifd: Mapping[int, Entry]) -> int:
    return _integer(data, ifd, _WIDTH) * _integer(data, ifd, _HEIGHT)


def _segments(data: bytes, ifd: Mapping[int, Entry]) -> Iterator[tuple[int, int]]:
    """The offset and size of each strip or tile."""
    order = byte_order(data)
    for starts, sizes in ((_STRIP_OFFSETS, _STRIP_BYTES), (_TILE_OFFSETS, _TILE_BYTES)):
        if starts in ifd and sizes in ifd:
            yield from zip(ifd[starts].integers(order), ifd[sizes].integers(order), strict=False)


def _is_raw_image(data: bytes, ifd: Mapping[int, Entry]) -> bool:
    return _integer(data, ifd, _PHOTOMETRIC) in _RAW_PHOTOMETRICS


def _photograph_exif(data: bytes) -> bytes | None:
    """data: a raw file that holds IFDs, or an EXIF block."""
    first = next(_ifds(data), {})
    kept = {tag: entry for tag, entry in first.items() if tag in _KEPT_TAGS}
    return _pack_photograph(byte_order(data), kept, read_sub_ifds(data, kept))


def _cr3_exif(data: bytes) -> bytes | None:
    """The EXIF block of a CR3 file, whose IFDs are blocks of their own."""
    movie = next((body for kind, body in boxes(data) if kind == b"moov"), b"")
    canon = next((body for kind, body in boxes(movie) if kind == b"uuid" and body.startswith(_CANON_UUID)), b"")
    blocks = dict(boxes(canon[len(_CANON_UUID) :]))
    first = blocks.get(b"CMT1", b"")
    sub_ifds = {
        tag: read_ifd(blocks[name], first_ifd_offset(blocks[name]))
        for tag, name in _CANON_BOXES.items()
        if name in blocks and blocks[name][:2] == first[:2]
    }
    kept = {tag: entry for tag, entry in next(_ifds(first), {}).items() if tag in _KEPT_TAGS}
    return _pack_photograph(byte_order(first), kept, sub_ifds)


def _pack_photograph(
    order: ByteOrder, ifd: Mapping[int, Entry], sub_ifds: dict[int, dict[int, Entry]]
) -> bytes | None:
    """A block of the tags, and of the EXIF and GPS IFDs without maker notes; None if that says nothing."""
    sub_ifds.get(EXIF_IFD, {}).pop(_MAKER_NOTE, None)
    if EXIF_IFD in sub_ifds and INTEROP_IFD not in sub_ifds:
        sub_ifds[EXIF_IFD].pop(INTEROP_IFD, None)
    kept = {tag: entry for tag, entry in ifd.items() if tag not in SUB_IFDS}
    pointers = {tag: Entry(tag, LONG, 1, bytes(4), 0) for tag in sub_ifds if tag != INTEROP_IFD}
    if not (kept | pointers).keys() - {ORIENTATION}:
        return None
    return pack_header(order) + pack_ifd(order, kept | pointers, sub_ifds, 8)


def _raf_exif(data: bytes) -> bytes | None:
    """The EXIF block of the preview in a RAF file."""
    from PIL import Image

    offset, size = struct.unpack_from(">II", data, _RAF_PREVIEW)
    try:
        with Image.open(BytesIO(data[offset : offset + size]), formats=["JPEG"]) as preview:
            exif = preview.info.get("exif", b"")
    # A broken preview leaves the raw data readable.
    except Exception:
        return None
    return bytes(exif).removeprefix(b"Exif\0\0") or None
