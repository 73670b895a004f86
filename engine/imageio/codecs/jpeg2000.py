"""JPEG 2000, read with imagecodecs.

Source: ISO/IEC 15444-1:2019, annex A for the codestream, annex I for the boxes.
"""

import struct
from collections.abc import Iterator

from engine.imageio.formats import SUPPORTED_PIXELS, Format, UnsupportedImage
from engine.imageio.image import Image, LazyFrame, from_array, is_kept, scaled_words
from engine.imageio.metadata import NO_METADATA
from engine.imageio.metadata.isobmff import boxes, read_box_metadata

# Colour spaces of a colr box.
_SRGB = 16
_GREY = 17
# Method of a colr box that names a colour space by number.
_ENUMERATED = b"\1"
_MAX_CHANNELS = 4


def open_jp2(kind: Format, data: bytes) -> Iterator[LazyFrame]:
    """The image of a JP2 file, or of a bare codestream."""
    import imagecodecs

    has_boxes = data.startswith(b"\0")
    codestream = next((body for kind, body in boxes(data) if kind == b"jp2c"), b"") if has_boxes else data
    size, bits = _read_header(codestream, _colour_space(data) if has_boxes else None)
    metadata = read_box_metadata(data) if has_boxes else NO_METADATA

    def load() -> tuple[Image, tuple[str, ...]]:
        values = imagecodecs.jpeg2k_decode(data)
        changed = () if is_kept(values.dtype, bits) else (scaled_words(bits),)
        return from_array(values, bits, metadata, metadata.orientation), changed

    yield LazyFrame(size, bits, load)


def _read_header(codestream: bytes, colour_space: int | None) -> tuple[tuple[int, int], int]:
    """(width, height) and bits per channel. Raises UnsupportedImage."""
    right, bottom, left, top = struct.unpack_from(">4I", codestream, 8)
    (channels,) = struct.unpack_from(">H", codestream, 40)
    # Of each channel: its bits less 1, and its subsampling across and down.
    layouts = [
        struct.unpack_from("BBB", codestream, 42 + 3 * channel)
        for channel in range(min(channels, _MAX_CHANNELS + 1))
    ]
    bits = layouts[0][0] + 1
    fault = None
    if len(set(layouts)) > 1 or layouts[0][1:] != (1, 1) or not 1 <= len(layouts) <= _MAX_CHANNELS:
        fault = "channels of different sizes or depths, or more than 4"
    elif bits > 16:
        fault = "signed integers, or more than 16 bits a channel"
    elif colour_space not in (_SRGB, _GREY, None):
        fault = f"colour space {colour_space}, which is neither sRGB nor grey"
    if fault:
        raise UnsupportedImage(f"The JPEG 2000 file has {fault}. {SUPPORTED_PIXELS}.")
    return (right - left, bottom - top), bits


def _colour_space(data: bytes) -> int | None:
    """The number of the colour space, or None if a profile defines it."""
    for kind, body in boxes(data):
        if kind == b"colr":
            return struct.unpack_from(">I", body, 3)[0] if body[:1] == _ENUMERATED else None
    return _SRGB
