"""Camera raw files that are built like TIFF: their recognition, cut data, noise profile and EXIF.

Sources: Adobe, "Digital Negative (DNG) Specification 1.7.1", 2023; ISO 12234-2:2001, "TIFF/EP".
"""

import math
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from fractions import Fraction
from io import BytesIO

from engine.imageio.metadata.ifd import (
    EXIF_IFD,
    GPS_IFD,
    INTEROP_IFD,
    ORIENTATION,
    RATIONAL,
    SHORT,
    SUB_IFDS,
    ByteOrder,
    Entry,
    byte_order,
    is_bigtiff,
    next_ifd_offset,
    pack_header,
    pack_ifd,
    read_ifd,
    read_sub_ifds,
)
from engine.imageio.metadata.limits import BrokenMetadata

# Noise of a colour: its variance is scale * x + offset, for signals x from black (0) to white (1).
NoiseProfile = tuple[tuple[float, float], ...]

# Tags.
_SUBFILE_TYPE = 0x00FE
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

# First bytes of files that hold IFDs: TIFF, BigTIFF, Olympus, Panasonic.
_IFD_FILES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"IIRO", b"IIRS", b"MMOR", b"IIU\0")
_RAF = b"FUJIFILMCCD-RAW"
# Where a RAF file has the offset and size of its JPEG preview.
_RAF_PREVIEW = 84
# IFDs that are looked at: in the chain, and beneath each of it. Cameras write up to 4 and 5.
_MAX_IFDS = 8
# The largest share of the raw bytes that may lie beyond the end of the file. Some cameras round the size up.
_MAX_MISSING = 0.01


def is_camera_raw(data: bytes) -> bool:
    """Whether a file that begins like TIFF is a camera's raw file. Never raises.

    It is one if an IFD holds raw data, or if its first IFD is a preview whose image lies in another IFD.
    """
    for number, ifd in enumerate(_ifds(data)):
        if _is_raw_image(data, ifd):
            return True
        if (
            number == 0
            and _integer(data, ifd, _SUBFILE_TYPE) & _PREVIEW
            and ifd.keys() & {_FURTHER_IFDS, _DNG_VERSION}
        ):
            return True
    return False


def is_dng(data: bytes) -> bool:
    """Whether the file is a DNG."""
    return _DNG_VERSION in next(_ifds(data), {})


def is_cut_short(data: bytes) -> bool:
    """Whether raw data lie beyond the end of the file. LibRaw reads some of these files as black."""
    order = byte_order(data)
    for ifd in _ifds(data):
        if not _is_raw_image(data, ifd):
            continue
        for starts, sizes in ((_STRIP_OFFSETS, _STRIP_BYTES), (_TILE_OFFSETS, _TILE_BYTES)):
            if starts in ifd and sizes in ifd:
                segments = list(zip(ifd[starts].integers(order), ifd[sizes].integers(order), strict=False))
                missing = sum(min(size, max(0, start + size - len(data))) for start, size in segments)
                if missing > _MAX_MISSING * sum(size for _, size in segments):
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
    pointers = {tag: Entry(tag, 4, 1, bytes(4), 0) for tag in sub_ifds}
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
            further = ifd[_FURTHER_IFDS].integers(order) if _FURTHER_IFDS in ifd else ()
            yield from _readable_ifds(data, further[:_MAX_IFDS])
            offset = next_ifd_offset(data, offset, big)


def _readable_ifds(data: bytes, offsets: Iterable[int]) -> Iterator[Mapping[int, Entry]]:
    for offset in offsets:
        with suppress(BrokenMetadata):
            yield read_ifd(data, offset, is_bigtiff(data), _READ_TAGS)


def _integer(data: bytes, ifd: Mapping[int, Entry], tag: int) -> int:
    return ifd[tag].integer(byte_order(data)) if tag in ifd else 0


def _is_raw_image(data: bytes, ifd: Mapping[int, Entry]) -> bool:
    return _integer(data, ifd, _PHOTOMETRIC) in _RAW_PHOTOMETRICS


def _photograph_exif(data: bytes) -> bytes | None:
    """data: a raw file that holds IFDs, or an EXIF block."""
    order: ByteOrder = byte_order(data)
    first = next(_ifds(data), {})
    kept = {tag: entry for tag, entry in first.items() if tag in _KEPT_TAGS}
    sub_ifds = read_sub_ifds(data, kept)
    sub_ifds.get(EXIF_IFD, {}).pop(_MAKER_NOTE, None)
    kept = {tag: entry for tag, entry in kept.items() if tag not in SUB_IFDS or tag in sub_ifds}
    if not kept.keys() - {ORIENTATION}:
        return None
    if EXIF_IFD in sub_ifds and INTEROP_IFD not in sub_ifds:
        sub_ifds[EXIF_IFD].pop(INTEROP_IFD, None)
    return pack_header(order) + pack_ifd(order, kept, sub_ifds, 8)


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
