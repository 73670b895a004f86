"""Thousands of broken files: each is read, or refused with an error of imageio, within seconds."""

import io
import tempfile
import time
from pathlib import Path
from random import Random

import astropy.io.fits
import imagecodecs
import mrcfile
import numpy as np
import OpenEXR
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
from engine.imageio.metadata.icc import prophoto_profile
from engine.imageio.read import read
from engine.imageio.write import encode
from tests.support.czi_files import Tile, czi_file
from tests.support.nd2_files import LOSSLESS, nd2_file

ERRORS = (BrokenImage, NotAnImage, ImageTooLarge, UnsupportedImage)
CASES = 100  # per file
MAX_SECONDS = 10  # per case, on a busy machine
MAX_PIXELS = 100_000
EXIF = new_exif("<", [(271, 2, 6, b"Maker\0"), (274, 3, 1, b"\6\0"), (306, 2, 20, b"2026:01:02 03:04:05\0")])
METADATA = Metadata(prophoto_profile(), EXIF, b"<x:xmpmeta>text</x:xmpmeta>", (300.0, 300.0))


def pixels(dtype, channels):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:24, :20, :1][:2]
    values = 120 + 40 * np.sin(x / 3) + 40 * np.cos(y / 4) + rng.integers(0, 30, (24, 20, channels))
    return (values * {np.uint8: 1, np.uint16: 257, np.float32: 1 / 255}[dtype]).astype(dtype)


def encoded(kind, *modes, durations=None, quality=None):
    """A file as imageio writes it, with every kind of metadata."""
    pages = [Image(torch.from_numpy(pixels(dtype, channels)), None, METADATA) for dtype, channels in modes]
    return encode(ImageSequence(FORMATS["png"], tuple(pages), durations, 0), FORMATS[kind], quality).data


def saved_by_pillow(kind, mode="RGB", **options):
    file = io.BytesIO()
    PILImage.fromarray(pixels(np.uint8, 3)).convert(mode).save(file, kind, **options)
    return file.getvalue()


def saved_by_tifffile(values, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, values, **options)
    return file.getvalue()


def heic():
    file = io.BytesIO()
    pillow_heif.from_pillow(PILImage.fromarray(pixels(np.uint8, 3))).save(file, quality=80)
    return file.getvalue()


def exr():
    with tempfile.NamedTemporaryFile(suffix=".exr") as file:
        channels = {name: pixels(np.float32, 1)[..., 0] for name in "RGB"}
        OpenEXR.File({"type": OpenEXR.scanlineimage}, channels).write(file.name)
        return Path(file.name).read_bytes()


def fits(values, compressed=False):
    file = io.BytesIO()
    make = astropy.io.fits.CompImageHDU if compressed else astropy.io.fits.ImageHDU
    astropy.io.fits.HDUList([astropy.io.fits.PrimaryHDU(), make(values)]).writeto(file)
    return file.getvalue()


def mrc(values):
    with tempfile.TemporaryDirectory() as folder:
        with mrcfile.new(Path(folder) / "made.mrc") as file:
            file.set_data(values)
        return (Path(folder) / "made.mrc").read_bytes()


# Type and number of channels.
BYTE = (np.uint8, 3)
WORD = (np.uint16, 3)
FLOAT = (np.float32, 3)
planes = pixels(np.uint16, 3).transpose(2, 0, 1).copy()
FILES = {
    "jpeg": encoded("jpeg", BYTE),
    "png": encoded("png", BYTE),
    "png, 16 bits": encoded("png", WORD),
    "apng": encoded("png", BYTE, BYTE, durations=(10, 10)),
    "webp": encoded("webp", BYTE),
    "webp, lossy": encoded("webp", BYTE, quality=80),
    "webp, animated": encoded("webp", BYTE, BYTE, durations=(10, 10)),
    "tiff": encoded("tiff", BYTE),
    "tiff, 16 bits": encoded("tiff", WORD),
    "tiff, float": encoded("tiff", FLOAT),
    "tiff, pages": encoded("tiff", WORD, BYTE),
    "tiff, lzw": saved_by_tifffile(pixels(np.uint16, 3), compression="lzw", predictor=True),
    "tiff, tiles": saved_by_tifffile(pixels(np.uint16, 1)[..., 0], tile=(16, 16), compression="packbits"),
    "tiff, planes": saved_by_tifffile(planes, photometric="rgb", planarconfig="separate", bigtiff=True),
    "tiff, zstd": saved_by_tifffile(planes[0].astype(np.int16), compression="zstd", predictor=True),
    "tiff, lzma": saved_by_tifffile(pixels(np.uint16, 3), compression="lzma"),
    "tiff, lerc": saved_by_tifffile(pixels(np.float32, 1)[..., 0].astype(np.float64), compression="lerc"),
    "tiff, imagej": saved_by_tifffile(planes, imagej=True, metadata={"axes": "ZYX", "Labels": ["a", "b", "c"]}),
    "tiff, truncated": saved_by_tifffile(planes, imagej=True, truncate=True, metadata={"axes": "ZYX"}),
    "tiff, ome": saved_by_tifffile(planes, ome=True, metadata={"axes": "ZYX"}),
    "tiff, no data": saved_by_tifffile(pixels(np.float32, 1), extratags=[(42113, 2, 6, "-9999", True)]),
    "tiff, jpeg": saved_by_pillow("TIFF", compression="jpeg"),
    "tiff, fax": saved_by_pillow("TIFF", "1", compression="group4"),
    "tiff, palette": saved_by_pillow("TIFF", "P"),
    "avif": encoded("avif", BYTE),
    "avif, 10 bits": imagecodecs.avif_encode(pixels(np.uint8, 3).astype(np.uint16) * 4, bitspersample=10),
    "heic": heic(),
    "jpeg xl": imagecodecs.jpegxl_encode(pixels(np.uint8, 3), lossless=True),
    "jpeg xl, lossy": imagecodecs.jpegxl_encode(pixels(np.uint8, 3), level=80),
    "jpeg 2000": imagecodecs.jpeg2k_encode(pixels(np.uint8, 3), reversible=True),
    "gif": saved_by_pillow("GIF"),
    "bmp": saved_by_pillow("BMP"),
    "netpbm": b"P6 20 24 65535\n" + pixels(np.uint16, 3).astype(">u2").tobytes(),
    "pam": b"P7\nWIDTH 20\nHEIGHT 24\nDEPTH 3\nMAXVAL 255\nENDHDR\n" + pixels(np.uint8, 3).tobytes(),
    "netpbm, text": b"P3 20 24 255\n" + b" ".join(b"%d" % each for each in pixels(np.uint8, 3).flat),
    "qoi": imagecodecs.qoi_encode(pixels(np.uint8, 3)),
    "exr": exr(),
    "fits": fits(planes),
    "fits, compressed": fits(pixels(np.uint16, 1)[..., 0].astype(np.int32), compressed=True),
    "mrc": mrc(planes),
    "czi": czi_file(*[Tile(plane, {"T": t}) for t, plane in enumerate(planes)], metres=(1e-7, 1e-7)),
    "czi, tiles": czi_file(*[Tile(pixels(np.uint8, 3), {"M": number}, (15 * number, 0)) for number in range(3)]),
    "czi, zstd": czi_file(Tile(planes[0], {"C": 0}, compression="zstd in halves")),
    "czi, jpeg xr": czi_file(Tile(pixels(np.uint8, 3), {"C": 0}, compression="jpeg xr")),
    "nd2": nd2_file(pixels(np.uint16, 2)[None].repeat(2, 0), [("T", 2)], 0.1),
    "nd2, compressed": nd2_file(pixels(np.uint16, 1)[None], compression=LOSSLESS),
    "czi, jpeg xr, 16 bits": czi_file(Tile(planes[0], {"C": 0}, compression="jpeg xr")),
}


def broken(data, random):
    """The file cut short, with flipped bits, or with a piece of another file in it."""
    data = bytearray(data)
    match random.choice(["cut", "flip", "flip", "flip", "splice"]):
        case "cut":
            return bytes(data[: random.randrange(len(data))])
        case "flip":
            for _ in range(random.choice([1, 2, 5, 20])):
                # The header as often as the rest.
                data[random.randrange(random.choice([len(data), min(len(data), 200)]))] ^= 1 << random.randrange(
                    8
                )
            return bytes(data)
        case _:
            other = FILES[random.choice(list(FILES))]
            at, start = random.randrange(len(data)), random.randrange(len(other))
            return bytes(data[:at] + other[start : start + random.randrange(200)] + data[at:])


def test_there_are_at_least_2000_broken_files():
    assert len(FILES) * CASES >= 2000


@pytest.mark.parametrize("name", FILES)
def test_a_broken_file_is_read_or_refused_within_seconds(name):
    random, refused = Random(name), 0
    assert read(FILES[name], MAX_PIXELS).pages[0].samples.numel()

    for number in range(CASES):
        start = time.monotonic()
        try:
            file = read(broken(FILES[name], random), MAX_PIXELS)
        except ERRORS:
            refused += 1
        else:
            assert sum(page.samples[..., 0].numel() for page in file.pages) <= MAX_PIXELS
            assert encode(file, FORMATS["tiff"]).data
        assert time.monotonic() - start < MAX_SECONDS, f"case {number}"

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
def test_a_header_without_an_image_is_broken(data, error):
    with pytest.raises(error):
        read(data)


def test_an_image_of_one_row_and_100000_columns_is_read():
    line = saved_by_tifffile(np.arange(100_000, dtype=np.uint16)[None])

    assert read(line).pages[0].samples.shape == (1, 100_000, 1)
