"""Bytes to pixels and back: float32 on [0, 1] inside, PNG on the way out. The only file that knows a codec.

A whole picture is kept in the depth of its file, as `samples`; `pixels` are what networks work with.
"""

import re
import zlib
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
# Measured on denoised photographs, with Pillow 13 (zlib-ng) on one Zen 3 core. Runs only, as here at level 1:
# 58-66 ms a megapixel, 0.90-1.69 bytes a pixel. The full search: 59-74 ms and 1.07-1.69 bytes at level 1, 105-138
# and 0.94-1.68 at level 4, 305-328 and 0.91-1.64 at level 6. It pays in drawings alone, which repeat themselves.
PNG_LEVEL = 1
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
# What white is.
_LARGEST = {torch.uint8: 255, torch.uint16: 65535}
# Pillow's modes.
_GREY, _GREY_16 = {"1", "L", "LA", "La"}, {"I;16", "I;16B", "I;16L"}
_PALETTE = {"P", "PA"}
_COLOUR = {*_PALETTE, "RGB", "RGBA", "RGBa", "RGBX", "YCbCr"}
_OTHER_MODES = {"I": "grey", "F": "floating-point grey"}

# Pillow would warn at 90 megapixels and refuse at 179; the limit here is decode's max_pixels.
Image.MAX_IMAGE_PIXELS = None
# glibc's malloc would keep blocks of Pillow's own 16 MiB for the thread that freed them, until the threads of a
# service together hold some 100 MB of nothing; blocks above 32 MiB it always gives back.
Image.core.set_block_size(64 * 2**20)  # type: ignore[attr-defined]  # Pillow's way, in its documentation


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
    """A picture as its file has it, and what of that file has to be in the one that goes back.

    samples: uint8 (H, W, 3), or (H, W, 1) for grey, which may be uint16. alpha: uint8 (H, W), not to be changed;
    only with 8 bits.
    """

    samples: Tensor
    alpha: Tensor | None = None
    icc_profile: bytes | None = None

    @property
    def grey(self) -> bool:
        """Whether there is one channel."""
        return self.samples.shape[2] == 1

    @property
    def depth(self) -> int:
        """Bits a channel: 8 or 16."""
        return 8 * self.samples.element_size()

    @property
    def pixels(self) -> Tensor:
        """float32 (H, W, 3) on [0, 1], made anew: 12 bytes a pixel, so not for what serves large pictures."""
        return to_pixels(self.samples)


def to_pixels(samples: Tensor) -> Tensor:
    """uint8 or uint16 (H, W, 1 or 3), as in a Picture -> float32 (H, W, 3) on [0, 1]; grey in equal channels."""
    return samples.float().div_(_LARGEST[samples.dtype]).expand(-1, -1, 3).contiguous()


def to_samples(pixels: Tensor, dtype: torch.dtype, channels: int) -> Tensor:
    """float32 (H, W, 3) -> uint8 or uint16 (H, W, 1 or 3): clipped to [0, 1] and rounded to nearest."""
    colour = pixels.mean(2, keepdim=True) if channels == 1 else pixels
    return colour.clamp(0, 1).mul_(_LARGEST[dtype]).round_().to(dtype)


def decode(data: bytes, max_pixels: int | None = None) -> Picture:
    """The picture in a file's bytes, turned as its EXIF orientation says; of several, the first.

    Raises NotAPicture, BrokenPicture, UnsupportedPicture or PictureTooLarge; all are ValueErrors.
    """
    kind = _kind(data)
    try:
        with Image.open(BytesIO(data), formats=[kind]) as image:
            _refuse_larger(image, max_pixels)
            _refuse_unsupported(image)
            # In place, or a picture that needs no turn would be copied.
            ImageOps.exif_transpose(image, in_place=True)
    except (PictureTooLarge, UnsupportedPicture, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise BrokenPicture(f"The {kind} file's header is broken, cut short or of a rare kind.") from error
    # What Pillow raises for bytes that are not as they should be is nearly anything: OSError, SyntaxError,
    # ValueError, TypeError, struct.error have been seen.
    except Exception as error:
        raise BrokenPicture(f"The {kind} file is broken or cut short: {error}") from error
    return _picture(image)


def encode_png(picture: Picture, level: int = PNG_LEVEL) -> bytes:
    """As PNG. level: deflate's, 0 (none) to 9 (smallest); 1 looks for runs only, which suits photographs."""
    samples = picture.samples
    if picture.alpha is not None:
        samples = torch.cat((samples, picture.alpha.unsqueeze(2)), 2)
    file = BytesIO()
    image = Image.fromarray(samples.squeeze(2).numpy())
    strategy = zlib.Z_RLE if level == 1 else zlib.Z_FILTERED
    image.save(file, "PNG", icc_profile=picture.icc_profile, compress_level=level, compress_type=strategy)
    return file.getvalue()


def read_rgb(path: Path) -> Tensor:
    """The picture in a file, as uint8 (H, W, 3). Raises ValueError naming the file, or OSError."""
    try:
        picture = decode(path.read_bytes())
    except ValueError as error:
        raise type(error)(f"{path}: {error}") from error
    return to_samples(picture.pixels, torch.uint8, 3)


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
        return Picture(_samples(image, image.mode, torch.uint16, 1), icc_profile=profile)
    mode, channels = ("L", 1) if image.mode in _GREY else ("RGB", 3)
    alpha = None
    if image.has_transparency_data:
        both = _samples(image, f"{mode}A", torch.uint8, channels + 1)
        colour, alpha = both[..., :-1].contiguous(), both[..., -1].contiguous()
    else:
        colour = _samples(image, mode, torch.uint8, channels)
    # GIF, and small PNG files, hold a grey picture as a palette of greys. With a profile it is one for RGB.
    if image.mode in _PALETTE and not profile and _all_grey(colour):
        colour = colour[..., :1].contiguous()
    return Picture(colour, alpha, profile)


def _samples(image: Image.Image, mode: str, dtype: torch.dtype, channels: int) -> Tensor:
    """(H, W, channels), converted to Pillow's mode a strip at a time: a large picture's copies would add up."""
    samples = torch.empty(image.height, image.width, channels, dtype=dtype)
    # numpy's view, which takes either order of bytes.
    rows = samples.numpy()
    for top in range(0, image.height, STRIP):
        bottom = min(top + STRIP, image.height)
        strip = image.crop((0, top, image.width, bottom))
        rows[top:bottom] = np.asarray(strip.convert(mode)).reshape(bottom - top, image.width, channels)
    return samples


def _all_grey(colour: Tensor) -> bool:
    return all(bool((strip == strip[..., :1]).all()) for strip in torch.split(colour, STRIP))
