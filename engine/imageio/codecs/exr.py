"""OpenEXR, read with the format's own library.

Source: Academy Software Foundation, "Technical Introduction to OpenEXR", 3.4, 2025.
"""

from collections.abc import Iterator, Mapping
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.imageio.formats import BrokenImage, Format, UnsupportedImage
from engine.imageio.image import Image, LazyFrame, from_array
from engine.imageio.metadata import Metadata
from engine.imageio.metadata.cicp import ColourCode, calibrated_profile
from engine.imageio.metadata.xmp import OTHERS_LOST

# Names of channels: of one image's colours, and of its transparency.
_COLOURS = (("R", "G", "B"), ("Y",))
_ALPHA = "A"
# Linear light with the primaries of BT.709, which files without chromaticities have.
_LINEAR = ColourCode(1, 8)
_SUPPORTED = "Supported are the channels R, G and B or Y alone, of floats, in full size, in scan lines or tiles"
_FLOATS = (np.float16, np.float32)


def open_exr(kind: Format, data: bytes) -> Iterator[LazyFrame]:
    """The first image of the file."""
    import OpenEXR

    # The library's own threads would not survive a fork.
    with OpenEXR.File(BytesIO(data), separate_channels=True, header_only=True, num_threads=0) as file:
        headers = [dict(part.header) for part in file.parts]
    if not headers:
        raise BrokenImage("The OpenEXR file is broken: it has no image.")
    header = headers[0]
    names = _colour_names(header)
    (left, top), (right, bottom) = header["dataWindow"]
    size = int(right) - int(left) + 1, int(bottom) - int(top) + 1

    def load() -> tuple[Image, tuple[str, ...]]:
        with OpenEXR.File(BytesIO(data), separate_channels=True, num_threads=0) as file:
            # The library leaves out an image that it cannot read.
            if len(file.parts) != len(headers):
                raise BrokenImage("The OpenEXR file is broken or cut short: pixels are missing.")
            channels = {name: channel.pixels for name, channel in file.parts[0].channels.items()}
        values, words = _values(channels, names)
        if values.shape[:2] != (size[1], size[0]):
            raise BrokenImage("The OpenEXR file is broken: its pixels are not of the size in its header.")
        metadata = _metadata(header, len(headers) > 1, len(names) == 1)
        return from_array(values, 32, metadata), (*words, *_window_words(header))

    yield LazyFrame(size, 32, load)


def _colour_names(header: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the channels that make the image. Raises UnsupportedImage."""
    channels = {channel.name: channel for channel in header["channels"]}
    names = next((names for names in _COLOURS if all(name in channels for name in names)), None)
    sampled = names and any((channels[name].xSampling, channels[name].ySampling) != (1, 1) for name in names)
    if not names or sampled or "deep" in str(header["type"]) or (names == ("Y",) and "RY" in channels):
        raise UnsupportedImage(f"The OpenEXR file has other channels than those that are read. {_SUPPORTED}.")
    return names


def _values(channels: Mapping[str, NDArray[Any]], names: tuple[str, ...]) -> tuple[NDArray[Any], tuple[str, ...]]:
    """(H, W, channels), transparency last, and what is left out or changed, in words."""
    planes = [channels[name] for name in names]
    alpha = channels.get(_ALPHA)
    if any(plane.dtype not in _FLOATS for plane in planes):
        raise UnsupportedImage(f"The OpenEXR file has whole numbers for samples. {_SUPPORTED}.")
    words: list[str] = []
    # Colours are multiplied by their transparency, which changes nothing where all is opaque.
    if alpha is not None and not (alpha == 1).all():
        raise UnsupportedImage(
            "The image's colours are multiplied by its transparency. Send it without transparency."
        )
    if any(name not in (*names, _ALPHA) for name in channels):
        words.append("without its further channels")
    if any(plane.dtype == np.float16 for plane in planes):
        words.append("float16 to float32")
    return np.stack([plane.astype(np.float32) for plane in planes], 2), tuple(words)


def _metadata(header: Mapping[str, Any], has_others: bool, grey: bool) -> Metadata:
    lost = (OTHERS_LOST,) if has_others else ()
    numbers = header.get("chromaticities")
    if numbers is None:
        return Metadata(lost=lost, colour_code=_LINEAR)
    red, green, blue, white = ((float(numbers[at]), float(numbers[at + 1])) for at in (0, 2, 4, 6))
    try:
        return Metadata(calibrated_profile((red, green, blue, white), 1.0, grey), lost=lost)
    except ValueError:
        return Metadata(lost=(*lost, "its colour space"))


def _window_words(header: Mapping[str, Any]) -> tuple[str, ...]:
    """Whether the file has pixels of another part of the image than is to be shown."""
    windows = [np.asarray(header[name]).tolist() for name in ("dataWindow", "displayWindow")]
    return () if windows[0] == windows[1] else ("the data window alone",)
