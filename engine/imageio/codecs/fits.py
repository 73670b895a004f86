"""FITS, the format of telescopes, read with astropy, an optional package.

- The first image of the file is read: often the main header has none, and the image follows in an extension,
  which may be compressed in tiles (.fz).
- The planes of a cube are pages. Three planes that the header calls RGB are one image in colour.
- The first row of a FITS file is the lowest one, so rows are turned over, unless the header says otherwise.

Sources: FITS Working Group, "Definition of the Flexible Image Transport System (FITS)", version 4.0, 2018;
the keyword ROWORDER, Siril's documentation, "Orientation of FITS images".
"""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from engine.imageio.formats import SUPPORTED_PIXELS, BrokenImage, Format, UnsupportedImage
from engine.imageio.image import Image, LazyFrame, from_array
from engine.imageio.mapped_file import open_stream
from engine.imageio.metadata import Metadata
from engine.imageio.samples import STORED_TYPES, is_exact_in_float32

# Names of the third axis of an image in colour.
_COLOUR_AXES = ("RGB", "COLOR", "COLOUR")
_TOP_DOWN = "TOP-DOWN"
_FLOAT_BITS = 32
# Types that integers of 64 bits are read as.
_SHORTER = ("int32", "uint32")
_LOST = "the FITS header"


def open_fits(kind: Format, data: bytes) -> Iterator[LazyFrame]:
    """The planes of the first image of the file."""
    fits = _import_fits()
    with open_stream(data) as stream, _opened(fits, stream) as file:
        number, unit = _first_image(file)
        shape = tuple(int(size) for size in unit.shape)
        words = _words(file, number)
        height, width = shape[-2:]
        if not all(shape):
            raise BrokenImage("The FITS file is broken: its image has no pixels.")
        bits = _bits(unit.header)
        if _is_colour(unit.header, shape):
            yield LazyFrame((width, height), bits, partial(_load, unit, (slice(None),), words))
            return
        for place in np.ndindex(shape[:-2]):
            yield LazyFrame((width, height), bits, partial(_load, unit, place, words))


def _opened(fits: Any, stream: BinaryIO) -> Any:
    try:
        return fits.open(stream, memmap=False, lazy_load_hdus=True)
    # astropy's words for this advise to ignore what is missing.
    except OSError as error:
        raise BrokenImage("The FITS file is broken or cut short: its header cannot be read.") from error


def _first_image(file: Any) -> tuple[int, Any]:
    """The first part of the file with an image, and its number."""
    for number, unit in enumerate(file):
        if getattr(unit, "is_image", False) and len(unit.shape) >= 2:
            return number, unit
    raise UnsupportedImage("The FITS file has no image: it holds a spectrum or tables alone. Send another file.")


def _words(file: Any, number: int) -> tuple[str, ...]:
    """That the file has more images than the one that is read, in words."""
    try:
        others = any(getattr(unit, "is_image", False) and len(unit.shape) >= 2 for unit in file[number + 1 :])
    # What follows the image may be broken.
    except Exception:
        others = False
    return ("the first image of several",) if others else ()


def _is_colour(header: Any, shape: tuple[int, ...]) -> bool:
    name = str(header.get("CTYPE3", "")).strip().upper()
    return len(shape) == 3 and shape[0] == 3 and name in _COLOUR_AXES


def _bits(header: Any) -> int:
    """Of the samples: 32 if they become floats."""
    bits, zero, scale = int(header["BITPIX"]), float(header.get("BZERO", 0)), float(header.get("BSCALE", 1))
    if bits == 8 and zero == 0 and scale == 1:
        return 8
    # Unsigned integers of 16 bits are stored with this zero.
    return 16 if bits == 16 and zero == 2**15 and scale == 1 else _FLOAT_BITS


def _load(unit: Any, place: tuple[Any, ...], words: tuple[str, ...]) -> tuple[Image, tuple[str, ...]]:
    values: NDArray[Any] = np.asarray(unit.section[(*place, slice(None), slice(None))])
    if values.ndim == 3:
        values = values.transpose(1, 2, 0)
    # Files are big-endian.
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if values.dtype.kind == "c":
        raise UnsupportedImage(f"The image's pixels are complex numbers. {SUPPORTED_PIXELS}.")
    values, more = _in_known_type(values)
    if str(unit.header.get("ROWORDER", "")).strip().upper() != _TOP_DOWN:
        values = values[::-1]
    bits = {"uint8": 8, "uint16": 16}.get(values.dtype.name, _FLOAT_BITS)
    return from_array(values, bits, Metadata(lost=(_LOST,)), nodata=_blank(unit.header, values)), (*words, *more)


def _in_known_type(values: NDArray[Any]) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Integers of 64 bits become those of 32 bits, with or without a sign, if they fit, and else floats."""
    words: tuple[str, ...] = ()
    if values.dtype.kind in "iu" and values.dtype.itemsize == 8:
        low, high = int(values.min()), int(values.max())
        name = next(
            (each for each in _SHORTER if np.iinfo(each).min <= low and high <= np.iinfo(each).max), "float64"
        )
        values = values.astype(name)
        words = (f"64 bits to {STORED_TYPES[name]}",)
    if not is_exact_in_float32(values):
        words = (*words, f"{STORED_TYPES[values.dtype.name]} to the precision of 32-bit floats")
    return values, words


def _blank(header: Any, values: NDArray[Any]) -> float | None:
    """The value of missing samples that are integers. Those of scaled samples are not a number already."""
    blank = header.get("BLANK")
    if values.dtype.kind not in "iu" or not isinstance(blank, int):
        return None
    value = blank * float(header.get("BSCALE", 1)) + float(header.get("BZERO", 0))
    return value if math.isfinite(value) else None


def _import_fits() -> Any:
    """Raises UnsupportedImage if astropy is not installed."""
    try:
        from astropy.io import fits
    except ModuleNotFoundError as error:
        raise UnsupportedImage(
            "This is a FITS file. Reading it needs the Python package astropy, which is not installed. "
            "Install it with: pip install 'denoise[science]'. Or convert the file to TIFF first."
        ) from error
    return fits
