"""Colour spaces by number: coding-independent code points (CICP), in PNG's cICP and in AVIF's and HEIC's nclx.

Source: ITU-T H.273, 2024, tables 2 and 3.
"""

from typing import NamedTuple

import numpy as np

from engine.imageio.metadata.icc import (
    Floats,
    Primaries,
    gamma_curve,
    grey_profile,
    parametric_curve,
    rgb_profile,
    table_curve,
)

# White points.
_C = (0.310, 0.316)
_D65 = (0.3127, 0.3290)
_DCI = (0.314, 0.351)
# Names and chromaticities by number.
_PRIMARIES: dict[int, tuple[str, Primaries]] = {
    1: ("BT.709", ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06), _D65)),
    4: ("BT.470 M", ((0.67, 0.33), (0.21, 0.71), (0.14, 0.08), _C)),
    5: ("BT.470 BG", ((0.64, 0.33), (0.29, 0.60), (0.15, 0.06), _D65)),
    6: ("BT.601", ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), _D65)),
    7: ("SMPTE 240M", ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), _D65)),
    8: ("film", ((0.681, 0.319), (0.243, 0.692), (0.145, 0.049), _C)),
    9: ("BT.2020", ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), _D65)),
    11: ("DCI-P3", ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), _DCI)),
    12: ("Display P3", ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), _D65)),
    22: ("EBU 3213", ((0.630, 0.340), (0.295, 0.605), (0.155, 0.077), _D65)),
}
_SRGB_PRIMARIES = 1
_SRGB_TRANSFER = 13
UNSPECIFIED = 2
_PQ = 16
_HLG = 18
# Parametric curves of type 3: exponent, slope and offset above the break, slope below it, and the break.
_BT709_CURVE = (1 / 0.45, 1 / 1.099, 0.099 / 1.099, 1 / 4.5, 0.081)
_CURVES = {
    **dict.fromkeys((1, 6, 11, 12, 14, 15), parametric_curve(3, _BT709_CURVE)),
    4: gamma_curve(2.2),
    5: gamma_curve(2.8),
    7: parametric_curve(3, (1 / 0.45, 1 / 1.1115, 0.1115 / 1.1115, 1 / 4, 0.0912)),
    8: gamma_curve(1.0),
    _SRGB_TRANSFER: parametric_curve(3, (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)),
    17: gamma_curve(2.6),
}
_TRANSFER_NAMES = {1: "BT.709", 6: "BT.601", 8: "linear", 13: "sRGB", _PQ: "PQ", 17: "DCI", _HLG: "HLG"}
# Luminance of diffuse white, and of the brightest value, in cd/m2. Source: ITU-R BT.2408-7 and BT.2100-2.
_DIFFUSE_WHITE = 203.0
_PQ_PEAK = 10_000.0
_HLG_PEAK = 1000.0
# Entries of a curve that no formula of ICC describes.
_TABLE_ENTRIES = 4096


class ColourCode(NamedTuple):
    """The numbers of a colour space's primaries and of its transfer function. Samples are full range."""

    primaries: int
    transfer: int

    @property
    def is_srgb(self) -> bool:
        """Whether images without any colour description mean the same."""
        return self.primaries in (_SRGB_PRIMARIES, UNSPECIFIED) and self.transfer in (_SRGB_TRANSFER, UNSPECIFIED)

    @property
    def is_hdr(self) -> bool:
        """Whether values above diffuse white are meant: PQ or HLG."""
        return self.transfer in (_PQ, _HLG)

    @property
    def name(self) -> str:
        """As in "BT.2020 PQ"."""
        first = _PRIMARIES[self.primaries][0] if self.primaries in _PRIMARIES else f"primaries {self.primaries}"
        return f"{first} {_TRANSFER_NAMES.get(self.transfer, f'transfer {self.transfer}')}"


def primaries_of(number: int) -> Primaries:
    """The chromaticities of known primaries."""
    return _PRIMARIES[number][1]


def profile_of(code: ColourCode, grey: bool) -> bytes | None:
    """An ICC profile of the colour space; None if its numbers are unknown.

    PQ and HLG have a tag with the numbers, for viewers that show HDR. For all others the curve maps the tones to
    what a display without HDR shows.
    """
    primaries = _SRGB_PRIMARIES if code.primaries == UNSPECIFIED else code.primaries
    transfer = _SRGB_TRANSFER if code.transfer == UNSPECIFIED else code.transfer
    curve = _hdr_curve(transfer) if code.is_hdr else _CURVES.get(transfer)
    if curve is None or primaries not in _PRIMARIES:
        return None
    # Red, green and blue, without a matrix, full range.
    tag = bytes((primaries, transfer, 0, 1)) if code.is_hdr else None
    name = ColourCode(primaries, transfer).name
    return grey_profile(name, curve, tag) if grey else rgb_profile(name, _PRIMARIES[primaries][1], curve, tag)


def calibrated_profile(primaries: Primaries | None, gamma: float | None, grey: bool) -> bytes:
    """An ICC profile from chromaticities and an exponent; sRGB's where they are None. Raises ValueError."""
    curve = gamma_curve(gamma) if gamma else _CURVES[_SRGB_TRANSFER]
    if grey:
        return grey_profile("Calibrated grey", curve)
    return rgb_profile("Calibrated RGB", primaries or _PRIMARIES[_SRGB_PRIMARIES][1], curve)


def is_srgb_calibration(primaries: Primaries | None, gamma: float | None) -> bool:
    """Whether chromaticities and an exponent are those by which sRGB is approximated."""
    expected = _PRIMARIES[_SRGB_PRIMARIES][1]
    close = primaries is None or np.allclose(primaries, expected, atol=2e-3)
    return close and (gamma is None or abs(gamma - 2.2) < 0.02)


def _hdr_curve(transfer: int) -> bytes:
    """Values to light as a display without HDR shows it, 1 for the brightest."""
    values = np.linspace(0, 1, _TABLE_ENTRIES)
    light, peak = (_pq_light(values), _PQ_PEAK) if transfer == _PQ else (_hlg_light(values), _HLG_PEAK)
    relative, brightest = light / _DIFFUSE_WHITE, peak / _DIFFUSE_WHITE
    # Source: E. Reinhard et al., "Photographic Tone Reproduction for Digital Images", 2002, equation 4.
    return table_curve(relative * (1 + relative / brightest**2) / (1 + relative))


def _pq_light(values: Floats) -> Floats:
    """In cd/m2. Source: ITU-R BT.2100-2, table 4."""
    powered = values ** (32 / 2523)
    ratio = np.maximum(powered - 3424 / 4096, 0) / (2413 / 128 - 2392 / 128 * powered)
    return np.asarray(_PQ_PEAK * ratio ** (16384 / 2610))


def _hlg_light(values: Floats) -> Floats:
    """In cd/m2, of a display of 1000 cd/m2. Source: ITU-R BT.2100-2, table 5."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(values <= 0.5, values**2 / 3, (np.exp((values - c) / a) + b) / 12)
    return np.asarray(_HLG_PEAK * scene**1.2)
