"""Images of 8 bits a channel, read and written with Pillow; and PNG and AVIF of more bits, read with imagecodecs.

Pillow silently drops the lower bits of 16-bit colour.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from io import BytesIO
from typing import Any

import numpy as np
import torch
from PIL import Image as PILImage
from PIL import ImageFile, PngImagePlugin
from torch import Tensor

from engine.imageio.codecs.bmp import read_bmp_profile, refuse_unsupported_bmp
from engine.imageio.codecs.jpeg import (
    Subsampling,
    has_end,
    lacks_profile,
    open_without_end,
    other_jpeg_images,
    refuse_unsupported_jpeg,
)
from engine.imageio.codecs.png import refuse_missing_rows
from engine.imageio.formats import SUPPORTED_PIXELS, BrokenImage, Format, UnsupportedImage
from engine.imageio.image import STRIP, Image, ImageSequence, LazyFrame, from_array, to_array
from engine.imageio.metadata import Metadata
from engine.imageio.metadata.heif import set_colour_code, with_heif_items
from engine.imageio.metadata.icc import CMYK, profile_space
from engine.imageio.metadata.limits import MAX_BYTES
from engine.imageio.metadata.pillow import metadata_from_info, save_options
from engine.imageio.metadata.png import png_for_decoding, read_png_metadata

# Pillow's modes.
_GREY = {"1", "L", "LA", "La"}
_PALETTE = {"P", "PA"}
_COLOUR = {*_PALETTE, "RGB", "RGBA", "RGBa", "RGBX", "YCbCr"}
_OTHER_MODES = {"I": "grey", "F": "floating-point grey"}
# Modes that are converted to sRGB.
CONVERTED = {"CMYK": "CMYK", "LAB": "CIELAB"}
# How an image is turned upright, by its EXIF orientation.
_TURNS = {
    2: PILImage.Transpose.FLIP_LEFT_RIGHT,
    3: PILImage.Transpose.ROTATE_180,
    4: PILImage.Transpose.FLIP_TOP_BOTTOM,
    5: PILImage.Transpose.TRANSPOSE,
    6: PILImage.Transpose.ROTATE_270,
    7: PILImage.Transpose.TRANSVERSE,
    8: PILImage.Transpose.ROTATE_90,
}
# Bytes of EXIF or XMP that fit in one segment of a JPEG file, without the segment's name.
JPEG_BLOCK = 65_000
# Start of a GIF's extension with a profile.
_GIF_PROFILE = b"\x21\xff\x0bICCRGBG1"
# Offset of the bits per channel in a PNG file.
_PNG_BITS = 24
# Bytes of an AVIF file in which its AV1 configuration is looked for.
_AVIF_HEADER = 2**16
# WebP's quality means effort where nothing is lost.
_WEBP_LOSSLESS_EFFORT = 50

# Pillow would warn at 90 megapixels and refuse at 179. Here `max_pixels` is the limit.
PILImage.MAX_IMAGE_PIXELS = None
# glibc's malloc keeps blocks of 16 MiB, Pillow's default, for the thread that freed them: some 100 MB in all the
# threads of a service. It always returns blocks above 32 MiB to the system.
PILImage.core.set_block_size(64 * 2**20)  # type: ignore[attr-defined]  # as Pillow's documentation says
# Pillow's own limit for a decompressed profile or text is smaller than the profiles of some printers.
PngImagePlugin.MAX_TEXT_CHUNK = MAX_BYTES


def open_pillow(kind: Format, data: bytes) -> Iterator[LazyFrame]:
    """The frames of a file in any format that Pillow opens."""
    if kind.name == "jpeg":
        refuse_unsupported_jpeg(data)
    if kind.name == "bmp":
        refuse_unsupported_bmp(data)
    decoded = png_for_decoding(data) if kind.name == "png" else data
    with PILImage.open(BytesIO(decoded), formats=[kind.title.upper()]) as image:
        number = 1 if image.info.get("default_image") else 0
        while True:
            try:
                # Some JPEG files hold a second, smaller image.
                if number and not kind.reads.pages:
                    return
                image.seek(number)
            except EOFError:
                return
            yield LazyFrame(
                image.size,
                _bits(kind, data, image),
                lambda: _load(kind, data, image),
                lambda: _duration(image),
                int(image.info.get("loop", 0 if kind.name == "avif" else 1)),
                partial(_count_from, kind, image, number),
            )
            number += 1


def _count_from(kind: Format, image: PILImage.Image, number: int) -> int:
    frames: int = getattr(image, "n_frames", 1)
    return frames - number if kind.reads.pages else 1


def _duration(image: PILImage.Image) -> int | None:
    """Milliseconds; None if the image is not animated."""
    if not getattr(image, "is_animated", False):
        return None
    return round(float(image.info.get("duration", 0)))


def _load(kind: Format, data: bytes, image: ImageFile.ImageFile) -> tuple[Image, tuple[str, ...]]:
    bits = _bits(kind, data, image)
    if bits > 8 and kind.name in ("png", "avif"):
        _refuse_animation(kind, image, bits)
        return _load_deep(kind, data, bits, _metadata(kind, data, image)), ()
    refuse_unsupported(image, bits)
    loaded, words = _load_jpeg(data, image) if kind.name == "jpeg" else (image, ())
    if image.mode in CONVERTED:
        converted, more = convert_to_srgb(loaded, _metadata(kind, data, image))
        return converted, (*words, *more)
    if kind.name == "png" and _ends_in_zeros(image):
        refuse_missing_rows(data)
    metadata = _metadata(kind, data, image)
    # Pillow draws the next frame over this one, so a frame is copied.
    is_animated = getattr(image, "is_animated", False)
    return from_pil(turn_upright(loaded, metadata.orientation, is_animated), metadata.upright()), words


def _load_jpeg(data: bytes, image: ImageFile.ImageFile) -> tuple[PILImage.Image, tuple[str, ...]]:
    """The image with its pixels. Of a file without an end marker, all pixels must be there."""
    if has_end(data):
        image.load()
        return image, ()
    if complete := open_without_end(data):
        return complete, ("with the end marker that was missing",)
    raise BrokenImage("The JPEG file is broken or cut short: pixels and its end marker are missing.")


def _load_deep(kind: Format, data: bytes, bits: int, metadata: Metadata) -> Image:
    import imagecodecs

    if kind.name == "png":
        values = imagecodecs.png_decode(png_for_decoding(data))
    else:
        values = imagecodecs.avif_decode(data)
    return from_array(values, bits, metadata, metadata.orientation)


def _ends_in_zeros(image: PILImage.Image) -> bool:
    """Whether one of the last two rows is all zeros. An interlaced image's last pass is every second row."""
    rows = (image.crop((0, row, image.width, row + 1)) for row in range(max(image.height - 2, 0), image.height))
    return any(row.getbbox() is None for row in rows)


def _metadata(kind: Format, data: bytes, image: PILImage.Image) -> Metadata:
    if kind.name == "png":
        metadata = read_png_metadata(data)
        hidden = getattr(image, "is_animated", False) and image.info.get("default_image")
        return (
            replace(metadata, lost=(*metadata.lost, "the still image beside the animation"))
            if hidden
            else metadata
        )
    metadata = metadata_from_info(image.info)
    match kind.name:
        case "jpeg":
            profile = ("an unreadable colour profile",) if lacks_profile(data, metadata.icc_profile) else ()
            return replace(metadata, lost=(*profile, *other_jpeg_images(data, metadata.xmp)))
        case "avif":
            return with_heif_items(metadata, data)
        case "bmp":
            return replace(metadata, icc_profile=read_bmp_profile(data))
        case "gif":
            return replace(metadata, icc_profile=_gif_profile(data))
    return metadata


def _gif_profile(data: bytes) -> bytes | None:
    """The profile in a GIF's application extension.

    Source: International Color Consortium, "Embedding ICC profiles in GIF files", 2005.
    """
    at = data.find(_GIF_PROFILE)
    if at < 0:
        return None
    at += len(_GIF_PROFILE) + len("012")
    profile = bytearray()
    # Blocks of up to 255 bytes, each behind its length; the last one is empty.
    while at < len(data) and data[at]:
        profile += data[at + 1 : at + 1 + data[at]]
        at += 1 + data[at]
    return bytes(profile)


def turn_upright(image: PILImage.Image, orientation: int, copy: bool = False) -> PILImage.Image:
    """The image as that orientation says; in place, unless a copy is needed.

    Not Pillow's exif_transpose, which reads the orientation itself, from other places than Metadata does.
    """
    method = _TURNS.get(orientation)
    if copy:
        return image.copy() if method is None else image.transpose(method)
    image.load()
    if method is not None:
        image.im = image.im.transpose(method)
        image._size = image.im.size
    return image


def refuse_unsupported(image: ImageFile.ImageFile, bits: int) -> None:
    """Raises UnsupportedImage for pixels that are not supported."""
    if image.mode in CONVERTED and bits <= 8:
        return
    name = "colour" if image.mode in _COLOUR else _OTHER_MODES.get(image.mode, image.mode)
    if bits > 8 or image.mode not in _GREY | _COLOUR:
        raise UnsupportedImage(f"The image's pixels are {name} of {bits} bits a channel. {SUPPORTED_PIXELS}.")


def _refuse_animation(kind: Format, image: PILImage.Image, bits: int) -> None:
    """imagecodecs decodes no frames of a PNG, and crashed on those of an AVIF."""
    if getattr(image, "is_animated", False):
        raise UnsupportedImage(
            f"The animated {kind.title} has {bits} bits a channel. Animated {kind.title} may have 8 bits."
        )


def _bits(kind: Format, data: bytes, image: ImageFile.ImageFile) -> int:
    """Bits per channel in the file, which may be more than Pillow reads."""
    if kind.name == "png":
        return data[_PNG_BITS]
    if kind.name == "avif":
        return _avif_bits(data)
    return 32 if image.mode in _OTHER_MODES else 8


def _avif_bits(data: bytes) -> int:
    """Bits per channel. Source: AV1 Codec ISO Media File Format Binding 1.2, section 2.3, `av1C`."""
    # After the box's name: a version, the profile and level, then flags for more than 8 bits and for 12.
    flags = max((data[at + 6] for at in _find_all(data, b"av1C")), default=0)
    return (12 if flags & 0x20 else 10) if flags & 0x40 else 8


def _find_all(data: bytes, name: bytes) -> Iterator[int]:
    at = data.find(name, 0, _AVIF_HEADER)
    while at >= 0 and at + 6 < len(data):
        yield at
        at = data.find(name, at + 1, _AVIF_HEADER)


def from_pil(image: PILImage.Image, metadata: Metadata) -> Image:
    """The Image of a Pillow image that is upright."""
    mode, channels = ("L", 1) if image.mode in _GREY else ("RGB", 3)
    alpha = None
    if image.has_transparency_data:
        both = _samples(image, channels + 1, lambda strip: strip.convert(f"{mode}A"))
        colour, alpha = both[..., :-1].contiguous(), both[..., -1].contiguous()
    else:
        colour = _samples(image, channels, lambda strip: strip.convert(mode))
    # GIF and small PNG files hold a grey image as a palette of greys. A colour profile would be one for RGB.
    if image.mode in _PALETTE and not metadata.icc_profile and _is_grey(colour):
        colour = colour[..., :1].contiguous()
    return Image(colour, alpha, metadata)


def _samples(image: PILImage.Image, channels: int, convert: Callable[[PILImage.Image], PILImage.Image]) -> Tensor:
    """uint8 (H, W, channels), converted a strip at a time: copies of a large image would need much memory."""
    samples = torch.empty(image.height, image.width, channels, dtype=torch.uint8)
    rows = samples.numpy()
    for top in range(0, image.height, STRIP):
        bottom = min(top + STRIP, image.height)
        strip = convert(image.crop((0, top, image.width, bottom)))
        rows[top:bottom] = np.asarray(strip).reshape(bottom - top, image.width, channels)
    return samples


def _is_grey(colour: Tensor) -> bool:
    return all(bool((strip == strip[..., :1]).all()) for strip in torch.split(colour, STRIP))


def convert_to_srgb(image: PILImage.Image, metadata: Metadata) -> tuple[Image, tuple[str, ...]]:
    """CMYK or CIELAB as sRGB. CMYK needs a colour profile, which defines its inks."""
    from PIL import ImageCms

    name = CONVERTED[image.mode]
    profile: bytes = image.info.get("icc_profile") or b""
    is_cmyk = image.mode == "CMYK"
    if is_cmyk and not profile:
        raise UnsupportedImage(
            "The image's pixels are CMYK of 8 bits a channel, without the colour profile that defines the inks. "
            f"Embed the profile, or convert the image to RGB. {SUPPORTED_PIXELS}."
        )
    if is_cmyk and profile_space(profile) != CMYK:
        raise UnsupportedImage(
            "The image's pixels are CMYK with a profile that is not one for CMYK, so the colours are unknown. "
            f"Embed the profile of the inks, or convert the image to RGB. {SUPPORTED_PIXELS}."
        )
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile)) if is_cmyk else ImageCms.createProfile("LAB")
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            image.mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (OSError, ImageCms.PyCMSError) as error:
        raise UnsupportedImage(
            f"The image's pixels are {name} with a colour profile that cannot be read. Embed the profile of the "
            f"inks, or convert the image to RGB. {SUPPORTED_PIXELS}."
        ) from error
    samples = _samples(
        turn_upright(image, metadata.orientation),
        3,
        lambda strip: ImageCms.applyTransform(strip, transform) or strip,
    )
    metadata = replace(metadata.upright(), icc_profile=None)
    return Image(samples, None, metadata), (f"{name} to sRGB",)


def save_pillow(
    file: ImageSequence, kind: Format, quality: int | None, subsampling: Subsampling = "4:4:4"
) -> bytes:
    """The pages as a JPEG, WebP or AVIF file.

    quality: 1 to 100; None for the format's own. subsampling: of a JPEG file. Full resolution is the default,
    since denoised images have fine colour detail.
    """
    metadata = file.pages[0].metadata
    if kind.name == "jpeg":
        metadata = metadata.without_blocks_over(JPEG_BLOCK)
    options: dict[str, Any] = save_options(metadata, has_dpi=kind.name == "jpeg")
    options |= {
        "quality": quality or kind.quality,
        "subsampling": subsampling if kind.name == "jpeg" else "4:4:4",
    }
    if kind.name == "webp":
        # Exact: keep the colours of fully transparent pixels.
        options |= {"lossless": quality is None, "exact": True, "quality": quality or _WEBP_LOSSLESS_EFFORT}
    first, *rest = (PILImage.fromarray(to_array(page)) for page in file.pages)
    if file.durations and rest:
        options |= {"save_all": True, "append_images": rest, "loop": file.plays}
        options["duration"] = list(file.durations)
    encoded = BytesIO()
    first.save(encoded, kind.title.upper(), **options)
    data = encoded.getvalue()
    return set_colour_code(data, metadata.colour_code) if metadata.colour_code else data
