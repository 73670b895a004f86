"""Samples that a network cannot take as they are: missing ones, and types that an Image does not hold.

- Missing samples are those that are not a number, infinite, a fill value, or the value that the file declares for
  "no data". Fill values that it does not declare are found by `fill_values.py`. Missing samples are filled from
  their neighbours, and put back when the image is written.
- Signed integers, integers of 32 bits and floats of 64 bits are held as float32, in their own units, and written
  back in their own type.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.imageio.fill_values import find_fill_values

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
# Lines in which gaps are filled at a time.
_LINES = 64
_FAR = 2**31 - 1  # pixels
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
    undeclared: the fill values among them that the file does not declare.
    """

    codes: Tensor
    values: tuple[float, ...]
    undeclared: tuple[float, ...] = ()

    def put_back(self, samples: NDArray[Any]) -> NDArray[Any]:
        """A copy of samples (H, W, C) of any type, with the values of the missing ones."""
        whole = samples.copy()
        codes = self.codes.numpy()
        for code, value in enumerate(self.values, 1):
            whole[codes == code] = value
        return whole

    def twice(self) -> "Missing":
        """For the image beside itself."""
        return replace(self, codes=torch.cat((self.codes, self.codes), 1))

    def words(self) -> tuple[str, ...]:
        """What people should know of it, in words."""
        return tuple(f"the fill value {value:.10g} kept as it is" for value in self.undeclared)


def take_missing(
    values: NDArray[Any], nodata: float | None, scaled: bool = False
) -> tuple[NDArray[Any], Missing | None]:
    """Samples (H, W, C) of any type, the missing ones filled from their neighbours; and what was missing.

    nodata: the value that the file declares for "no data". scaled: the samples will be scaled to another
    depth, so no value could be put back. Raises ValueError if missing samples have too many different values.
    """
    declared = () if nodata is None else (nodata,)
    undeclared = () if scaled else find_fill_values(values, lambda part: _is_missing(part, declared))
    marks = (*declared, *undeclared)
    if not marks and values.dtype.kind == "u" and values.dtype.itemsize < 4:
        return values, None
    codes = np.zeros(values.shape, np.uint8)
    found: list[float] = []
    for top in range(0, len(values), _STRIP):
        strip = values[top : top + _STRIP]
        is_missing = _is_missing(strip, marks)
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
    return _filled(values, codes == 0), Missing(torch.from_numpy(codes), tuple(found), undeclared)


def _is_missing(values: NDArray[Any], marks: Sequence[float]) -> NDArray[np.bool_]:
    """marks: values that missing samples have."""
    found = np.zeros(values.shape, np.bool_)
    if values.dtype.kind == "f":
        # Not ">=", which is false for NaN. A float of 16 bits overflows to infinity before it reaches the value.
        with np.errstate(over="ignore"):
            found |= ~(np.abs(values) < _FILL_VALUE)
    elif values.dtype == np.uint32:
        found |= values >= _BAD_PIXEL
    for mark in marks:
        # Not a number of this type, such as -9999 where samples are unsigned, is no sample's value.
        with np.errstate(over="ignore", invalid="ignore"):
            as_type = np.array(mark).astype(values.dtype)
        if values.dtype.kind == "f" or as_type == mark:
            found |= values == as_type
    return found


def _filled(values: NDArray[Any], present: NDArray[np.bool_]) -> NDArray[Any]:
    """The samples, with the missing ones replaced by a reflection of those beside or above them, the nearer ones.

    A reflection has the neighbours' noise and range, so neither a network nor an estimate is misled.
    """
    filled = values.copy()
    for channel in range(values.shape[2]):
        if present[..., channel].any():
            _fill_plane(filled[..., channel], present[..., channel])
        else:
            filled[..., channel] = 0
    return filled


def _fill_plane(plane: NDArray[Any], present: NDArray[np.bool_]) -> None:
    """Fill the missing samples (H, W) in place. At least one is present."""
    distance = np.full(plane.shape, _FAR, np.int32)
    # Across, then down where that is nearer.
    for part, there, far in ((plane, present, distance), (plane.T, present.T, distance.T)):
        lines = np.flatnonzero(there.any(1) & (~there & (far > 1)).any(1))
        for some in np.split(lines, range(_LINES, len(lines), _LINES)):
            line, at, source, reach = _reflections(there[some])
            line = some[line]
            nearer = reach < far[line, at]
            line, at, source = line[nearer], at[nearer], source[nearer]
            part[line, at] = part[line, source]
            far[line, at] = reach[nearer]
    # What is left lies in rows and columns of which all is missing.
    rows = np.asarray(present.any(1))
    if not rows.all():
        _, row, source, _ = _reflections(rows[None])
        plane[row] = np.where(distance[row] == _FAR, plane[source], plane[row])


def _reflections(present: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Rows and columns of what is missing, the columns to take, and the distances to the nearer ends of the gaps.

    present: (rows, columns). Each row has something that is present, and that is reflected in its end.
    """
    columns = present.shape[1]
    positions = np.arange(columns)
    # The nearest present position to the left and right, and from that the end of its run.
    before = np.maximum.accumulate(np.where(present, positions, -1), 1)
    after = np.minimum.accumulate(np.where(present, positions, columns)[:, ::-1], 1)[:, ::-1]
    first = np.maximum.accumulate(np.where(present, -1, positions), 1) + 1
    last = np.minimum.accumulate(np.where(present, columns, positions)[:, ::-1], 1)[:, ::-1] - 1
    row, column = np.nonzero(~present)
    left, right = before[row, column], after[row, column]
    use_left = (left >= 0) & ((right >= columns) | (column - left <= right - column))
    run = np.where(
        use_left,
        left - first[row, np.maximum(left, 0)] + 1,
        last[row, np.minimum(right, columns - 1)] - right + 1,
    )
    distance = np.where(use_left, column - left, right - column)
    folded = _folded(distance - 1, run)
    return row, column, np.where(use_left, left - folded, right + folded), distance


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
    whole = np.empty(samples.shape, dtype)
    for top in range(0, len(samples), _STRIP):
        # float64 holds every integer of 32 bits.
        strip = np.rint(samples[top : top + _STRIP].astype(np.float64))
        whole[top : top + _STRIP] = strip.clip(limits.min, limits.max)
    return whole


def to_16_bits(samples: Tensor, stored: str) -> tuple[Tensor, str]:
    """Integers of another type, held as float32 -> uint16, and the change in words."""
    limits = np.iinfo(stored)
    lowest, highest = (float(end) for end in samples.aminmax())
    words = f"{STORED_TYPES[stored]} to 16 bits a channel"
    added, divisor = 0, 1
    if lowest < 0 or highest > _WHITE_16:
        if lowest >= -_HALF_16 and highest < _HALF_16:
            added = _HALF_16
        else:
            added, divisor = -int(limits.min), (int(limits.max) - int(limits.min)) // _WHITE_16
    words += f", {added} added" if added else ""
    words += f", divided by {divisor}" if divisor > 1 else ""
    strips = ((strip.double() + added) / divisor for strip in torch.split(samples, _STRIP))
    return torch.cat([strip.round_().clamp_(0, _WHITE_16).to(torch.uint16) for strip in strips]), words


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
    """The value in a GDAL_NODATA tag; None for NaN, which is always missing.

    Raises ValueError if it is not a number.
    """
    words = text.split("\0")[0].split()
    if not words:
        raise ValueError("the tag is empty")
    value = float(words[0])
    return None if math.isnan(value) else value
