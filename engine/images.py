"""Bytes to pixels and back: float32 on [0, 1] inside, PNG on the way out. The only file that knows a codec."""

import re
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps, TiffImagePlugin, UnidentifiedImageError
from torch import Tensor

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
KINDS_TAKEN = "taken are JPEG, PNG, WebP, BMP, TIFF and GIF"
STRIP = 256
PIXELS_TAKEN = "taken are RGB of 8 bits a channel, palettes, and grey of 1 to 8 or 16 bits"

# How files begin: those taken, by Pillow's names for them, and those that people send instead.
_SIGNATURES = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "WEBP": rb"RIFF....WEBP",
    "BMP": rb"BM",
    "TIFF": rb"II[*+]\0|MM\0[*+]",
    "GIF": rb"GIF8[79]a",
}
_OTHER_SIGNATURES = {
    "HEIC or AVIF": rb"....ftyp(hei|hev|mif|msf|avi)",
    "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL ",
    "JPEG 2000": rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51",
    "Photoshop": rb"8BPS",
    "PDF": rb"%PDF-",
    "SVG or other XML": rb"\s*<(svg|\?xml)",
}
# Pillow's modes.
_GREY, _GREY_16 = {"1", "L", "LA", "La"}, {"I;16", "I;16B", "I;16L"}
_PALETTE = {"P", "PA"}
_COLOUR = {*_PALETTE, "RGB", "RGBA", "RGBa", "RGBX", "YCbCr"}
_OTHER_MODES = {"I": "grey", "F": "floating-point grey"}

# Pillow would warn at 90 megapixels and refuse at 179; the limit here is decode's max_pixels.
Image.MAX_IMAGE_PIXELS = None


class NotAPicture(ValueError):
    """Bytes that do not begin as any picture does."""


class BrokenPicture(ValueError):
    """A kind of picture that is taken, but cut short or corrupt."""


class UnsupportedPicture(ValueError):
    """A kind of file, or of pixels, that is not taken; says which, and what is."""


class PictureTooLarge(ValueError):
    """More pixels than allowed: known from the header, before any of them is decoded."""


@dataclass(frozen=True)
class Picture:
    """A picture, and what of its file has to be in the file that goes back.

    pixels: float32 (H, W, 3) on [0, 1]; three equal channels if it came grey. grey: it goes back as grey.
    alpha: uint8 (H, W), not to be changed. depth: bits a channel: 8, or 16 for grey without alpha.
    """

    pixels: Tensor
    grey: bool = False
    alpha: Tensor | None = None
    depth: int = 8
    icc_profile: bytes | None = None


def decode(data: bytes, max_pixels: int | None = None) -> Picture:
    """The picture in a file's bytes, turned as its EXIF orientation says; of several, the first.

    Raises NotAPicture, BrokenPicture, UnsupportedPicture or PictureTooLarge; all are ValueErrors.
    """
    kind = _kind(data)
    try:
        with Image.open(BytesIO(data), formats=[kind]) as image:
            _refuse_larger(image, max_pixels)
            _refuse_unsupported(image)
            upright = ImageOps.exif_transpose(image)
    except (PictureTooLarge, UnsupportedPicture, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise BrokenPicture(f"The {kind} file's header is broken, cut short or of a rare kind.") from error
    # What Pillow raises for bytes that are not as they should be is nearly anything: OSError, SyntaxError,
    # ValueError, TypeError, struct.error have been seen.
    except Exception as error:
        raise BrokenPicture(f"The {kind} file is broken or cut short: {error}") from error
    return _picture(upright)


def encode_png(picture: Picture) -> bytes:
    """As PNG. Values are clipped to [0, 1] and rounded to the nearest step of the picture's depth."""
    # A strip at a time: the picture may be large, and its copy in float32 would be four times the result.
    samples = torch.cat([_steps(strip, picture) for strip in torch.split(picture.pixels, STRIP)])
    if picture.alpha is not None:
        samples = torch.cat((samples, picture.alpha.unsqueeze(2)), 2)
    file = BytesIO()
    image = Image.fromarray(samples.squeeze(2).numpy())
    # On photos half the time of the default level, 6, for 2 % more bytes.
    image.save(file, "PNG", icc_profile=picture.icc_profile, compress_level=4)
    return file.getvalue()


def _steps(pixels: Tensor, picture: Picture) -> Tensor:
    """The whole numbers that a part of the picture is written as: (rows, W, 1 or 3)."""
    colour = pixels.mean(2, keepdim=True) if picture.grey else pixels
    largest, dtype = (65535, torch.uint16) if picture.depth == 16 else (255, torch.uint8)
    return colour.clamp(0, 1).mul_(largest).round_().to(dtype)


def read_rgb(path: Path) -> Tensor:
    """The picture in a file, as uint8 (H, W, 3). Raises ValueError naming the file, or OSError."""
    try:
        pixels = decode(path.read_bytes()).pixels
    except ValueError as error:
        raise type(error)(f"{path}: {error}") from error
    return pixels.mul_(255).round_().to(torch.uint8)


def resize(pixels: Tensor, height: int, width: int) -> Tensor:
    """uint8 (H, W, 3) -> uint8 (height, width, 3). Made smaller, a pixel is the mean of the area it covers."""
    resized = Image.fromarray(pixels.numpy()).resize((width, height), Image.Resampling.BOX)
    return torch.from_numpy(np.array(resized))


def picture_files(folder: Path) -> list[Path]:
    """The folder's picture files, told by suffix, in order of name. Raises ValueError if there are none."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    # Names with a leading dot are other systems' notes beside pictures: "._photo.jpg".
    visible = (file for file in folder.iterdir() if not file.name.startswith("."))
    files = sorted(file for file in visible if file.suffix.lower() in PICTURE_SUFFIXES)
    if not files:
        raise ValueError(f"{folder}: no pictures in this folder; {KINDS_TAKEN}")
    return files


def _kind(data: bytes) -> str:
    """Pillow's name for the kind of picture the bytes begin as."""
    if not data:
        raise NotAPicture(f"There is no picture: 0 bytes came; {KINDS_TAKEN}.")
    for kind, signature in _SIGNATURES.items():
        if re.match(signature, data, re.DOTALL):
            return kind
    for kind, signature in _OTHER_SIGNATURES.items():
        if re.match(signature, data, re.DOTALL):
            raise UnsupportedPicture(f"This is a file of the kind {kind}; {KINDS_TAKEN}.")
    raise NotAPicture(f"This is no picture: {len(data)} bytes that begin with {data[:12]!r}; {KINDS_TAKEN}.")


def _refuse_larger(image: Image.Image, max_pixels: int | None) -> None:
    pixels = image.width * image.height
    if max_pixels is not None and pixels > max_pixels:
        raise PictureTooLarge(
            f"The picture has {image.width} x {image.height} = {pixels} pixels; at most {max_pixels} are taken."
        )


def _refuse_unsupported(image: ImageFile.ImageFile) -> None:
    bits = _bits(image)
    if image.mode in _GREY_16:
        fault = "grey with a transparent colour" if image.has_transparency_data else "grey"
        taken = bits == 16 and not image.has_transparency_data
    else:
        fault = "colour" if image.mode in _COLOUR else _OTHER_MODES.get(image.mode, image.mode)
        taken = bits <= 8 and image.mode in _GREY | _COLOUR
    if not taken:
        raise UnsupportedPicture(f"The picture's pixels are {fault} of {bits} bits a channel; {PIXELS_TAKEN}.")


def _bits(image: ImageFile.ImageFile) -> int:
    """Bits a channel in the file: for 16-bit colour Pillow would drop the lower eight without a word."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(max(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,))))
    if image.format == "PNG":
        return 16 if ";16" in str(image.tile[0].args) else 8
    return 8


def _picture(image: Image.Image) -> Picture:
    profile = image.info.get("icc_profile")
    if image.mode in _GREY_16:
        values = torch.from_numpy(np.array(image, np.float32)).unsqueeze(2)
        return Picture(values.expand(-1, -1, 3) / 65535, grey=True, depth=16, icc_profile=profile)
    samples = torch.from_numpy(np.array(image.convert("LA" if image.mode in _GREY else "RGBA")))
    alpha = samples[..., -1].contiguous() if image.has_transparency_data else None
    colour = samples[..., :-1].expand(-1, -1, 3).contiguous()
    # GIF, and small PNG files, hold a grey picture as a palette of greys. With a profile it is one for RGB.
    palette = image.mode in _PALETTE and not profile
    grey = image.mode in _GREY or (palette and bool((colour == colour[..., :1]).all()))
    return Picture(colour.float().div_(255), grey, alpha, icc_profile=profile)
