"""PNG chunks, and the metadata in them.

Source: W3C, "Portable Network Graphics (PNG) Specification", 3rd edition, 2025, sections 5 and 11.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace

from engine.imageio.metadata.limits import MAX_BYTES, MetadataTooLarge, inflate, plausible_resolution
from engine.imageio.metadata.record import Metadata

_SIGNATURE_SIZE = 8  # bytes
_IHDR_SIZE = 12 + 13  # bytes, with length, kind and checksum
_METRES_PER_INCH = 0.0254
# Unit of a pHYs chunk.
_METRE = 1
# Keywords of EXIF in chunks of text.
_RAW_PROFILES = (b"Raw profile type exif", b"Raw profile type APP1")
_XMP_KEYWORD = b"XML:com.adobe.xmp\0"


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """A whole chunk: length, kind, body and checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """The kind, the body and the bytes of each whole chunk of a file."""
    at = _SIGNATURE_SIZE
    while at + 12 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        if at + 12 + size > len(data):
            return
        yield kind, data[at + 8 : at + 8 + size], data[at : at + 12 + size]
        if kind == b"IEND":
            return
        at += 12 + size


def png_without_metadata(data: bytes) -> bytes:
    """The same image with only the chunks that decoding needs, so that no other chunk can break a codec."""
    needed = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
    return data[:_SIGNATURE_SIZE] + b"".join(whole for kind, _, whole in png_chunks(data) if kind in needed)


def read_png_metadata(data: bytes) -> Metadata:
    """The metadata in a PNG file. Raises BrokenMetadata."""
    found = Metadata()
    for kind, body, whole in png_chunks(data):
        match kind:
            case b"iCCP":
                profile = inflate(body[body.find(b"\0") + 2 :], "The colour profile")
                found = replace(found, icc_profile=profile)
            case b"eXIf":
                found = replace(found, exif=body.removeprefix(b"Exif\0\0"))
            case b"pHYs" if len(body) == 9 and body[8] == _METRE:
                x, y = struct.unpack(">II", body[:8])
                resolution = plausible_resolution(x * _METRES_PER_INCH, y * _METRES_PER_INCH)
                found = replace(found, resolution=resolution)
            case b"iTXt" if body.startswith(_XMP_KEYWORD):
                found = replace(found, xmp=_international_text(body))
            case b"tEXt" | b"zTXt" if exif := _raw_profile(kind, body):
                found = replace(found, exif=found.exif or exif)
            case b"gAMA" | b"cHRM" | b"sRGB" | b"cICP" | b"tEXt" | b"zTXt" | b"iTXt":
                found = replace(found, chunks=found.chunks + whole)
        if len(found.chunks) > MAX_BYTES:
            raise MetadataTooLarge(f"The text chunks have more than {MAX_BYTES} bytes, the limit.")
    return found


def _raw_profile(kind: bytes, body: bytes) -> bytes | None:
    """The EXIF block in a chunk of text, as programs wrote it before PNG had a chunk for it; None if it is none.

    The text is a name, the number of bytes, and the bytes as hexadecimal digits.
    """
    keyword, _, text = body.partition(b"\0")
    if keyword not in _RAW_PROFILES:
        return None
    try:
        plain = inflate(text[1:], "EXIF") if kind == b"zTXt" else text
        block = bytes.fromhex("".join(plain.decode("ascii").split()[2:]))
    except MetadataTooLarge:
        raise
    except ValueError:
        return None
    return block.removeprefix(b"Exif\0\0") if block.startswith((b"Exif\0\0", b"II", b"MM")) else None


def _international_text(body: bytes) -> bytes:
    """The text of an XMP iTXt chunk."""
    is_compressed = body[len(_XMP_KEYWORD) : len(_XMP_KEYWORD) + 1] == b"\1"
    # A language and a translated keyword come before the text.
    text = body[len(_XMP_KEYWORD) + 2 :].split(b"\0", 2)[-1]
    return inflate(text, "XMP") if is_compressed else text


def add_png_metadata(png: bytes, metadata: Metadata) -> bytes:
    """The file with the metadata after its header chunk."""
    chunks = b""
    if metadata.icc_profile:
        chunks += png_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(metadata.icc_profile))
    if metadata.resolution:
        x, y = (round(n / _METRES_PER_INCH) for n in metadata.resolution)
        chunks += png_chunk(b"pHYs", struct.pack(">IIB", x, y, _METRE))
    if metadata.exif:
        chunks += png_chunk(b"eXIf", metadata.exif)
    if metadata.xmp:
        chunks += png_chunk(b"iTXt", _XMP_KEYWORD + bytes(4) + metadata.xmp)
    chunks = metadata.chunks + chunks
    header = _SIGNATURE_SIZE + _IHDR_SIZE
    # Without metadata the file, which may be large, is not copied.
    return png[:header] + chunks + png[header:] if chunks else png
