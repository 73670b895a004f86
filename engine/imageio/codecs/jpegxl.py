"""JPEG XL, read with imagecodecs. This module parses the header: imagecodecs says nothing before it has decoded.

Source: ISO/IEC 18181-1:2024, annex D.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from engine.imageio.formats import SUPPORTED_PIXELS, Format, UnsupportedImage
from engine.imageio.image import Image, LazyFrame, from_array
from engine.imageio.metadata import NO_METADATA
from engine.imageio.metadata.cicp import ColourCode, calibrated_profile, primaries_of
from engine.imageio.metadata.isobmff import boxes, read_box_metadata

_SIGNATURE = b"\xff\x0a"
# The header lies within this many bytes.
_HEADER_BYTES = 1024
# Numbers of the standard's enumerations.
_GREY = 1  # ColourSpace
_D65 = 1  # WhitePoint
_SRGB_PRIMARIES = 1  # Primaries
_ALPHA = 0  # ExtraChannelType
# Numbers of H.273 by the standard's primaries and white point. Transfer functions have the same numbers.
_PRIMARIES = {(_SRGB_PRIMARIES, _D65): 1, (9, _D65): 9, (11, _D65): 12, (11, 11): 11}
_TRANSFERS = frozenset((1, 8, 13, 16, 17, 18))
# The exponent's reciprocal is held as a whole number of these.
_GAMMA_UNIT = 1e-7
_UNKNOWN_COLOURS = "a colour profile or colours that have no number"
# Width to height, by the number of the ratio in the header.
_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}


def open_jxl(kind: Format, data: bytes) -> Iterator[LazyFrame]:
    """The image of a file with boxes, or of a bare codestream."""
    import imagecodecs

    header = read_header(data)
    metadata = read_box_metadata(data) if data.startswith(b"\0") else NO_METADATA
    metadata = replace(metadata, colour_code=header.colour_code, icc_profile=header.profile)
    if header.fault:
        raise UnsupportedImage(f"The JPEG XL file has {header.fault}. {SUPPORTED_PIXELS}.")

    def load() -> tuple[Image, tuple[str, ...]]:
        # The decoder turns the image upright.
        values = imagecodecs.jpegxl_decode(data)
        return from_array(values, 8 * values.dtype.itemsize, metadata), ()

    yield LazyFrame(header.size, header.bits, load)


@dataclass(frozen=True)
class Header:
    """bits: per sample, 32 for floats. fault: what is not supported, in words; None if nothing.

    colour_code, profile: of colours other than sRGB.
    """

    size: tuple[int, int]
    bits: int
    fault: str | None = None
    colour_code: ColourCode | None = None
    profile: bytes | None = None


class _BitReader:
    """Reads bits, the lowest of each byte first. Raises IndexError after the last byte."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0  # bits

    def integer(self, bits: int) -> int:
        value = 0
        for place in range(bits):
            value |= (self.data[self.position >> 3] >> (self.position & 7) & 1) << place
            self.position += 1
        return value

    def flag(self) -> bool:
        return bool(self.integer(1))

    def choice(self, *ways: tuple[int, int]) -> int:
        """The standard's U32: start plus a number of `bits` bits. Two bits choose one of four (start, bits)."""
        start, bits = ways[self.integer(2)]
        return start + self.integer(bits)

    def enum(self) -> int:
        """The standard's Enum."""
        return self.choice((0, 0), (1, 0), (2, 4), (18, 6))


def read_header(data: bytes) -> Header:
    """Raises BrokenMetadata, or IndexError if the header is cut short."""
    reader = _BitReader(_codestream(data)[len(_SIGNATURE) :])
    size = _read_size(reader)
    if reader.flag():
        return Header(size, 8)
    if _has_animation_or_preview(reader):
        return Header(size, 8, "an animation or a preview")
    depth = _read_depth(reader)
    if fault := _find_fault(reader, depth):
        return Header(size, depth or 32, fault)
    return _read_colours(reader, Header(size, depth or 32))


def _codestream(data: bytes) -> bytes:
    if data.startswith(_SIGNATURE):
        return data[:_HEADER_BYTES]
    for kind, body in boxes(data):
        if kind in (b"jxlc", b"jxlp"):
            # A part begins with its number.
            return body[4:] if kind == b"jxlp" else body
    return b""


def _read_size(reader: _BitReader) -> tuple[int, int]:
    in_eights = reader.flag()
    height = _read_side(reader, in_eights)
    ratio = reader.integer(3)
    if not ratio:
        return _read_side(reader, in_eights), height
    numerator, denominator = _RATIOS[ratio]
    return height * numerator // denominator, height


def _read_side(reader: _BitReader, in_eights: bool) -> int:
    return 8 * (1 + reader.integer(5)) if in_eights else reader.choice((1, 9), (1, 13), (1, 18), (1, 30))


def _has_animation_or_preview(reader: _BitReader) -> bool:
    if not reader.flag():
        return False
    reader.integer(3)  # orientation
    if reader.flag():
        _read_size(reader)
    return reader.flag() or reader.flag()


def _find_fault(reader: _BitReader, depth: int) -> str | None:
    if depth > 16:
        return "more than 16 bits a channel"
    reader.flag()
    extra = reader.choice((0, 0), (1, 0), (2, 4), (1, 12))
    if extra > 1 or (extra and not _is_plain_alpha(reader)):
        return "channels that are neither colour nor plain transparency"
    return None


def _read_depth(reader: _BitReader) -> int:
    """Bits per sample; 0 for floats of 16 or 32 bits."""
    if not reader.flag():
        return reader.choice((8, 0), (10, 0), (12, 0), (1, 6))
    depth = reader.choice((32, 0), (16, 0), (24, 0), (1, 6))
    reader.integer(4)
    return 0 if depth in (16, 32) else depth


def _is_plain_alpha(reader: _BitReader) -> bool:
    """Whether an extra channel is transparency of full size that is not multiplied into the colours."""
    if reader.flag():
        return True
    kind = reader.enum()
    _read_depth(reader)
    shift = reader.choice((0, 0), (3, 0), (4, 0), (1, 3))
    reader.integer(8 * reader.choice((0, 0), (0, 4), (16, 5), (48, 10)))
    return kind == _ALPHA and not shift and not reader.flag()


def _read_colours(reader: _BitReader, header: Header) -> Header:
    """The header with what is said of the colours."""
    reader.flag()
    if reader.flag():
        return header
    has_profile, colour_space = reader.flag(), reader.enum()
    if has_profile or colour_space > _GREY:
        return replace(header, fault=_UNKNOWN_COLOURS)
    grey = colour_space == _GREY
    white = reader.enum()
    primaries = _PRIMARIES.get((_SRGB_PRIMARIES if grey else reader.enum(), white))
    if primaries is None:
        return replace(header, fault=_UNKNOWN_COLOURS)
    if reader.flag():
        # The standard gives the exponent from light to values.
        encoding = reader.integer(24) * _GAMMA_UNIT
        profile = calibrated_profile(primaries_of(primaries), 1 / encoding, grey) if encoding else None
        return replace(header, profile=profile, fault=None if profile else _UNKNOWN_COLOURS)
    code = ColourCode(primaries, reader.enum())
    if code.transfer not in _TRANSFERS:
        return replace(header, fault=_UNKNOWN_COLOURS)
    return header if code.is_srgb else replace(header, colour_code=code)
