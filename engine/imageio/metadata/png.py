"""PNG chunks, and the metadata in them.

Source: W3C, "Portable Network Graphics (PNG) Specification", 3rd edition, 2025, sections 5 and 11.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace

from engine.imageio.metadata.cicp import ColourCode
from engine.imageio.metadata.icc import Primaries
from engine.imageio.metadata.limits import (
    MAX_BYTES,
    MAX_RESOLUTION,
    BrokenMetadata,
    MetadataTooLarge,
    inflate,
    plausible_resolution,
)
from engine.imageio.metadata.record import Metadata

_SIGNATURE_SIZE = 8  # bytes
_IHDR_SIZE = 12 + 13  # bytes, with length, kind and checksum
_METRES_PER_INCH = 0.0254
# Unit of a pHYs chunk.
_METRE = 1
# Keywords of EXIF in chunks of text.
_RAW_PROFILES = (b"Raw profile type exif", b"Raw profile type APP1")
_XMP_KEYWORD = b"XML:com.adobe.xmp\0"
_ANIMATION = frozenset((b"acTL", b"fcTL", b"fdAT"))
# Chunks that decoding needs in any state.
_NEEDED = _ANIMATION | {b"IHDR", b"PLTE", b"IDAT", b"IEND"}
# Chunks of the display on which an HDR image was made.
HDR_CHUNKS = frozenset((b"mDCV", b"cLLI"))
# Last bytes of a cICP chunk: red, green and blue without a matrix, full range.
_FULL_RANGE_RGB = b"\0\1"
# A PNG holds chromaticities and exponents as whole numbers of 1/100000.
_UNIT = 100_000
# Twice the least area of a triangle of primaries, in chromaticities squared. That of sRGB is 0.22.
_LEAST_AREA = 1e-3
# The last of the rendering intents in an sRGB chunk.
_LAST_INTENT = 3
# Bytes of chunks of which only the size is checked.
_SIZES = {b"cICP": 4, b"mDCV": 24, b"cLLI": 8}


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """A whole chunk: length, kind, body and checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_chunks(data: bytes, at: int = _SIGNATURE_SIZE) -> Iterator[tuple[bytes, bytes, bytes]]:
    """The kind, the body and the bytes of each whole chunk of a file. at: where the first one starts."""
    while at + 12 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        if at + 12 + size > len(data):
            return
        yield kind, data[at + 8 : at + 8 + size], data[at : at + 12 + size]
        if kind == b"IEND":
            return
        at += 12 + size


def png_for_decoding(data: bytes) -> bytes:
    """The same image with only the chunks that decoding needs, so that no other chunk can break a codec.

    These are pixels, frames, transparency and orientation. Transparency with a wrong checksum is left out, as
    libpng does. What follows the last whole chunk stays.
    """
    parts, end = [data[:_SIGNATURE_SIZE]], _SIGNATURE_SIZE
    for kind, body, whole in png_chunks(data):
        end += len(whole)
        is_checked = kind in (b"tRNS", b"eXIf") or (kind == b"iTXt" and body.startswith(_XMP_KEYWORD))
        if not _is_corrupt(kind, body, whole) if is_checked else kind in _NEEDED:
            parts.append(whole)
    return b"".join((*parts, data[end:]))


def _is_corrupt(kind: bytes, body: bytes, whole: bytes) -> bool:
    """Whether the checksum of a chunk that is not pixels is wrong."""
    return whole[-4:] != struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))


def _is_ancillary(kind: bytes) -> bool:
    """Whether the image can be shown without the chunk (section 5.4)."""
    return bool(kind[0] & 0x20) and kind not in _ANIMATION


def read_png_metadata(data: bytes) -> Metadata:
    """The metadata in a PNG file. `lost` has the chunks that cannot be read. Raises MetadataTooLarge."""
    found = Metadata()
    for kind, body, whole in png_chunks(data):
        if not _is_ancillary(kind):
            continue
        if _is_corrupt(kind, body, whole):
            name = f"{kind.decode()} chunk" if kind.isalpha() else "chunk"
            found = replace(found, lost=(*found.lost, f"a broken {name}"))
            continue
        try:
            found = _with_chunk(found, kind, body, whole)
        except MetadataTooLarge:
            raise
        except BrokenMetadata:
            lost = "an unreadable colour profile" if kind == b"iCCP" else "unreadable XMP"
            found = replace(found, lost=(*found.lost, lost))
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


def _with_chunk(found: Metadata, kind: bytes, body: bytes, whole: bytes) -> Metadata:
    match kind:
        case b"iCCP":
            profile = inflate(body[body.find(b"\0") + 2 :], "The colour profile")
            if not profile:
                raise BrokenMetadata("The colour profile is empty.")
            return replace(found, icc_profile=profile)
        case b"cICP" if len(body) == 4 and body[2:] == _FULL_RANGE_RGB:
            return replace(found, colour_code=ColourCode(body[0], body[1]))
        case b"eXIf":
            return replace(found, exif=body.removeprefix(b"Exif\0\0"))
        case b"pHYs" if len(body) == 9 and body[8] == _METRE:
            x, y = (n * _METRES_PER_INCH for n in struct.unpack(">II", body[:8]))
            lost = ("an impossible resolution",) if max(x, y) >= MAX_RESOLUTION else ()
            return replace(found, resolution=plausible_resolution(x, y), lost=(*found.lost, *lost))
        case b"iTXt" if body.startswith(_XMP_KEYWORD):
            return replace(found, xmp=_international_text(body))
        case b"tEXt" | b"zTXt" if exif := _raw_profile(kind, body):
            return replace(found, exif=found.exif or exif)
        case b"gAMA" | b"cHRM" | b"sRGB" | b"cICP" | b"mDCV" | b"cLLI" if not _is_valid(kind, body):
            return replace(found, lost=(*found.lost, f"an invalid {kind.decode()} chunk"))
        case b"gAMA" | b"cHRM" | b"sRGB" | b"cICP" | b"mDCV" | b"cLLI" | b"tEXt" | b"zTXt" | b"iTXt":
            return replace(found, chunks=found.chunks + whole)
    return found


def _is_valid(kind: bytes, body: bytes) -> bool:
    """Whether a chunk of colour has values that mean something."""
    match kind:
        case b"gAMA":
            return _exponent(body) is not None
        case b"cHRM":
            return _primaries(body) is not None
        case b"sRGB":
            return len(body) == 1 and body[0] <= _LAST_INTENT
    return len(body) == _SIZES[kind]


def _exponent(gama: bytes) -> float | None:
    """The exponent in a gAMA chunk's body; None for one that no display has."""
    value = struct.unpack(">I", gama)[0] if len(gama) == 4 else 0
    exponent: float = _UNIT / value if value else 0.0
    return exponent if 0.1 < exponent < 10 else None


def _primaries(chrm: bytes) -> Primaries | None:
    """The chromaticities in a cHRM chunk's body; None if they span no colours."""
    if len(chrm) != 32:
        return None
    white, red, green, blue = ((x / _UNIT, y / _UNIT) for x, y in struct.iter_unpack(">II", chrm))
    area = (green[0] - red[0]) * (blue[1] - red[1]) - (green[1] - red[1]) * (blue[0] - red[0])
    in_range = max(*white, *red, *green, *blue) <= 1 and white[1] > 0
    return (red, green, blue, white) if in_range and abs(area) > _LEAST_AREA else None


def _international_text(body: bytes) -> bytes:
    """The text of an XMP iTXt chunk."""
    is_compressed = body[len(_XMP_KEYWORD) : len(_XMP_KEYWORD) + 1] == b"\1"
    # A language and a translated keyword come before the text.
    text = body[len(_XMP_KEYWORD) + 2 :].split(b"\0", 2)[-1]
    return inflate(text, "XMP") if is_compressed else text


def png_chunk_kinds(chunks: bytes) -> set[bytes]:
    """The kinds of `Metadata.chunks`."""
    return {kind for kind, _, _ in png_chunks(chunks, 0)}


def png_calibration(chunks: bytes) -> tuple[Primaries | None, float | None]:
    """The chromaticities and the exponent in the chunks cHRM and gAMA; None where they are missing or invalid."""
    primaries, gamma = None, None
    for kind, body, _ in png_chunks(chunks, 0):
        if kind == b"gAMA":
            gamma = _exponent(body)
        if kind == b"cHRM":
            primaries = _primaries(body)
    return primaries, gamma


def add_png_metadata(png: bytes, metadata: Metadata) -> bytes:
    """The file with the metadata after its header chunk."""
    chunks = b""
    if metadata.colour_code:
        chunks += png_chunk(b"cICP", bytes(metadata.colour_code) + _FULL_RANGE_RGB)
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
