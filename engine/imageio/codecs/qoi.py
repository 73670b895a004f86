"""QOI, read with imagecodecs. Source: D. Szablewski, "The Quite OK Image Format Specification", 1.0, 2022."""

import struct
from collections.abc import Iterator

from engine.imageio.formats import BrokenImage, Format
from engine.imageio.image import Image, LazyFrame, from_array
from engine.imageio.metadata import NO_METADATA

# Width, height, channels and colour space, behind the signature.
_HEADER = ">IIBB"
_HEADER_AT = 4
_LINEAR = 1
_END = bytes(7) + b"\1"


def open_qoi(kind: Format, data: bytes) -> Iterator[LazyFrame]:
    """The only image."""
    import imagecodecs

    width, height, _, colour_space = struct.unpack_from(_HEADER, data, _HEADER_AT)
    # The specification calls the field informative, and encoders write 1 for images in sRGB too.
    words = ("read as sRGB, though its header says linear light",) if colour_space == _LINEAR else ()

    def load() -> tuple[Image, tuple[str, ...]]:
        # The decoder repeats the last pixel where pixels are missing.
        if not data.endswith(_END):
            raise BrokenImage("The QOI file is broken or cut short: its end is missing.")
        return from_array(imagecodecs.qoi_decode(data), 8, NO_METADATA), words

    yield LazyFrame((width, height), 8, load)
