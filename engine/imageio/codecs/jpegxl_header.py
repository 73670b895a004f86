"""What a JPEG XL file's header says of its image, which the codec does not tell before it has decoded it.

Source: ISO/IEC 18181-1:2024, annex D.
"""

from dataclasses import dataclass

from engine.imageio.metadata.isobmff import boxes

_D65, _SRGB, _SRGB_CURVE, _ALPHA, _GREY, _CUSTOM = 1, 1, 13, 0, 1, 2
_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}


@dataclass(frozen=True)
class Header:
    """bits: of a sample, 32 of floats. fault: what is not taken, in words, or None."""

    size: tuple[int, int]
    bits: int
    fault: str | None


class _Bits:
    """Lowest first. Raises IndexError behind the end."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> int:
        value = 0
        for place in range(count):
            value |= (self.data[self.at >> 3] >> (self.at & 7) & 1) << place
            self.at += 1
        return value

    def flag(self) -> bool:
        return bool(self.take(1))

    def choice(self, *ways: tuple[int, int]) -> int:
        """One of four ways: a number, and so many bits to be added."""
        start, bits = ways[self.take(2)]
        return start + self.take(bits)

    def name(self) -> int:
        """The number of one of the standard's lists."""
        return self.choice((0, 0), (1, 0), (2, 4), (18, 6))


def read_header(data: bytes) -> Header:
    """Raises BrokenMetadata, or IndexError for a header that is cut short."""
    bits = _Bits(_codestream(data)[2:])
    size = _size(bits)
    if bits.flag():
        return Header(size, 8, None)
    if _moves(bits):
        return Header(size, 8, "an animation or a preview")
    depth = _depth(bits)
    return Header(size, depth or 32, _fault(bits, depth))


def _codestream(data: bytes) -> bytes:
    if data.startswith(b"\xff\x0a"):
        return data[:1024]
    for kind, body in boxes(data):
        if kind in (b"jxlc", b"jxlp"):
            return body[4 * (kind == b"jxlp") :]
    return b""


def _size(bits: _Bits) -> tuple[int, int]:
    in_eights = bits.flag()
    height = _side(bits, in_eights)
    ratio = bits.take(3)
    if not ratio:
        return _side(bits, in_eights), height
    above, below = _RATIOS[ratio]
    return height * above // below, height


def _side(bits: _Bits, in_eights: bool) -> int:
    return 8 * (1 + bits.take(5)) if in_eights else bits.choice((1, 9), (1, 13), (1, 18), (1, 30))


def _moves(bits: _Bits) -> bool:
    """Whether there is more than one image."""
    if not bits.flag():
        return False
    bits.take(3)  # the orientation, which the decoder obeys
    if bits.flag():
        _size(bits)
    return bits.flag() or bits.flag()


def _fault(bits: _Bits, depth: int) -> str | None:
    if depth > 16:
        return "more than 16 bits a channel"
    bits.flag()
    extra = bits.choice((0, 0), (1, 0), (2, 4), (1, 12))
    if extra > 1 or (extra and not _is_alpha(bits)):
        return "channels that are neither colour nor plain transparency"
    bits.flag()
    if not bits.flag() and not _is_srgb(bits):
        return "a profile or linear light instead of sRGB, which is what is taken of its kind"
    return None


def _depth(bits: _Bits) -> int:
    """Bits a sample; 0 for floating point of 16 or 32."""
    if not bits.flag():
        return bits.choice((8, 0), (10, 0), (12, 0), (1, 6))
    depth = bits.choice((32, 0), (16, 0), (24, 0), (1, 6))
    bits.take(4)
    return 0 if depth in (16, 32) else depth


def _is_alpha(bits: _Bits) -> bool:
    """Whether an extra channel is transparency, of full size, and not multiplied into the colours."""
    if bits.flag():
        return True
    kind = bits.name()
    _depth(bits)
    shift = bits.choice((0, 0), (3, 0), (4, 0), (1, 3))
    bits.take(8 * bits.choice((0, 0), (0, 4), (16, 5), (48, 10)))
    return kind == _ALPHA and not shift and not bits.flag()


def _is_srgb(bits: _Bits) -> bool:
    has_profile, space = bits.flag(), bits.name()
    if has_profile or space > _GREY or bits.name() != _D65:
        return False
    if space != _GREY and bits.name() != _SRGB:
        return False
    has_gamma = bits.flag()
    return not has_gamma and bits.name() == _SRGB_CURVE
