"""Images and EXIF blocks for tests of imageio."""

import struct

import numpy as np
import torch
from PIL import ExifTags
from PIL import Image as PILImage

from engine.imageio.formats import FORMATS
from engine.imageio.image import Image, ImageSequence
from engine.imageio.metadata import NO_METADATA
from engine.imageio.metadata.icc import prophoto_profile
from engine.imageio.write import encode

PROFILE = prophoto_profile()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r tiff:Orientation="1"/></x:xmpmeta>'


def gradient():
    """(15, 20, 3) uint8: red rises downwards, green to the right."""
    steps = np.arange(20, dtype=np.uint8)
    return np.stack(np.broadcast_arrays(steps[:15, None] * 10, steps * 10, 7), 2).astype(np.uint8)


def noise_image(seed, dtype, channels, alpha, size=(7, 5), metadata=NO_METADATA):
    """An image of noise; floats reach beyond [0, 1]."""
    rng = np.random.default_rng(seed)

    def values(*shape):
        if dtype == np.float32:
            return torch.from_numpy((rng.standard_normal(shape) * 2).astype(dtype))
        return torch.from_numpy(rng.integers(np.iinfo(dtype).max + 1, size=shape).astype(dtype))

    return Image(values(*size, channels), values(*size) if alpha else None, metadata)


def same_samples(one, other):
    """Whether two images are equal bit for bit."""
    alphas = one.alpha, other.alpha
    same_alpha = torch.equal(*alphas) if None not in alphas else alphas == (None, None)
    return one.samples.dtype == other.samples.dtype and torch.equal(one.samples, other.samples) and same_alpha


def with_alpha(image):
    """Samples and alpha as one array, (H, W, channels)."""
    samples = image.samples.numpy()
    if image.alpha is None:
        return samples
    return np.concatenate((samples, image.alpha.numpy()[..., None]), 2)


def encoded_with(kind, metadata):
    """The bytes of a small image of this format with this metadata."""
    image = noise_image(0, np.uint8, 3, False, (6, 9), metadata)
    return encode(ImageSequence(FORMATS["png"], (image,)), FORMATS[kind]).data


def camera_exif(orientation=6, thumbnail=b"", maker=b"\1\2\3 the maker's own", order="little"):
    """An EXIF block as a camera writes it: maker notes, a GPS position and a thumbnail."""
    exif = PILImage.Exif()
    exif.endian = "<" if order == "little" else ">"
    exif[ExifTags.Base.Make] = "Makers"
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.Base.DateTime] = "2026:01:02 03:04:05"
    exif.get_ifd(ExifTags.IFD.Exif).update(
        {0x829A: (1, 250), 0x8827: 6400, 0x927C: maker, 0x9003: "2026:01:02 03:04:05"}
    )
    exif.get_ifd(ExifTags.IFD.GPSInfo).update({1: "N", 2: (52.0, 30.0, 1.5)})
    block = exif.tobytes().removeprefix(b"Exif\0\0")
    return _with_thumbnail(block, thumbnail) if thumbnail else block


def _with_thumbnail(block, image):
    """The block with a second IFD and a JPEG at its end."""
    order = ">" if block[:2] == b"MM" else "<"
    (first,) = struct.unpack_from(f"{order}I", block, 4)
    (count,) = struct.unpack_from(f"{order}H", block, first)
    second = len(block)
    start = second + 2 + 3 * 12 + 4
    ifd = struct.pack(f"{order}H", 3)
    for tag, value in ((0x0103, 6), (0x0201, start), (0x0202, len(image))):
        ifd += struct.pack(f"{order}HHII", tag, 4, 1, value)
    linked = bytearray(block)
    struct.pack_into(f"{order}I", linked, first + 2 + 12 * count, second)
    return bytes(linked) + ifd + bytes(4) + image


def exif_tags(exif):
    """The tags that Pillow reads in a block or an open image, by IFD, without those that describe pixels."""
    if isinstance(exif, bytes):
        block, exif = exif, PILImage.Exif()
        exif.load(b"Exif\0\0" + block)
    names = {ExifTags.Base.Make, ExifTags.Base.DateTime, ExifTags.Base.Artist}
    first = {tag: value for tag, value in exif.items() if tag in names}
    return first, dict(exif.get_ifd(ExifTags.IFD.Exif)), dict(exif.get_ifd(ExifTags.IFD.GPSInfo))
