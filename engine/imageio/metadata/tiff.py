"""Metadata in TIFF files: the tags of a page and the IFDs that they point to."""

import struct
from dataclasses import replace

from engine.imageio.metadata.description import (
    DESCRIPTION,
    IMAGEJ_COUNTS,
    IMAGEJ_METADATA,
    is_stack_description,
)
from engine.imageio.metadata.exif import exif_from_ifd, ifd_resolution
from engine.imageio.metadata.ifd import (
    BYTE,
    EXIF_IFD,
    GPS_IFD,
    ICC_PROFILE,
    LAYOUT_TAGS,
    LONG,
    RESOLUTION_UNIT,
    SUB_IFDS,
    X_RESOLUTION,
    XMP,
    Y_RESOLUTION,
    ByteOrder,
    Entry,
    byte_order,
    first_ifd_offset,
    interop_only,
    is_bigtiff,
    pack_ifd,
    read_ifd,
    read_sub_ifds,
)
from engine.imageio.metadata.limits import BrokenMetadata, MetadataTooLarge
from engine.imageio.metadata.record import Metadata

# Tags of the first page that hold for all pages, if its description is one of the whole stack.
_STACK_TAGS = (DESCRIPTION, IMAGEJ_COUNTS, IMAGEJ_METADATA, X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT)
# Longer descriptions, in bytes, are not copied to each page.
_MAX_SHARED_DESCRIPTION = 2**18
# Tags of programs that describe how the file itself is laid out, so that they hold in no other file.
_FILES_OWN_TAGS = {
    33628: "MetaMorph's description",
    33629: "MetaMorph's description of planes",
    33630: "MetaMorph's description of wavelengths",
    33631: "MetaMorph's further description",
    34361: "FluoView's description",
    34412: "the LSM description",
    43314: "NIH Image's description",
}
# tifffile writes these tags only by name.
_TIFFFILE_NAMES = {EXIF_IFD: "ExifTag", GPS_IFD: "GPSTag"}


def read_tiff_metadata(data: bytes, offset: int, first: int | None = None) -> Metadata:
    """The metadata of the page whose IFD lies at `offset`, its tags as an EXIF block. Raises BrokenMetadata.

    first: where the first page's IFD lies. A description of the whole stack that stands there is read for each
        page.
    """
    page = read_ifd(data, offset, is_bigtiff(data))
    if first is not None and first != offset:
        page = _stack_tags(data, first) | page
    icc, xmp = (page[tag].value if tag in page else None for tag in (ICC_PROFILE, XMP))
    resolution = ifd_resolution(byte_order(data), page)
    lost = tuple(words for tag, words in _FILES_OWN_TAGS.items() if tag in page)
    page = {tag: entry for tag, entry in page.items() if tag not in _FILES_OWN_TAGS}
    found = Metadata(icc_profile=icc or None, xmp=xmp or None, resolution=resolution, lost=lost)
    try:
        return replace(found, exif=exif_from_ifd(data, page))
    except MetadataTooLarge:
        raise
    except BrokenMetadata:
        return replace(found, lost=(*lost, "unreadable EXIF"))


def read_tiff_description(data: bytes, offset: int) -> bytes:
    """The image description of the page whose IFD lies at `offset`, or nothing. Raises BrokenMetadata."""
    entry = read_ifd(data, offset, is_bigtiff(data)).get(DESCRIPTION)
    return entry.value if entry else b""


def _stack_tags(data: bytes, first: int) -> dict[int, Entry]:
    """The first page's tags that hold for all pages of a stack."""
    page = read_ifd(data, first, is_bigtiff(data))
    text = page.get(DESCRIPTION)
    if not text or len(text.value) > _MAX_SHARED_DESCRIPTION or not is_stack_description(text.value):
        return {}
    return {tag: entry for tag, entry in page.items() if tag in _STACK_TAGS}


def tiff_byte_order(metadata: Metadata) -> ByteOrder:
    """The byte order of a TIFF file that is to hold the metadata's EXIF block."""
    return byte_order(metadata.exif or b"II")


def tifffile_tags(metadata: Metadata, exif_ifds: bool = True) -> list[tuple[int | str, int, int, bytes, bool]]:
    """tifffile's `extratags`: (tag, type, length, value, first page only).

    exif_ifds: with the EXIF and GPS IFDs. Their offsets are 0 until `tiff_exif_edits` sets them.
    """
    tags: list[tuple[int | str, int, int, bytes, bool]] = []
    if metadata.xmp:
        tags.append((XMP, BYTE, len(metadata.xmp), metadata.xmp, True))
    if metadata.exif:
        ifd = read_ifd(metadata.exif, first_ifd_offset(metadata.exif))
        sub_ifds = read_sub_ifds(metadata.exif, ifd)
        for tag, each in sorted(ifd.items()):
            if tag in SUB_IFDS:
                if exif_ifds and tag in sub_ifds and tag in _TIFFFILE_NAMES:
                    tags.append((_TIFFFILE_NAMES[tag], LONG, 1, bytes(4), True))
            elif tag not in LAYOUT_TAGS:
                tags.append((tag, each.type_code, each.length, each.value, True))
    return tags


def has_exif_ifds(metadata: Metadata) -> bool:
    """Whether the metadata have an EXIF or GPS IFD, which `tiff_exif_edits` writes."""
    if not metadata.exif:
        return False
    ifd = read_ifd(metadata.exif, first_ifd_offset(metadata.exif))
    return any(tag in ifd for tag in _TIFFFILE_NAMES)


def tiff_exif_edits(tiff: bytes, metadata: Metadata) -> list[tuple[int, bytes]]:
    """Offsets and bytes that give a file its EXIF and GPS IFDs, at its end, and the tags that point to them."""
    if not metadata.exif:
        return []
    exif, order, end = metadata.exif, byte_order(tiff), len(tiff)
    page = read_ifd(tiff, first_ifd_offset(tiff))
    sub_ifds = read_sub_ifds(exif, read_ifd(exif, first_ifd_offset(exif)))
    edits = []
    for tag in (EXIF_IFD, GPS_IFD):
        if tag in sub_ifds and tag in page:
            start = end + end % 2
            packed = pack_ifd(order, sub_ifds[tag], interop_only(sub_ifds), start)
            edits += [(page[tag].offset, struct.pack(f"{order}I", start)), (end, b"\0" * (end % 2) + packed)]
            end = start + len(packed)
    return edits
