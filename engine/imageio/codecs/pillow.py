"""What has 8 bits, by Pillow; and PNG and AVIF of more, of which it would drop the lower ones without a word."""

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from io import BytesIO

import numpy as np
import torch
from PIL import Image as PILImage
from PIL import ImageFile, ImageOps, PngImagePlugin
from torch import Tensor

from engine.imageio.formats import PIXELS_TAKEN, BrokenImage, Format, UnsupportedImage
from engine.imageio.image import STRIP, Frame, Image, from_array
from engine.imageio.metadata import Metadata
from engine.imageio.metadata.limits import MAX_BYTES
from engine.imageio.metadata.pillow import metadata_from_info
from engine.imageio.metadata.png import png_chunks, png_without_metadata, read_png_metadata

# Pillow's modes.
_GREY, _GREY_16 = {"1", "L", "LA", "La"}, {"I;16", "I;16B", "I;16L"}
_PALETTE = {"P", "PA"}
_COLOUR = {*_PALETTE, "RGB", "RGBA", "RGBa", "RGBX", "YCbCr"}
CONVERTED = {"CMYK": "CMYK", "LAB": "CIELAB"}
# Of a PNG's kinds of colours, and of the pixels of its seven passes: the first, and how far apart they are.
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_ADAM7 = (
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2),
)  # fmt: skip
# What is unpacked at once, in bytes.
_PIECE = 2**20
_OTHER_MODES = {"I": "grey", "F": "floating-point grey"}

# Pillow would warn at 90 megapixels and refuse at 179; the limit here is max_pixels.
PILImage.MAX_IMAGE_PIXELS = None
# glibc's malloc would keep blocks of Pillow's own 16 MiB for the thread that freed them, until the threads of a
# service together hold some 100 MB of nothing; blocks above 32 MiB it always gives back.
PILImage.core.set_block_size(64 * 2**20)  # type: ignore[attr-defined]  # Pillow's way, in its documentation
# Of a profile or a text, unpacked; Pillow's own limit is below what printers' profiles have.
PngImagePlugin.MAX_TEXT_CHUNK = MAX_BYTES


def open_pillow(kind: Format, data: bytes) -> Iterator[Frame]:
    """The frames of a file of any kind that Pillow opens."""
    with PILImage.open(BytesIO(data), formats=["PNG" if kind.name == "png" else kind.title.upper()]) as image:
        number = 1 if image.info.get("default_image") else 0
        while True:
            try:
                # Of JPEG files some hold a second, smaller image.
                if number and not kind.reads.pages:
                    return
                image.seek(number)
            except EOFError:
                return
            yield Frame(
                image.size,
                _bits(kind, data, image),
                lambda: _from_pillow(kind, data, image),
                lambda: _duration(image),
                int(image.info.get("loop", 0 if kind.name == "avif" else 1)),
                partial(_alike_from, kind, image, number),
            )
            number += 1


def _alike_from(kind: Format, image: PILImage.Image, number: int) -> int:
    """How many frames there are from that one on."""
    frames: int = getattr(image, "n_frames", 1)
    return frames - number if kind.reads.pages else 1


def _duration(image: PILImage.Image) -> int | None:
    """Milliseconds, or None for an image that does not move."""
    if not getattr(image, "is_animated", False):
        return None
    return round(float(image.info.get("duration", 0)))


def _from_pillow(kind: Format, data: bytes, image: ImageFile.ImageFile) -> tuple[Image, tuple[str, ...]]:
    bits = _bits(kind, data, image)
    if bits > 8 and kind.name in ("png", "avif"):
        _refuse_moving(kind, image)
        return _deep(kind, data, bits, _known(kind, data, image)), ()
    refuse_unsupported(image, bits)
    if image.mode in CONVERTED:
        return converted(image)
    if kind.name == "png" and _ends_in_nothing(image):
        _refuse_missing_rows(data)
    known = _known(kind, data, image)
    # A frame is copied, for the next one is drawn over it.
    moving = getattr(image, "is_animated", False)
    return from_image(upright(image, copy=moving), known.upright()), ()


def _ends_in_nothing(image: PILImage.Image) -> bool:
    """Whether one of the last two rows is all 0; the last pass of an interlaced image is in every second."""
    rows = (image.crop((0, row, image.width, row + 1)) for row in range(max(image.height - 2, 0), image.height))
    return any(row.getbbox() is None for row in rows)


def _refuse_missing_rows(data: bytes) -> None:
    """Pillow takes a PNG for whole whose pixels end before its last row, and leaves the rest at 0."""
    width, height, bits, colours, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    bits *= _PNG_CHANNELS[colours]
    missing = 0
    for left, top, across, down in _ADAM7 if interlaced else ((0, 0, 1, 1),):
        wide, high = -((left - width) // across), -((top - height) // down)
        missing += high * (1 + (wide * bits + 7) // 8) if wide else 0
    unpacking = zlib.decompressobj()
    for packed in (body for kind, body, _ in png_chunks(data) if kind == b"IDAT"):
        while packed and missing > 0:
            missing -= len(unpacking.decompress(packed, _PIECE))
            packed = unpacking.unconsumed_tail
    # Of what is packed well, the last bytes give more than was asked for at once.
    if missing > 0 and missing > len(unpacking.flush()):
        raise BrokenImage("The PNG file is broken or cut short: rows are missing.")


def _known(kind: Format, data: bytes, image: PILImage.Image) -> Metadata:
    return read_png_metadata(data) if kind.name == "png" else metadata_from_info(image.info)


def upright(image: PILImage.Image, copy: bool = False) -> PILImage.Image:
    """As its EXIF says. In place, or an image that needs no turn would be copied."""
    if copy:
        return ImageOps.exif_transpose(image)
    ImageOps.exif_transpose(image, in_place=True)
    return image


def refuse_unsupported(image: ImageFile.ImageFile, bits: int) -> None:
    """Raises UnsupportedImage for pixels that are not taken."""
    if image.mode in CONVERTED and bits <= 8:
        return
    fault = "colour" if image.mode in _COLOUR else _OTHER_MODES.get(image.mode, image.mode)
    if bits > 8 or image.mode not in _GREY | _COLOUR:
        raise UnsupportedImage(f"The image's pixels are {fault} of {bits} bits a channel; {PIXELS_TAKEN}.")


def _refuse_moving(kind: Format, image: PILImage.Image) -> None:
    if kind.name == "png" and getattr(image, "is_animated", False):
        raise UnsupportedImage("The animation has 16 bits a channel; animated PNG is taken with 8.")


def _bits(kind: Format, data: bytes, image: ImageFile.ImageFile) -> int:
    """Bits a channel in the file, of which Pillow may drop the lower ones without a word."""
    if kind.name == "png":
        return data[24]
    if kind.name == "avif":
        return _avif_bits(data)
    return 32 if image.mode in _OTHER_MODES else 8


def _avif_bits(data: bytes) -> int:
    """From the AV1 configuration: a marker, the profile and level, then whether it is 10 bits, or even 12."""
    flags = max((data[at + 6] for at in _places(data, b"av1C")), default=0)
    return (12 if flags & 0x20 else 10) if flags & 0x40 else 8


def _places(data: bytes, mark: bytes) -> Iterator[int]:
    at = data.find(mark, 0, 2**16)
    while at >= 0 and at + 6 < len(data):
        yield at
        at = data.find(mark, at + 1, 2**16)


def from_image(image: PILImage.Image, known: Metadata) -> Image:
    """An image that is upright already."""
    mode, channels = ("L", 1) if image.mode in _GREY else ("RGB", 3)
    alpha = None
    if image.has_transparency_data:
        both = _samples(image, f"{mode}A", channels + 1)
        colour, alpha = both[..., :-1].contiguous(), both[..., -1].contiguous()
    else:
        colour = _samples(image, mode, channels)
    # GIF, and small PNG files, hold a grey image as a palette of greys. With a profile it is one for RGB.
    if image.mode in _PALETTE and not known.icc_profile and _all_grey(colour):
        colour = colour[..., :1].contiguous()
    return Image(colour, alpha, known)


def _samples(
    image: PILImage.Image,
    mode: str,
    channels: int,
    convert: Callable[[PILImage.Image], PILImage.Image] | None = None,
) -> Tensor:
    """uint8 (H, W, channels), converted a strip at a time: a large image's copies would add up."""
    samples = torch.empty(image.height, image.width, channels, dtype=torch.uint8)
    rows = samples.numpy()
    for top in range(0, image.height, STRIP):
        bottom = min(top + STRIP, image.height)
        strip = image.crop((0, top, image.width, bottom))
        strip = convert(strip) if convert else strip.convert(mode)
        rows[top:bottom] = np.asarray(strip).reshape(bottom - top, image.width, channels)
    return samples


def _all_grey(colour: Tensor) -> bool:
    return all(bool((strip == strip[..., :1]).all()) for strip in torch.split(colour, STRIP))


def converted(image: ImageFile.ImageFile) -> tuple[Image, tuple[str, ...]]:
    """CMYK by its own profile, or CIELAB, as sRGB: the profile says which colours its inks are."""
    from PIL import ImageCms

    name = CONVERTED[image.mode]
    profile: bytes = image.info.get("icc_profile") or b""
    if image.mode == "CMYK" and not profile:
        raise UnsupportedImage(
            "The image's pixels are CMYK of 8 bits a channel, without the profile that says which colours its "
            f"inks are; {PIXELS_TAKEN}."
        )
    inks = ImageCms.ImageCmsProfile(BytesIO(profile)) if image.mode == "CMYK" else ImageCms.createProfile("LAB")
    transform = ImageCms.buildTransform(
        inks,
        ImageCms.createProfile("sRGB"),
        image.mode,
        "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    samples = _samples(upright(image), "RGB", 3, lambda strip: ImageCms.applyTransform(strip, transform) or strip)
    known = replace(metadata_from_info(image.info).upright(), icc_profile=None)
    return Image(samples, None, known), (f"{name} to sRGB",)


def _deep(kind: Format, data: bytes, bits: int, known: Metadata) -> Image:
    import imagecodecs

    if kind.name == "png":
        values = imagecodecs.png_decode(png_without_metadata(data))
    else:
        values = imagecodecs.avif_decode(data)
    return from_array(values, bits, known, known.orientation)
