"""Netpbm: PBM, PGM, PPM, PAM and PFM. Pillow reads them with 8 bits a channel only.

Sources: J. Poskanzer, "pbm", "pgm", "ppm" and "pam", Netpbm's manuals, 2013; P. Debevec, "PFM Portable FloatMap
Image Format", 1998.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.imageio.formats import SUPPORTED_PIXELS, BrokenImage, Format, UnsupportedImage
from engine.imageio.image import Image, LazyFrame, from_array
from engine.imageio.metadata import NO_METADATA

_NUMBER = re.compile(rb"(?:\s|#[^\n\r]*[\n\r])*([0-9]{1,10})")
_SCALE = re.compile(rb"\s*(-?[0-9.eE+-]{1,30})")
_START = re.compile(rb"\s*(?=P[1-7Ff])")
_COMMENT = re.compile(rb"#[^\n\r]*")
_NO_BIT = re.compile(rb"[^01]+")
# A PAM's header ends with this line, within this many bytes.
_PAM_END = b"ENDHDR\n"
_PAM_HEADER = 4096
_FLOAT_CHANNELS = {b"Pf": 1, b"PF": 3, b"PF4": 4}
_MAX_VALUE = 65535
# Kinds whose pixels are text.
_TEXT = (b"P1", b"P2", b"P3")


@dataclass(frozen=True)
class _Header:
    """size: (width, height). largest: the sample that is white; 0 for floats. start: where the pixels start."""

    kind: bytes
    size: tuple[int, int]
    channels: int
    largest: int
    start: int
    scale: float = 0.0

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the samples in the file."""
        if not self.largest:
            return np.dtype("<f4" if self.scale < 0 else ">f4")
        return np.dtype(np.uint8 if self.largest < 256 else ">u2")

    @property
    def bytes(self) -> int:
        """Of the pixels in a file that is not text."""
        width, height = self.size
        if self.kind == b"P4":
            return (width + 7) // 8 * height
        return width * height * self.channels * self.dtype.itemsize


def open_netpbm(kind: Format, data: bytes) -> Iterator[LazyFrame]:
    """The images of a file, which follow one another."""
    at = 0
    while match := _START.match(data, at):
        header = _read_header(data, match.end())
        bits = 32 if not header.largest else max(8, header.largest.bit_length())
        yield LazyFrame(header.size, bits, partial(_load, data, header))
        if header.kind in _TEXT:
            return
        at = header.start + header.bytes


def _read_header(data: bytes, at: int) -> _Header:
    kind = data[at : at + 3] if data[at : at + 3] == b"PF4" else data[at : at + 2]
    if kind == b"P7":
        return _read_pam_header(data, at)
    at += len(kind)
    width, at = _number(data, at)
    height, at = _number(data, at)
    if kind in _FLOAT_CHANNELS:
        if not (scale := _SCALE.match(data, at)) or not float(scale[1]):
            raise BrokenImage("The Netpbm file is broken: a PFM has no scale.")
        return _Header(kind, (width, height), _FLOAT_CHANNELS[kind], 0, scale.end() + 1, float(scale[1]))
    largest, at = (1, at) if kind in (b"P1", b"P4") else _number(data, at)
    _refuse_largest(largest)
    return _Header(kind, (width, height), 3 if kind in (b"P3", b"P6") else 1, largest, at + 1)


def _read_pam_header(data: bytes, at: int) -> _Header:
    end = data.find(_PAM_END, at, at + _PAM_HEADER)
    fields = dict(
        line.split(maxsplit=1) for line in data[at:end].splitlines()[1:] if len(line.split(maxsplit=1)) == 2
    )
    names = (b"WIDTH", b"HEIGHT", b"DEPTH", b"MAXVAL")
    if end < 0 or not all(fields.get(name, b"").strip().isdigit() for name in names):
        raise BrokenImage("The Netpbm file is broken: the header of a PAM is not complete.")
    width, height, channels, largest = (int(fields[name]) for name in names)
    _refuse_largest(largest)
    if channels not in (1, 2, 3, 4):
        raise UnsupportedImage(f"The image has {channels} channels. {SUPPORTED_PIXELS}.")
    return _Header(b"P7", (width, height), channels, largest, end + len(_PAM_END))


def _number(data: bytes, at: int) -> tuple[int, int]:
    """The next number of a header, and where it ends."""
    if not (match := _NUMBER.match(data, at)):
        raise BrokenImage("The Netpbm file is broken: its header is not complete.")
    return int(match[1]), match.end()


def _refuse_largest(largest: int) -> None:
    if not 1 <= largest <= _MAX_VALUE:
        raise BrokenImage(
            f"The Netpbm file is broken: its largest sample is {largest}; 1 to {_MAX_VALUE} can be."
        )


def _load(data: bytes, header: _Header) -> tuple[Image, tuple[str, ...]]:
    width, height = header.size
    read: Callable[[bytes, _Header], NDArray[Any]] = _read_text if header.kind in _TEXT else _read_binary
    values = read(data, header)
    if header.kind in (b"P1", b"P4"):
        # 1 is black.
        values = 1 - values
    values = values.reshape(height, width, header.channels)
    if not header.largest:
        # From the bottom row to the top row.
        return from_array(values[::-1].astype(np.float32), 32, NO_METADATA), ()
    return _scaled(values, header.largest)


def _read_text(data: bytes, header: _Header) -> NDArray[Any]:
    width, height = header.size
    count = width * height * header.channels
    text = _COMMENT.sub(b"", data[header.start - 1 :])
    values: NDArray[Any]
    if header.kind == b"P1":
        values = np.frombuffer(_NO_BIT.sub(b"", text), np.uint8)[:count] - ord("0")
    else:
        # Given a count, it would make up what is missing.
        values = np.fromstring(text.decode("ascii"), np.int64, sep=" ")[:count]
    if len(values) < count:
        raise BrokenImage("The Netpbm file is broken or cut short: pixels are missing.")
    return values


def _read_binary(data: bytes, header: _Header) -> NDArray[Any]:
    if header.start + header.bytes > len(data):
        raise BrokenImage("The Netpbm file is broken or cut short: pixels are missing.")
    if header.kind == b"P4":
        packed = np.frombuffer(data, np.uint8, header.bytes, header.start).reshape(header.size[1], -1)
        return np.unpackbits(packed, axis=1)[:, : header.size[0]]
    return np.frombuffer(data, header.dtype, header.bytes // header.dtype.itemsize, header.start)


def _scaled(values: NDArray[Any], largest: int) -> tuple[Image, tuple[str, ...]]:
    """The image of 8 or 16 bits, in which the largest sample is white."""
    white, dtype = (255, np.uint8) if largest < 256 else (65535, np.uint16)
    if int(values.max(initial=0)) > largest or int(values.min(initial=0)) < 0:
        raise BrokenImage(f"The Netpbm file is broken: it has samples beyond {largest}, its largest one.")
    words: tuple[str, ...] = ()
    if largest != white:
        values = (values.astype(np.uint32) * white + largest // 2) // largest
        words = (f"samples up to {largest} scaled to {white}",) if largest > 1 else ()
    return from_array(values.astype(dtype), 8 * np.dtype(dtype).itemsize, NO_METADATA), words
