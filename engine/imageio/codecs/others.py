"""HEIC by pillow-heif, JPEG 2000 and JPEG XL by imagecodecs: each is imported when such an image comes."""

import struct
from collections.abc import Iterator
from io import BytesIO
from typing import cast

import numpy as np

from engine.imageio.codecs import jpegxl_header
from engine.imageio.formats import PIXELS_TAKEN, Format, UnsupportedImage
from engine.imageio.image import Frame, Image, from_array
from engine.imageio.metadata import NO_METADATA
from engine.imageio.metadata.isobmff import boxes, read_box_metadata
from engine.imageio.metadata.pillow import metadata_from_info


def open_heic(kind: Format, data: bytes) -> Iterator[Frame]:
    """The main image, which libheif turns itself, and of ten bits as of sixteen."""
    import pillow_heif

    file = pillow_heif.open_heif(BytesIO(data), convert_hdr_to_8bit=False)
    image = file[file.primary_index]
    depth = int(cast(int, image.info["bit_depth"]))

    def load() -> tuple[Image, tuple[str, ...]]:
        known = metadata_from_info(image.info)
        words = ("only the main one of several images",) if len(file) > 1 else ()
        values = np.asarray(image)
        if image.premultiplied_alpha:
            raise UnsupportedImage(f"The image is multiplied with its transparency; {PIXELS_TAKEN}.")
        # pillow-heif shifts them up to 16 bits, which leaves white short of white.
        if depth > 8:
            values = values >> (16 - depth)
        return from_array(values, depth, known), words

    yield Frame(image.size, depth, load)


def open_jp2(kind: Format, data: bytes) -> Iterator[Frame]:
    """An image in JP2's boxes, or bare."""
    import imagecodecs

    boxed = data.startswith(b"\0")
    # Where the image begins: what lies before it may look like one.
    start = next((body for kind, body in boxes(data) if kind == b"jp2c"), b"") if boxed else data
    size, bits = _jp2_header(start, _jp2_space(data) if boxed else None)
    known = read_box_metadata(data) if boxed else NO_METADATA

    def load() -> tuple[Image, tuple[str, ...]]:
        return from_array(imagecodecs.jpeg2k_decode(data), bits, known), ()

    yield Frame(size, bits, load)


def _jp2_header(data: bytes, space: int | None) -> tuple[tuple[int, int], int]:
    """(width, height) and bits. Raises UnsupportedImage."""
    right, below, left, top = struct.unpack_from(">4I", data, 8)
    (count,) = struct.unpack_from(">H", data, 40)
    parts = [struct.unpack_from("BBB", data, 42 + 3 * number) for number in range(min(count, 5))]
    bits = parts[0][0] + 1
    fault = None
    if len(set(parts)) > 1 or parts[0][1:] != (1, 1) or not 1 <= len(parts) <= 4:
        fault = "channels of different sizes or depths"
    elif bits > 16:
        fault = "signed numbers, or more than 16 bits a channel"
    elif space not in (16, 17, None):
        fault = f"a colour space, {space}, that is neither sRGB nor grey"
    if fault:
        raise UnsupportedImage(f"The JPEG 2000 file has {fault}; {PIXELS_TAKEN}.")
    return (right - left, below - top), bits


def _jp2_space(data: bytes) -> int | None:
    """The number of the colour space, or None where a profile says it."""
    for kind, body in boxes(data):
        if kind == b"colr":
            return struct.unpack_from(">I", body, 3)[0] if body[:1] == b"\1" else None
    return 16


def open_jxl(kind: Format, data: bytes) -> Iterator[Frame]:
    """An image in boxes, or bare."""
    import imagecodecs

    header = jpegxl_header.read_header(data)
    known = read_box_metadata(data) if data.startswith(b"\0") else NO_METADATA
    if header.fault:
        raise UnsupportedImage(f"The JPEG XL file has {header.fault}; {PIXELS_TAKEN}.")

    def load() -> tuple[Image, tuple[str, ...]]:
        values = imagecodecs.jpegxl_decode(data)
        # Turned by the decoder.
        return from_array(values, 8 * values.dtype.itemsize, known), ()

    yield Frame(header.size, header.bits, load)
