"""Samples that a network cannot take as they are: missing ones, and types that an Image does not hold.

- Missing samples are those that are not a number, infinite, a fill value, or the value that the file declares for
  "no data". They are filled from their neighbours, and put back when the image is written.
- Signed integers, integers of 32 bits and floats of 64 bits are held as float32, in their own units, and written
  back in their own type.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Types that an Image holds as float32, by their names, and how people call them.
STORED_TYPES = {
    "int8": "signed 8 bits",
    "int16": "signed 16 bits",
    "int32": "signed 32 bits",
    "uint32": "32 bits",
    "float64": "64-bit floats",
}
# Rows that are handled at a time.
_STRIP = 256
# Floats from here on are fill values: common ones are 1e30, 9.97e36 and 3.4e38.
_FILL_VALUE = 1e30
# Unsigned integers of 32 bits from here on mark bad pixels: detectors write the two highest values.
_BAD_PIXEL = 2**32 - 2
# Most different values that missing samples of one page may have.
_MAX_VALUES = 250
_WHITE_16 = 2**16 - 1
_HALF_16 = 2**15


@dataclass(frozen=True)
class Missing:
    """Where samples are missing, and their values in the file.

    codes: uint8 (H, W, C): 0 where a sample is present, otherwise the position in `values`, counted from 1.
    """

    codes: Tensor
    values: tuple[float, ...]

    def put_back(self, samples: NDArray[Any]) -> NDArray[Any]:
        """A copy of samples (H, W, C) of any type, with the values of the missing ones."""
        whole = samples.copy()
        codes = self.codes.numpy()
        for code, value in enumerate(self.values, 1):
            whole[codes == code] = value
        return whole

    def twice(self) -> "Missing":
        """For the image beside itself."""
        return Missing(torch.cat((self.codes, self.codes), 1), self.values)


def take_missing(values: NDArray[Any], nodata: float | None) -> tuple[NDArray[Any], Missing | None]:
    """Samples (H, W, C) of any type, the missing ones filled from their neighbours; and what was missing.

    nodata: the value that the file declares for "no data". Raises ValueError if missing samples have too many
    different values.
    """
    codes = np.zeros(values.shape, np.uint8)
    found: list[float] = []
    for top in range(0, len(values), _STRIP):
        strip = values[top : top + _STRIP]
        is_missing = _is_missing(strip, nodata)
        if not is_missing.any():
            continue
        for value in np.unique(strip[is_missing], equal_nan=True).tolist():
            same = [i for i, each in enumerate(found) if each == value or (each != each and value != value)]
            code = same[0] if same else len(found)
            if not same:
                found.append(value)
            if code >= _MAX_VALUES:
                raise ValueError(f"missing samples have more than {_MAX_VALUES} different values")
            part = codes[top : top + _STRIP]
            part[is_missing & (np.isnan(strip) if value != value else strip == value)] = code + 1
    if not found:
        return values, None
    return _filled(values, codes == 0), Missing(torch.from_numpy(codes), tuple(found))


def _is_missing(values: NDArray[Any], nodata: float | None) -> NDArray[np.bool_]:
    found = np.zeros(values.shape, np.bool_)
    if values.dtype.kind == "f":
        # Not ">=", which is false for NaN. A float of 16 bits overflows to infinity before it reaches the value.
        with np.errstate(over="ignore"):
            found |= ~(np.abs(values) < _FILL_VALUE)
    elif values.dtype == np.uint32:
        found |= values >= _BAD_PIXEL
    if nodata is not None:
        # Not a number of this type, such as -9999 where samples are unsigned, is no sample's value.
        with np.errstate(over="ignore", invalid="ignore"):
            as_type = np.array(nodata).astype(values.dtype)
        if values.dtype.kind == "f" or as_type == nodata:
            found |= values == as_type
    return found


def _filled(values: NDArray[Any], present: NDArray[np.bool_]) -> NDArray[Any]:
    """The samples, with the missing ones replaced by a reflection of those beside them.

    A reflection has the neighbours' noise and range, so neither a network nor an estimate is misled.
    """
    filled = values.copy()
    for channel in range(values.shape[2]):
        plane: NDArray[np.bool_] = present[..., channel]
        rows = np.asarray(plane.any(1))
        for y in np.flatnonzero(rows & ~plane.all(1)).tolist():
            filled[y, :, channel] = filled[y, _reflected(plane[y]), channel]
        if not rows.any():
            filled[..., channel] = 0
        elif not rows.all():
            filled[..., channel] = filled[_reflected(rows), :, channel]
    return filled


def _reflected(present: NDArray[np.bool_]) -> NDArray[np.intp]:
    """For each position, the present one to take: itself, or the reflection in the nearer end of its gap."""
    positions = np.arange(len(present))
    if present.all():
        return positions
    # Ends of the runs of present positions: starts[k] is the first, stops[k] is behind the last.
    edges = np.flatnonzero(np.diff(np.concatenate(([False], present, [False])).astype(np.int8)))
    starts, stops = edges[0::2], edges[1::2]
    gaps = np.flatnonzero(~present)
    after = np.searchsorted(starts, gaps)
    before = np.maximum(after - 1, 0)
    after = np.minimum(after, len(starts) - 1)
    from_left, to_right = gaps - stops[before], starts[after] - 1 - gaps
    use_left = (to_right < 0) | ((from_left >= 0) & (from_left <= to_right))
    run = np.where(use_left, before, after)
    distance = _folded(np.where(use_left, from_left, to_right), stops[run] - starts[run])
    taken = positions.copy()
    taken[gaps] = np.where(use_left, stops[run] - 1 - distance, starts[run] + distance)
    return taken


def _folded(distance: NDArray[Any], length: NDArray[Any]) -> NDArray[Any]:
    """Distances folded back and forth into runs of these lengths."""
    folded = distance % (2 * length)
    result: NDArray[Any] = np.where(folded < length, folded, 2 * length - 1 - folded)
    return result


def to_stored(samples: NDArray[Any], stored: str) -> NDArray[Any]:
    """float32 samples -> that type; integers are clipped and rounded."""
    dtype = np.dtype(stored)
    if dtype.kind == "f":
        return samples.astype(dtype)
    limits = np.iinfo(dtype)
    # float64 holds every integer of 32 bits.
    return np.clip(np.rint(samples.astype(np.float64)), limits.min, limits.max).astype(dtype)


def to_16_bits(samples: Tensor, stored: str) -> tuple[Tensor, str]:
    """Integers of another type, held as float32 -> uint16, and the change in words."""
    limits = np.iinfo(stored)
    exact = np.rint(samples.numpy().astype(np.float64))
    lowest, highest = exact.min(), exact.max()
    name = STORED_TYPES[stored]
    if lowest >= 0 and highest <= _WHITE_16:
        words = f"{name} to 16 bits a channel"
    elif lowest >= -_HALF_16 and highest < _HALF_16:
        exact += _HALF_16
        words = f"{name} to 16 bits a channel, with {_HALF_16} added"
    else:
        divisor = (limits.max - limits.min) // _WHITE_16
        exact = np.rint((exact - limits.min) / divisor)
        added = f"{-limits.min} added and " if limits.min else ""
        words = f"{name} to 16 bits a channel, {added}divided by {divisor}"
    return torch.from_numpy(np.clip(exact, 0, _WHITE_16).astype(np.uint16)), words


def is_exact_in_float32(values: NDArray[Any]) -> bool:
    """Whether float32 holds each of these values exactly. Missing ones are left out."""
    if values.dtype.itemsize < 4:
        return True
    for top in range(0, len(values), _STRIP):
        strip = values[top : top + _STRIP].astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            if not ((strip == strip.astype(np.float32)) | ~(np.abs(strip) < _FILL_VALUE)).all():
                return False
    return True


def parse_nodata(text: str) -> float | None:
    """The value in a GDAL_NODATA tag; None if it is no number."""
    try:
        value = float(text.split("\0")[0].strip().split()[0])
    except (ValueError, IndexError):
        return None
    return None if math.isnan(value) else value
