"""Fill values that a file does not declare, such as -9999 in a block beside samples of 100 to 300.

A value is taken for a fill value if all of this holds:

- It is the least or the largest of the page, and the type has more than 8 bits.
- Enough samples have it, and most of these have eight neighbours of the same value. Impulses and dead pixels are
  scattered, and do not count.
- It lies far from the others: the gap is larger than the range of the 99.9 % that are nearest. A saturated star
  does not count, since the values of its halo fill the gap.
- The other samples, too, lie together. Single photons on a background of 0 do not count.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

_Samples = NDArray[np.generic]
_Mask = NDArray[np.bool_]

# Samples that are looked at first. They rule out nearly every image, so few are read as a whole.
_FIRST_LOOK = 2**16
# The least share of a page's samples, and the least number of them, that have a fill value.
_LEAST_SHARE = 0.001
_LEAST_SAMPLES = 64
# The share of samples, the farthest ones, that do not count for the range.
_OUTLIERS = 0.001
# Rows that are handled at a time.
_STRIP = 256


def find_fill_values(values: _Samples, is_missing: Callable[[_Samples], _Mask]) -> tuple[float, ...]:
    """The fill values among samples (H, W, C): none, one or two.

    is_missing: where samples are known to be missing. These do not count.
    """
    if values.dtype.kind not in "iuf" or values.dtype == np.uint8:
        return ()
    step = max(1, math.isqrt(values.size // _FIRST_LOOK))
    part = values[::step, ::step]
    present = part[~is_missing(part)]
    if len(present) < _LEAST_SAMPLES:
        return ()
    ends = (present.min().item(), present.max().item())
    rest = present[(present != ends[0]) & (present != ends[1])].astype(np.float64)
    if not len(rest):
        return ()
    bulk = tuple(np.quantile(rest, (_OUTLIERS, 1 - _OUTLIERS)).tolist())
    far = _far_ends(ends, (float(rest.min()), float(rest.max())), bulk)
    least = _LEAST_SHARE / 2 * part.size
    found = [value for value in far if np.count_nonzero(present == value) >= least]
    # What turns out to be no fill value counts among the others from then on.
    while found:
        confirmed = _confirmed(values, is_missing, found, bulk)
        if confirmed == found:
            break
        found = confirmed
    return tuple(found)


def _far_ends(ends: tuple[float, float], rest: tuple[float, float], bulk: tuple[float, ...]) -> tuple[float, ...]:
    """Which of the least and largest values are far from the rest.

    rest: the least and largest of the other samples. bulk: the same, without outliers.
    """
    is_low = rest[0] - ends[0] > bulk[1] - rest[0] > 0
    is_high = ends[1] - rest[1] > rest[1] - bulk[0] > 0
    return ends[:1] * is_low + ends[1:] * is_high


def _confirmed(
    values: _Samples, is_missing: Callable[[_Samples], _Mask], found: Sequence[float], bulk: tuple[float, ...]
) -> list[float]:
    """Those of the values found that hold for all samples."""
    counts = np.zeros(len(found) + 1, np.int64)
    insides = np.zeros(len(found) + 1, np.int64)
    low, high = math.inf, -math.inf
    for top in range(0, len(values), _STRIP):
        above = min(top, 1)
        rows = values[top - above : top + _STRIP + 1]
        own = slice(above, above + min(_STRIP, len(values) - top))
        masks = [rows == value for value in found]
        masks.append(~np.logical_or.reduce(masks))
        for number, mask in enumerate(masks):
            counts[number] += np.count_nonzero(mask[own])
            insides[number] += np.count_nonzero(_inside(mask)[own])
        rest = rows[masks[-1] & ~is_missing(rows)]
        if len(rest):
            low, high = min(low, rest.min().item()), max(high, rest.max().item())
    are_areas = 2 * insides >= counts
    least = max(_LEAST_SAMPLES, _LEAST_SHARE * values.size)
    if not are_areas[-1]:
        return []
    far = _far_ends((min(found), max(found)), (low, high), bulk)
    return [
        value
        for value, count, is_area in zip(found, counts, are_areas, strict=False)
        if value in far and count >= least and is_area
    ]


def _inside(mask: _Mask) -> _Mask:
    """Where a sample and its eight neighbours are in the mask (H, W, C). All beyond its sides is in it."""
    wide = np.pad(mask, ((1, 1), (1, 1), (0, 0)), constant_values=True)
    across = wide[:, :-2] & wide[:, 1:-1] & wide[:, 2:]
    inside: _Mask = across[:-2] & across[1:-1] & across[2:]
    return inside
