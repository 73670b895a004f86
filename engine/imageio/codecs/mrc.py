"""MRC, the format of electron microscopes, read with mrcfile, an optional package.

mrcfile reads and checks the header. The sections follow one another in the file, and each is a page, read from
the file's bytes when it is needed. The first row is the lowest one, so rows are turned over.

Source: Cheng et al., "MRC2014: Extensions to the MRC format header for electron cryo-microscopy and tomography",
Journal of Structural Biology 2015.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.imageio.formats import SUPPORTED_PIXELS, BrokenImage, Format, UnsupportedImage
from engine.imageio.image import Image, LazyFrame, from_array
from engine.imageio.mapped_file import open_stream
from engine.imageio.metadata import Metadata

_HEADER_BYTES = 1024
_LOST = "the MRC header"
_MODES = {3: "complex integers", 4: "complex numbers", 101: "4-bit integers"}
_FLOAT_BITS = 32


def open_mrc(kind: Format, data: bytes) -> Iterator[LazyFrame]:
    """The sections of the file."""
    header, dtype = _read_header(data)
    width, height, sections = (int(header[name]) for name in ("nx", "ny", "nz"))
    start = _HEADER_BYTES + int(header["nsymbt"])
    if min(width, height, sections) < 1 or start < _HEADER_BYTES:
        raise BrokenImage(f"The MRC file is broken: its header says {width} x {height} x {sections} pixels.")
    count = width * height
    bits = 16 if dtype.newbyteorder("=") == np.uint16 else _FLOAT_BITS
    for section in range(sections):
        first = start + section * count * dtype.itemsize
        yield LazyFrame((width, height), bits, partial(_load, data, first, dtype, (height, width)))


def _read_header(data: bytes) -> tuple[Any, np.dtype[Any]]:
    """The header, and the type of the samples in the file's order of bytes."""
    interpreter, utils = _import_mrcfile()
    if len(data) < _HEADER_BYTES:
        raise BrokenImage("The MRC file is broken or cut short: its header is not complete.")
    with open_stream(data[:_HEADER_BYTES]) as stream:
        # Permissive: what is odd in a header and does not matter to its pixels is no error.
        header = interpreter(iostream=stream, permissive=True, header_only=True).header.copy()
    mode = int(header["mode"])
    if mode in _MODES:
        raise UnsupportedImage(f"The image's pixels are {_MODES[mode]}. {SUPPORTED_PIXELS}.")
    return header, utils.data_dtype_from_header(header)


def _load(data: bytes, first: int, dtype: np.dtype[Any], shape: tuple[int, int]) -> tuple[Image, tuple[str, ...]]:
    if first + shape[0] * shape[1] * dtype.itemsize > len(data):
        raise BrokenImage("The MRC file is broken or cut short: pixels are missing.")
    values: NDArray[Any] = np.frombuffer(data, dtype, shape[0] * shape[1], first).reshape(shape)
    words = ("float16 to float32",) if values.dtype.itemsize == 2 and values.dtype.kind == "f" else ()
    values = values.astype(np.float32 if words else dtype.newbyteorder("="))[::-1]
    bits = 16 if values.dtype == np.uint16 else _FLOAT_BITS
    return from_array(values, bits, Metadata(lost=(_LOST,))), words


def _import_mrcfile() -> tuple[Any, Any]:
    """mrcfile's interpreter and its utilities. Raises UnsupportedImage if it is not installed."""
    try:
        from mrcfile import utils
        from mrcfile.mrcinterpreter import MrcInterpreter
    except ModuleNotFoundError as error:
        raise UnsupportedImage(
            "This is an MRC file. Reading it needs the Python package mrcfile, which is not installed. "
            "Install it with: pip install 'denoise[science]'. Or convert the file to TIFF first."
        ) from error
    return MrcInterpreter, utils
