"""ICC colour profiles made here. Source: ICC.1:2001-04, "File Format for Color Profiles", version 2.4."""

import struct
from functools import cache

# ProPhoto RGB's exponent, as the number of 1/256ths that the profile holds. Source: ISO 22028-2:2013, ROMM RGB.
_PROPHOTO_GAMMA = 461
PROPHOTO_GAMMA = _PROPHOTO_GAMMA / 256
# XYZ of white and of the primaries, for the white point D50.
_D50 = (0.9642, 1.0, 0.8249)
_PROPHOTO_PRIMARIES = (
    (0.7976749, 0.2880402, 0.0),
    (0.1351917, 0.7118741, 0.0),
    (0.0313534, 0.0000857, 0.8252100),
)
_HEADER_BYTES = 128


@cache
def prophoto_profile() -> bytes:
    """A matrix profile of ProPhoto RGB."""
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, _PROPHOTO_GAMMA)
    colours = {b"rXYZ": 0, b"gXYZ": 1, b"bXYZ": 2}
    tags = {
        b"desc": _description("ProPhoto RGB"),
        b"cprt": b"text" + bytes(4) + b"No copyright\0",
        b"wtpt": _xyz(*_D50),
        **{name: _xyz(*_PROPHOTO_PRIMARIES[index]) for name, index in colours.items()},
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve),
    }
    table = struct.pack(">I", len(tags))
    at, body = _HEADER_BYTES + len(table) + 12 * len(tags), b""
    places: dict[bytes, int] = {}
    for name, value in tags.items():
        # Tags with the same value share it.
        if value not in places:
            places[value] = at + len(body)
            body += value + bytes(-len(value) % 4)
        table += struct.pack(">4sII", name, places[value], len(value))
    return _header(_HEADER_BYTES + len(table) + len(body)) + table + body


def _header(size: int) -> bytes:
    """Version 2.4, for a display, from RGB to XYZ, perceptual."""
    start = struct.pack(">I4sI4s4s4s", size, bytes(4), 0x02400000, b"mntr", b"RGB ", b"XYZ ")
    date = struct.pack(">6H", 2026, 1, 1, 0, 0, 0)
    return (start + date + b"acsp" + bytes(28) + _numbers(*_D50)).ljust(_HEADER_BYTES, b"\0")


def _description(text: str) -> bytes:
    """In ASCII, without the Unicode and the Macintosh version."""
    ascii_text = text.encode("ascii") + b"\0"
    return b"desc" + bytes(4) + struct.pack(">I", len(ascii_text)) + ascii_text + bytes(8 + 3 + 67)


def _xyz(x: float, y: float, z: float) -> bytes:
    return b"XYZ " + bytes(4) + _numbers(x, y, z)


def _numbers(*values: float) -> bytes:
    """In the profile's fixed-point format, s15Fixed16."""
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))
