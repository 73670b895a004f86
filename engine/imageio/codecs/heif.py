"""HEIC, read with pillow-heif."""

from collections.abc import Iterator
from io import BytesIO
from typing import cast

import numpy as np

from engine.imageio.formats import SUPPORTED_PIXELS, Format, UnsupportedImage
from engine.imageio.image import Image, LazyFrame, from_array
from engine.imageio.metadata.heif import with_heif_items
from engine.imageio.metadata.pillow import metadata_from_info


def open_heic(kind: Format, data: bytes) -> Iterator[LazyFrame]:
    """The main image of the file. libheif turns it upright."""
    import pillow_heif

    file = pillow_heif.open_heif(BytesIO(data), convert_hdr_to_8bit=False)
    image = file[file.primary_index]
    bits = int(cast(int, image.info["bit_depth"]))

    def load() -> tuple[Image, tuple[str, ...]]:
        values = np.asarray(image)
        if image.premultiplied_alpha:
            raise UnsupportedImage(f"The image's colours are multiplied by its transparency. {SUPPORTED_PIXELS}.")
        # pillow-heif shifts deeper samples up to 16 bits, which leaves white below 65535.
        if bits > 8:
            values = values >> (16 - bits)
        return from_array(values, bits, with_heif_items(metadata_from_info(image.info), data)), ()

    yield LazyFrame(image.size, bits, load)
