"""ICC colour profiles: makes small ones from numbers, and reads the curve of a grey one.

Sources: ICC.1:2022, "Image technology colour management", version 4.4, sections 7 to 10; B. Lindbloom, "Chromatic
Adaptation", 2017, for the Bradford transform.
"""

import struct
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

# x and y of a colour.
Chromaticity = tuple[float, float]
# Those of red, green, blue and white.
Primaries = tuple[Chromaticity, Chromaticity, Chromaticity, Chromaticity]
Floats = NDArray[np.float64]

RGB = b"RGB "
GREY = b"GRAY"
CMYK = b"CMYK"

# ProPhoto RGB's exponent, as the number of 1/256ths that the profile holds. Source: ISO 22028-2:2013, ROMM RGB.
_PROPHOTO_GAMMA = 461
PROPHOTO_GAMMA = _PROPHOTO_GAMMA / 256
# XYZ of white and of the primaries, for the white point D50.
_D50 = (0.9642, 1.0, 0.8249)
_PROPHOTO_COLOURS = np.array(
    ((0.7976749, 0.2880402, 0.0), (0.1351917, 0.7118741, 0.0), (0.0313534, 0.0000857, 0.8252100))
)
# From XYZ to the cones' responses, by Bradford.
_BRADFORD = np.array(((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296)))
_HEADER_BYTES = 128
# Offsets in the header.
_SPACE_AT = 16
_CONNECTION_AT = 20
_SIGNATURE_AT = 36
# Bytes of an entry in the table of tags.
_ENTRY_BYTES = 12
# Numbers of parameters of a parametric curve, by its type.
_PARAMETERS = {0: 1, 1: 3, 2: 4, 3: 5, 4: 7}
# Above this L* is the cube root of Y. Source: CIE 15:2004.
_LAB_SLOPE_END = 8.0


@cache
def prophoto_profile() -> bytes:
    """A matrix profile of ProPhoto RGB."""
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, _PROPHOTO_GAMMA)
    return _profile("ProPhoto RGB", RGB, _colour_tags(_PROPHOTO_COLOURS, curve))


def rgb_profile(name: str, primaries: Primaries, curve: bytes, code: bytes | None = None) -> bytes:
    """A matrix profile. curve: as `gamma_curve` and its like make it. code: body of a `cicp` tag.

    Raises ValueError for primaries that are no triangle.
    """
    *colours, white = (_to_xyz(each) for each in primaries)
    adapt = _adaptation(white)
    columns = np.array(colours).T
    try:
        scale = np.linalg.solve(columns, white)
    except np.linalg.LinAlgError as error:
        raise ValueError("The primaries lie on one line.") from error
    adapted = (adapt @ (columns * scale)).T
    if not np.isfinite(adapted).all() or np.abs(adapted).max() > 4:
        raise ValueError("The primaries lie nearly on one line.")
    tags = {**_colour_tags(adapted, curve), b"chad": _adaptation_tag(adapt), **_code_tag(code)}
    return _profile(name, RGB, tags)


def grey_profile(name: str, curve: bytes, code: bytes | None = None) -> bytes:
    """A profile for grey. curve, code: as `rgb_profile`."""
    return _profile(name, GREY, {b"kTRC": curve, **_code_tag(code)})


def gamma_curve(gamma: float) -> bytes:
    """Linear light is the value to the power of gamma."""
    return parametric_curve(0, (gamma,))


def parametric_curve(kind: int, parameters: Sequence[float]) -> bytes:
    """A curve by one of the standard's formulas (section 10.18)."""
    return b"para" + bytes(4) + struct.pack(">HH", kind, 0) + _numbers(*parameters)


def table_curve(values: Floats) -> bytes:
    """A curve through evenly spaced values on [0, 1]."""
    samples = np.round(np.clip(values, 0, 1) * 65535).astype(">u2")
    return b"curv" + bytes(4) + struct.pack(">I", len(samples)) + samples.tobytes()


def profile_space(profile: bytes) -> bytes | None:
    """What the profile is for: RGB, GREY, CMYK or another; None if the bytes are no profile."""
    if len(profile) < _HEADER_BYTES + 4 or profile[_SIGNATURE_AT : _SIGNATURE_AT + 4] != b"acsp":
        return None
    return profile[_SPACE_AT : _SPACE_AT + 4]


def grey_version(profile: bytes) -> bytes | None:
    """The profile for grey that has the curve of a matrix profile's green; None if it has no curve."""
    curve = _tags(profile).get(b"gTRC")
    return grey_profile("Grey", curve) if curve else None


def grey_light(profile: bytes, values: Floats) -> Floats | None:
    """Linear light of grey values on [0, 1], by a profile for grey; None if it has no curve that can be read."""
    curve = _tags(profile).get(b"kTRC", b"")
    try:
        light = _apply_curve(curve, values)
    except struct.error:
        return None
    if light is None or not np.isfinite(light).all():
        return None
    if profile[_CONNECTION_AT : _CONNECTION_AT + 4] == b"Lab ":
        lightness = 100 * light
        above = ((lightness + 16) / 116) ** 3
        light = np.where(lightness > _LAB_SLOPE_END, above, lightness * 27 / 24389)
    return np.clip(light, 0, 1)


def _apply_curve(curve: bytes, values: Floats) -> Floats | None:
    if curve[:4] == b"curv":
        (count,) = struct.unpack_from(">I", curve, 8)
        if count == 0:
            return values
        if count == 1:
            (gamma,) = struct.unpack_from(">H", curve, 12)
            return np.asarray(values ** (gamma / 256))
        if 12 + 2 * count > len(curve):
            return None
        table = np.frombuffer(curve, ">u2", count, 12).astype(np.float64) / 65535
        return np.interp(values, np.linspace(0, 1, count), table)
    if curve[:4] == b"para":
        (kind,) = struct.unpack_from(">H", curve, 8)
        if kind in _PARAMETERS:
            numbers = struct.unpack_from(f">{_PARAMETERS[kind]}i", curve, 12)
            return _parametric(kind, [each / 65536 for each in numbers], values)
    return None


def _parametric(kind: int, numbers: Sequence[float], values: Floats) -> Floats:
    g, a, b, c, d, e, f = (*numbers, 0, 0, 0, 0, 0, 0)[:7] if kind else (numbers[0], 1, 0, 0, 0, 0, 0)
    if kind in (1, 2):
        # Below the break the curve is constant: c in type 2, 0 in type 1.
        c, d, e, f = 0, -b / a if a else 0, c, c
    power = np.power(np.maximum(a * values + b, 0), g) + e
    return np.where(values >= d, power, c * values + f)


def _tags(profile: bytes) -> dict[bytes, bytes]:
    """The profile's tags by name, without those that lie beyond its end."""
    if profile_space(profile) is None:
        return {}
    (count,) = struct.unpack_from(">I", profile, _HEADER_BYTES)
    table = profile[_HEADER_BYTES + 4 :][: _ENTRY_BYTES * min(count, len(profile) // _ENTRY_BYTES)]
    entries = struct.iter_unpack(">4sII", table[: len(table) // _ENTRY_BYTES * _ENTRY_BYTES])
    return {name: profile[at : at + size] for name, at, size in entries if at + size <= len(profile)}


def _to_xyz(colour: Chromaticity) -> Floats:
    x, y = colour
    if not y:
        raise ValueError("A primary has no y.")
    return np.array((x / y, 1, (1 - x - y) / y))


def _adaptation(white: Floats) -> Floats:
    """The matrix from colours under this white to colours under D50."""
    cones = (_BRADFORD @ np.array(_D50)) / (_BRADFORD @ white)
    return np.asarray(np.linalg.inv(_BRADFORD) @ np.diag(cones) @ _BRADFORD)


def _colour_tags(colours: Floats, curve: bytes) -> dict[bytes, bytes]:
    """colours: XYZ of red, green and blue under D50."""
    names = (b"rXYZ", b"gXYZ", b"bXYZ")
    tags = {name: _xyz(*colour) for name, colour in zip(names, colours, strict=True)}
    return tags | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)


def _adaptation_tag(matrix: Floats) -> bytes:
    return b"sf32" + bytes(4) + _numbers(*matrix.flat)


def _code_tag(code: bytes | None) -> dict[bytes, bytes]:
    return {b"cicp": b"cicp" + bytes(4) + code} if code else {}


def _profile(name: str, space: bytes, own: Mapping[bytes, bytes]) -> bytes:
    """A profile of version 4.4, for a display, to XYZ, perceptual."""
    tags = {b"desc": _text(name), b"cprt": _text("No copyright"), b"wtpt": _xyz(*_D50), **own}
    table = struct.pack(">I", len(tags))
    at, body = _HEADER_BYTES + len(table) + _ENTRY_BYTES * len(tags), b""
    places: dict[bytes, int] = {}
    for tag, value in tags.items():
        # Tags with the same value share it.
        if value not in places:
            places[value] = at + len(body)
            body += value + bytes(-len(value) % 4)
        table += struct.pack(">4sII", tag, places[value], len(value))
    size = _HEADER_BYTES + len(table) + len(body)
    start = struct.pack(">I4sI4s4s4s", size, bytes(4), 0x04400000, b"mntr", space, b"XYZ ")
    date = struct.pack(">6H", 2026, 1, 1, 0, 0, 0)
    header = (start + date + b"acsp" + bytes(28) + _numbers(*_D50)).ljust(_HEADER_BYTES, b"\0")
    return header + table + body


def _text(text: str) -> bytes:
    """One text in one language."""
    packed = text.encode("utf-16-be")
    return b"mluc" + bytes(4) + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(packed), 28) + packed


def _xyz(x: float, y: float, z: float) -> bytes:
    return b"XYZ " + bytes(4) + _numbers(x, y, z)


def _numbers(*values: float) -> bytes:
    """In the profile's fixed-point format, s15Fixed16."""
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))
