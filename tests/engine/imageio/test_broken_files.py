"""Files that are broken in thousands of ways: each is an image, or an error of ours, and soon."""

import io
import time
from random import Random

import imagecodecs
import numpy as np
import pillow_heif
import pytest
import tifffile
import torch
from PIL import Image as PILImage

from engine.imageio.formats import (
    FORMATS,
    BrokenImage,
    ImageTooLarge,
    NotAnImage,
    UnsupportedImage,
)
from engine.imageio.image import Image, ImageSequence
from engine.imageio.metadata import Metadata
from engine.imageio.metadata.exif import new_exif
from engine.imageio.read import read
from engine.imageio.write import encode

OURS = (BrokenImage, NotAnImage, ImageTooLarge, UnsupportedImage)
CASES = 100  # of each file
MOST_SECONDS = 10  # of one case, on a machine that does other things as well
MAX_PIXELS = 100_000
EXIF = new_exif("<", [(271, 2, 6, b"Maker\0"), (274, 3, 1, b"\6\0"), (306, 2, 20, b"2026:01:02 03:04:05\0")])
KNOWN = Metadata(bytes(range(200)), EXIF, b"<x:xmpmeta>told</x:xmpmeta>", (300.0, 300.0))


def pixels(dtype, channels):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:24, :20, :1][:2]
    values = 120 + 40 * np.sin(x / 3) + 40 * np.cos(y / 4) + rng.integers(0, 30, (24, 20, channels))
    return (values * {np.uint8: 1, np.uint16: 257, np.float32: 1 / 255}[dtype]).astype(dtype)


def ours(kind, *modes, durations=None, quality=None):
    """As we write it, with everything around the pixels."""
    pages = [Image(torch.from_numpy(pixels(dtype, channels)), None, KNOWN) for dtype, channels in modes]
    return encode(ImageSequence(FORMATS["png"], tuple(pages), durations, 0), FORMATS[kind], quality).data


def by_pillow(kind, mode="RGB", **options):
    file = io.BytesIO()
    PILImage.fromarray(pixels(np.uint8, 3)).convert(mode).save(file, kind, **options)
    return file.getvalue()


def by_tifffile(values, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, values, **options)
    return file.getvalue()


def heic():
    file = io.BytesIO()
    pillow_heif.from_pillow(PILImage.fromarray(pixels(np.uint8, 3))).save(file, quality=80)
    return file.getvalue()


BYTE, WORD, FLOAT = (np.uint8, 3), (np.uint16, 3), (np.float32, 3)
planes = pixels(np.uint16, 3).transpose(2, 0, 1).copy()
WHOLE = {
    "jpeg": ours("jpeg", BYTE),
    "png": ours("png", BYTE),
    "png, 16 bits": ours("png", WORD),
    "apng": ours("png", BYTE, BYTE, durations=(10, 10)),
    "webp": ours("webp", BYTE),
    "webp, lossy": ours("webp", BYTE, quality=80),
    "webp, moving": ours("webp", BYTE, BYTE, durations=(10, 10)),
    "tiff": ours("tiff", BYTE),
    "tiff, 16 bits": ours("tiff", WORD),
    "tiff, float": ours("tiff", FLOAT),
    "tiff, pages": ours("tiff", WORD, BYTE),
    "tiff, lzw": by_tifffile(pixels(np.uint16, 3), compression="lzw", predictor=True),
    "tiff, tiles": by_tifffile(pixels(np.uint16, 1)[..., 0], tile=(16, 16), compression="packbits"),
    "tiff, planes": by_tifffile(planes, photometric="rgb", planarconfig="separate", bigtiff=True),
    "tiff, jpeg": by_pillow("TIFF", compression="jpeg"),
    "tiff, fax": by_pillow("TIFF", "1", compression="group4"),
    "tiff, palette": by_pillow("TIFF", "P"),
    "avif": ours("avif", BYTE),
    "avif, 10 bits": imagecodecs.avif_encode(pixels(np.uint8, 3).astype(np.uint16) * 4, bitspersample=10),
    "heic": heic(),
    "jpeg xl": imagecodecs.jpegxl_encode(pixels(np.uint8, 3), lossless=True),
    "jpeg xl, lossy": imagecodecs.jpegxl_encode(pixels(np.uint8, 3), level=80),
    "jpeg 2000": imagecodecs.jpeg2k_encode(pixels(np.uint8, 3), reversible=True),
    "gif": by_pillow("GIF"),
    "bmp": by_pillow("BMP"),
}


def broken(whole, random):
    """Cut short, with bits turned, or with a piece of another file in it."""
    data = bytearray(whole)
    match random.choice(["cut", "turn", "turn", "turn", "splice"]):
        case "cut":
            return bytes(data[: random.randrange(len(data))])
        case "turn":
            for _ in range(random.choice([1, 2, 5, 20])):
                # The header as often as all the rest.
                data[random.randrange(random.choice([len(data), min(len(data), 200)]))] ^= 1 << random.randrange(
                    8
                )
            return bytes(data)
        case _:
            other = WHOLE[random.choice(list(WHOLE))]
            at, start = random.randrange(len(data)), random.randrange(len(other))
            return bytes(data[:at] + other[start : start + random.randrange(200)] + data[at:])


def test_the_corpus_is_large_enough():
    assert len(WHOLE) * CASES >= 2000


@pytest.mark.parametrize("name", WHOLE)
def test_each_of_many_broken_files_is_an_image_or_an_error_of_ours(name):
    random, refused = Random(name), 0
    assert read(WHOLE[name], MAX_PIXELS).pages[0].samples.numel()

    for number in range(CASES):
        start = time.monotonic()
        try:
            file = read(broken(WHOLE[name], random), MAX_PIXELS)
        except OURS:
            refused += 1
        else:
            assert sum(page.samples[..., 0].numel() for page in file.pages) <= MAX_PIXELS
        assert time.monotonic() - start < MOST_SECONDS, f"case {number}"

    assert refused > CASES / 10


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"BM" + bytes(52), BrokenImage),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(13) + bytes(4), BrokenImage),
        (b"GIF89a" + bytes(7) + b",", BrokenImage),
        (b"II*\0\x08\0\0\0\0\0\0\0\0\0", BrokenImage),
        (b"II*\0\xff\xff\xff\xff", BrokenImage),
        (b"\xff\x0a", BrokenImage),
        (b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\1jp2c", BrokenImage),
        (b"RIFF\xff\xff\xff\xffWEBPVP8X" + bytes(20), BrokenImage),
        (b"\0\0\0\x18ftypheic" + bytes(40), BrokenImage),
        (b"\0\0\0\x18ftypavif" + bytes(40), BrokenImage),
    ],
)
def test_headers_without_an_image_are_broken(data, error):
    with pytest.raises(error):
        read(data)


def test_an_image_that_is_nearly_a_line_is_taken():
    line = by_tifffile(np.arange(100_000, dtype=np.uint16)[None])

    assert read(line).pages[0].samples.shape == (1, 100_000, 1)
