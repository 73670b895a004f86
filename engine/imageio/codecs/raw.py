"""Camera raw files, developed with LibRaw through rawpy, an optional package.

- LibRaw runs on one thread. It is imported by the process that decodes, never by a process that is forked later:
  OpenMP does not survive a fork, and the child would hang.
- rawpy's arrays are views of LibRaw's memory: reading one after `close` crashes the process. So every array is
  copied.
- LibRaw's wavelet denoising, rawpy's `noise_thr`, is never used: it crashed or hung the process.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from types import ModuleType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from engine.defaults import COLOUR, Colour
from engine.imageio.formats import BrokenImage, ImageTooLarge, UnsupportedImage
from engine.imageio.image import Image, LazyFrame, from_array
from engine.imageio.metadata import Metadata
from engine.imageio.metadata.camera_raw import (
    NoiseProfile,
    is_cut_short,
    is_dng,
    new_raw_exif,
    read_noise_profile,
    read_raw_exif,
)
from engine.imageio.metadata.icc import PROPHOTO_GAMMA, prophoto_profile

if TYPE_CHECKING:
    from rawpy import RawPy

# (exponent, slope at black) of the curves from linear light.
_SRGB_CURVE = (2.4, 12.92)
_PROPHOTO_CURVE = (PROPHOTO_GAMMA, 0.0)
# Of a Bayer mosaic: LibRaw numbers red 0, blue 2, and the two greens 1 and 3.
_BAYER = [0, 1, 2, 3]
_BAYER_COLOURS = 3
# A pixel's width is at most so many heights, and the reverse.
_MAX_ASPECT = 4.0
# All pixels of the sensor, to those that show the image.
_MAX_MARGINS = 4
# Rows at the end of the image that hold no data if all their pixels are 0: 1 of so many, and at least so many.
_END_SHARE = 16
_LEAST_END_ROWS = 2
# Sensors saturate at or below the white level that LibRaw knows for the camera. The highest value is taken for
# saturation if it lies above this share of that level, and at least so many pixels are within a share of it.
_LOWEST_SATURATION = 0.75
_SATURATED_PIXELS = 1e-4
_SATURATION_SPREAD = 0.005


@dataclass(frozen=True)
class RawMosaic:
    """What a camera's sensor with a Bayer mosaic measured, linear in the light.

    values: uint16 (H, W), the part that shows the image, before it is turned upright.
    pattern: the colours of the pixels of an even and of an odd row: 0 red, 1 and 3 green, 2 blue.
    black: the value that stands for no light, by colour. white: the value at which the sensor saturates, as the
        file or LibRaw's table of cameras states it.
    noise_profile: as the file states it, for values from black (0) to white (1). One pair, or those of red, green
        and blue.
    """

    values: NDArray[np.uint16]
    pattern: tuple[tuple[int, int], tuple[int, int]]
    black: tuple[int, int, int, int]
    white: int
    noise_profile: NoiseProfile | None = None


def open_raw(
    data: bytes, colour: Colour = COLOUR, mosaic: NDArray[np.uint16] | None = None
) -> Iterator[LazyFrame]:
    """The developed image. mosaic: as RawFile.develop."""
    with RawFile(data) as file:
        yield LazyFrame(file.size, 16, lambda: file.develop(colour, mosaic))


class RawFile:
    """An open raw file. Use it in a `with` block.

    size: (width, height) of the developed image, before it is turned upright, from the header.
    """

    def __init__(self, data: bytes) -> None:
        """Raises UnsupportedImage, BrokenImage or MemoryError."""
        self._data = data
        self._unpacked = False
        self._rawpy = _import_rawpy()
        if is_cut_short(data):
            raise BrokenImage("The camera raw file is broken or cut short: raw data lie beyond its end.")
        self._raw: RawPy = self._rawpy.RawPy()
        try:
            with self._errors():
                self._raw.open_buffer(BytesIO(data))
                self.size = self._read_size()
        except BaseException:
            self._raw.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Frees LibRaw's memory."""
        self._raw.close()

    def mosaic(self) -> RawMosaic | None:
        """A copy of the sensor's values; None if they are no Bayer mosaic."""
        with self._errors():
            self._unpack()
            pattern = self._bayer_pattern()
            if pattern is None:
                return None
            red, green, blue, second_green = self._raw.black_level_per_channel
            return RawMosaic(
                self._raw.raw_image_visible.copy(),
                pattern,
                (red, green, blue, second_green),
                int(self._raw.white_level),
                read_noise_profile(self._data),
            )

    def develop(self, colour: Colour, mosaic: NDArray[np.uint16] | None = None) -> tuple[Image, tuple[str, ...]]:
        """The developed image, upright, and how it was developed, in words.

        mosaic: values that take the place of the sensor's, of the same shape.
        """
        with self._errors():
            self._unpack()
            values, words = self._develop(colour, mosaic)
            is_grey = values.shape[2] == 1
            profile = prophoto_profile() if colour == "prophoto" and not is_grey else None
            return from_array(values, 16, Metadata(profile, self._exif())), words

    def _develop(
        self, colour: Colour, mosaic: NDArray[np.uint16] | None
    ) -> tuple[NDArray[np.uint16], tuple[str, ...]]:
        raw, rawpy = self._raw, self._rawpy
        saturation = self._saturation()
        is_bayer = self._bayer_pattern() is not None
        if mosaic is not None:
            self._replace(mosaic, is_bayer)
        is_grey = raw.num_colors == 1
        wide = colour == "prophoto" and not is_grey
        red, _, blue, _ = raw.camera_whitebalance
        balanced = red > 0 and blue > 0
        view = raw.postprocess(
            use_camera_wb=balanced and not is_grey,
            user_wb=[1.0, 1.0, 1.0, 1.0] if is_grey else None,
            output_color=rawpy.ColorSpace.ProPhoto if wide else rawpy.ColorSpace.sRGB,
            output_bps=16,
            no_auto_bright=True,
            adjust_maximum_thr=0.0,
            user_sat=saturation,
            gamma=_PROPHOTO_CURVE if wide else _SRGB_CURVE,
        )
        values: NDArray[np.uint16] = np.array(view)
        # It may not outlive LibRaw's memory.
        del view
        width, height = self.size
        if values.shape[0] * values.shape[1] > width * height:
            raise BrokenImage("The camera raw file is broken: it says more than one size.")
        balance = "grey" if is_grey else f"{'camera' if balanced else 'daylight'} white balance"
        space = "ProPhoto RGB" if wide else "sRGB"
        words = [f"developed from a camera's raw file ({balance}, {space})"]
        if not is_bayer:
            words.append("denoised after developing: the file has no Bayer mosaic")
        return values, tuple(words)

    def _replace(self, mosaic: NDArray[np.uint16], is_bayer: bool) -> None:
        visible = self._raw.raw_image_visible
        if not is_bayer or visible.shape != mosaic.shape or mosaic.dtype != np.uint16:
            own = f"uint16, {visible.shape}" if is_bayer else "no Bayer mosaic"
            raise UnsupportedImage(
                f"The mosaic does not fit the file: it is {mosaic.dtype}, {mosaic.shape}. The file's is {own}."
            )
        visible[:] = mosaic

    def _read_size(self) -> tuple[int, int]:
        """Raises BrokenImage."""
        sizes = self._raw.sizes
        width, height, aspect = sizes.width, sizes.height, sizes.pixel_aspect
        if not 1 / _MAX_ASPECT <= aspect <= _MAX_ASPECT:
            raise BrokenImage(f"The camera raw file is broken: its pixels are {aspect:g} times as wide as high.")
        if sizes.raw_width * sizes.raw_height > _MAX_MARGINS * width * height:
            raise BrokenImage(
                "The camera raw file is broken: its sensor has "
                f"{sizes.raw_width} x {sizes.raw_height} pixels, and its image {width} x {height}."
            )
        # LibRaw makes the pixels square.
        if aspect < 1:
            return width, int(height / aspect + 0.5)
        return int(width * aspect + 0.5), height

    def _unpack(self) -> None:
        """Reads the sensor's values, once. Raises BrokenImage if some are missing."""
        if self._unpacked:
            return
        self._raw.unpack()
        self._unpacked = True
        visible = self._raw.raw_image_visible
        rows = max(_LEAST_END_ROWS, len(visible) // _END_SHARE)
        if not visible[-rows:].any():
            raise BrokenImage(f"The camera raw file is broken or cut short: its last {rows} rows hold no data.")

    def _bayer_pattern(self) -> tuple[tuple[int, int], tuple[int, int]] | None:
        """The colours of the visible part's first pixels; None if the sensor has no Bayer mosaic."""
        raw = self._raw
        if raw.raw_type != self._rawpy.RawType.Flat or raw.num_colors != _BAYER_COLOURS:
            return None
        try:
            pattern = raw.raw_pattern
        except NotImplementedError:
            return None
        if pattern is None or pattern.shape != (2, 2) or sorted(pattern.ravel().tolist()) != _BAYER:
            return None
        top, left = raw.sizes.top_margin, raw.sizes.left_margin
        first, second = ((raw.raw_color(top + y, left), raw.raw_color(top + y, left + 1)) for y in range(2))
        return first, second

    def _saturation(self) -> int | None:
        """The value at which the sensor saturates; None if LibRaw's white level is to be used.

        LibRaw itself would take the highest value of any file for saturation, and so change its brightness.
        """
        raw = self._raw
        if raw.raw_type != self._rawpy.RawType.Flat or is_dng(self._data):
            return None
        visible = raw.raw_image_visible
        top, white = int(visible.max()), int(raw.white_level)
        if not _LOWEST_SATURATION * white < top < white:
            return None
        near = np.count_nonzero(visible >= top * (1 - _SATURATION_SPREAD))
        return top if near >= _SATURATED_PIXELS * visible.size else None

    def _exif(self) -> bytes | None:
        exif = read_raw_exif(self._data)
        if exif:
            return exif
        try:
            known, lens = self._raw.other, self._raw.lens
        # A date that does not exist.
        except (ValueError, OverflowError, OSError):
            return None
        # LibRaw gives the start of 1970 where the file has no date.
        taken = known.timestamp if known.timestamp > datetime(1971, 1, 1) else None
        return new_raw_exif(
            known.shutter_speed,
            known.aperture,
            known.iso_speed,
            known.focal_length,
            taken,
            known.artist,
            lens.model,
        )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turns LibRaw's errors into ours."""
        rawpy = self._rawpy
        try:
            yield
        except (rawpy.LibRawUnsufficientMemoryError, rawpy.LibRawMemPoolOverflowError) as error:
            raise MemoryError("LibRaw has too little memory to read the camera raw file.") from error
        except rawpy.LibRawTooBigError as error:
            raise ImageTooLarge("The camera raw file has more raw data than LibRaw reads.") from error
        except (
            rawpy.LibRawFileUnsupportedError,
            rawpy.LibRawNotImplementedError,
            rawpy.LibRawRequestForNonexistentImageError,
            NotImplementedError,
        ) as error:
            raise UnsupportedImage(
                "This is a camera's raw file that LibRaw cannot open: it does not know the camera or the "
                "compression, or the file is cut short. Convert the file to DNG, or develop it to TIFF."
            ) from error
        except (rawpy.LibRawError, OSError) as error:
            raise BrokenImage(f"The camera raw file is broken or cut short: {_text_of(error)}.") from error


def _text_of(error: Exception) -> str:
    """LibRaw's words, which rawpy gives as bytes."""
    text: Any = error.args[0] if error.args else ""
    return text.decode("ascii", "replace") if isinstance(text, bytes) else str(text)


def _import_rawpy() -> ModuleType:
    """Raises UnsupportedImage if it is not installed."""
    try:
        import rawpy
    except ModuleNotFoundError as error:
        raise UnsupportedImage(
            "This is a camera's raw file. Reading it needs the Python package rawpy, which is not installed. "
            "Install it with: pip install 'denoise[raw]'. Or develop the file to TIFF first."
        ) from error
    return rawpy
