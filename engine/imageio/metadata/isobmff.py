"""Boxes of ISO base media files, and the metadata in them. JPEG 2000 and JPEG XL files consist of such boxes.

Sources: ISO/IEC 15444-1:2019, annex I; ISO/IEC 18181-2:2024.
"""

import struct
from collections.abc import Iterator
from dataclasses import replace

from engine.imageio.metadata.cicp import ColourCode
from engine.imageio.metadata.exif import exif_resolution
from engine.imageio.metadata.limits import BrokenMetadata
from engine.imageio.metadata.record import Metadata

# Boxes of the compressed image.
_CODESTREAMS = (b"jp2c", b"jxlc", b"jxlp")
# Bytes of a codestream that are enough for its header.
_CODESTREAM_HEADER = 1024
_JP2_HEADER = b"jp2h"
_XMP_UUID = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
# Methods of a colr box that hold a profile.
_ICC_METHODS = (b"\2", b"\3")
# The method that names a colour space by the numbers of its primaries and its transfer function.
_CODE_METHOD = b"\5"


def boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The kind and content of each box, and of those within JPEG 2000's header box. Raises BrokenMetadata.

    Of a codestream the content is only its beginning.
    """
    at = 0
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        start = at + 8
        if size == 1 and at + 16 <= len(data):
            size, start = struct.unpack_from(">Q", data, at + 8)[0], at + 16
        end = at + size if size else len(data)
        if not start <= end <= len(data):
            raise BrokenMetadata(f"The box {kind.decode('latin-1')!r} ends beyond the end of the file.")
        yield kind, data[start : min(end, start + _CODESTREAM_HEADER) if kind in _CODESTREAMS else end]
        if kind == _JP2_HEADER:
            yield from boxes(data[start:end])
        at = end


def read_box_metadata(data: bytes) -> Metadata:
    """The metadata in the boxes of a JPEG XL or JPEG 2000 file. Raises BrokenMetadata."""
    found = Metadata()
    for kind, body in boxes(data):
        match kind:
            case b"Exif" if len(body) > 12:
                found = replace(found, exif=body[4:].removeprefix(b"Exif\0\0"))
            case b"xml " if b"x:xmpmeta" in body:
                found = replace(found, xmp=body)
            case b"uuid" if body.startswith(_XMP_UUID):
                found = replace(found, xmp=body[len(_XMP_UUID) :])
            case b"brob":
                found = replace(found, lost=("Brotli-compressed metadata",))
            case b"colr" if body[:1] in _ICC_METHODS:
                found = replace(found, icc_profile=body[3:])
            case b"colr" if body[:1] == _CODE_METHOD and len(body) >= 7:
                found = replace(found, colour_code=ColourCode(*struct.unpack_from(">HH", body, 3)))
    if found.exif:
        found = replace(found, resolution=exif_resolution(found.exif))
    return found
