"""BMP: the kinds that Pillow does not read, and the colours that a file's header describes.

Source: Microsoft, "Bitmap Header Types" and "BITMAPV5HEADER structure", Windows GDI, 2021.
"""

import struct

from engine.imageio.formats import SUPPORTED_PIXELS, UnsupportedImage
from engine.imageio.metadata.cicp import calibrated_profile, is_srgb_calibration

_FILE_HEADER = 14  # bytes
# Sizes of the headers that follow it, in bytes.
_OS2 = 12
_V4 = 108
_V5 = 124
_HEADERS = (_OS2, 16, 40, 52, 56, 64, _V4, _V5)
_BITS = (1, 4, 8, 16, 24, 32)
# Compressions: none, run lengths of 8 and of 4 bits, bit fields without and with alpha.
_COMPRESSIONS = (0, 1, 2, 3, 6)
_COMPRESSION_NAMES = {4: "JPEG", 5: "PNG", 11: "CMYK", 12: "CMYK", 13: "CMYK"}
# Colour spaces: numbers in the header, and a profile in the file.
_CALIBRATED = 0
_EMBEDDED = int.from_bytes(b"MBED", "big")
_COLOUR_SPACE = "<I9i3I"  # space, XYZ of the primaries, gammas
_COLOUR_SPACE_AT = _FILE_HEADER + 56
_PROFILE_AT = _FILE_HEADER + 112


def refuse_unsupported_bmp(data: bytes) -> None:
    """Raises UnsupportedImage for kinds of BMP that are known but not decoded, from the header."""
    if len(data) < _FILE_HEADER + _OS2:
        return
    (size,) = struct.unpack_from("<I", data, _FILE_HEADER)
    if size not in _HEADERS:
        return
    has_compression = size != _OS2 and size != 16 and len(data) >= _FILE_HEADER + 20
    (bits,) = struct.unpack_from("<H", data, _FILE_HEADER + (10 if size == _OS2 else 14))
    compression = struct.unpack_from("<I", data, _FILE_HEADER + 16)[0] if has_compression else 0
    fault = None
    # OS/2's second header gives other meanings to the same numbers.
    if compression not in _COMPRESSIONS or (size == 64 and compression > 2):
        fault = f"{_COMPRESSION_NAMES.get(compression, f'method {compression}')} as its compression"
    elif bits not in _BITS:
        fault = f"{bits} bits a pixel"
    if fault:
        raise UnsupportedImage(f"The BMP file has {fault}, which is not supported. {SUPPORTED_PIXELS}.")


def read_bmp_profile(data: bytes) -> bytes | None:
    """The colour profile in a BMP file, or one made from its chromaticities and exponents."""
    (size,) = struct.unpack_from("<I", data, _FILE_HEADER)
    if size not in (_V4, _V5) or len(data) < _FILE_HEADER + size:
        return None
    space, *numbers = struct.unpack_from(_COLOUR_SPACE, data, _COLOUR_SPACE_AT)
    if space == _EMBEDDED and size == _V5:
        at, length = struct.unpack_from("<II", data, _PROFILE_AT)
        return data[_FILE_HEADER + at : _FILE_HEADER + at + length] or None
    return _from_numbers(numbers[:9], numbers[9:]) if space == _CALIBRATED else None


def _from_numbers(colours: list[int], gammas: list[int]) -> bytes | None:
    """colours: X, Y and Z of each primary, as fixed-point numbers. Many writers leave them at 0."""
    if not all(gammas) or len(set(gammas)) > 1:
        return None
    red, green, blue = ([each / 2**30 for each in colours[at : at + 3]] for at in (0, 3, 6))
    sums = [sum(each) for each in (red, green, blue)]
    if min(sums) <= 0:
        return None
    # The header has no white point of its own: it is the sum of the primaries.
    white = [sum(each) for each in zip(red, green, blue, strict=True)]
    (x, y, _), *chromaticities = ([part / sum(each) for part in each] for each in (white, red, green, blue))
    r, g, b = ((each[0], each[1]) for each in chromaticities)
    gamma = gammas[0] / 2**16
    if is_srgb_calibration((r, g, b, (x, y)), gamma):
        return None
    try:
        return calibrated_profile((r, g, b, (x, y)), gamma, grey=False)
    except ValueError:
        return None
