"""TIFF files."""

import io
import struct
import zlib

import numpy as np
import pytest
import tifffile

from engine.imageio.formats import BrokenImage, UnsupportedImage
from engine.imageio.read import decode, read


@pytest.mark.parametrize(
    "layout",
    [
        {"compression": "lzw", "predictor": True},
        {"compression": "zlib", "predictor": True},
        {"compression": "packbits"},
        {"tile": (16, 16), "compression": "zlib"},
        {"tile": (32, 16)},
        {"planarconfig": "separate", "photometric": "rgb"},
        {"planarconfig": "separate", "photometric": "rgb", "tile": (16, 16), "compression": "lzw"},
        {"bigtiff": True, "byteorder": ">", "rowsperstrip": 5},
        {"byteorder": ">", "compression": "zlib", "predictor": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_every_layout_is_read(layout, dtype):
    values = (np.random.default_rng(0).random((37, 41, 3)) * 200).astype(dtype)
    file = io.BytesIO()
    planes = values.transpose(2, 0, 1).copy() if layout.get("planarconfig") else values
    tifffile.imwrite(file, planes, **{"photometric": "rgb", **layout})

    np.testing.assert_array_equal(decode(file.getvalue()).samples.numpy(), values)


def test_white_at_0_is_inverted():
    file = io.BytesIO()
    tifffile.imwrite(file, np.array([[0, 1000]], np.uint16), photometric="miniswhite")

    assert decode(file.getvalue()).samples.flatten().tolist() == [65535, 64535]


def test_float16_becomes_float32_and_is_reported():
    file = io.BytesIO()
    tifffile.imwrite(file, np.array([[0.5, 2.0]], np.float16))

    back = read(file.getvalue())

    assert back.pages[0].samples.flatten().tolist() == [0.5, 2.0]
    assert back.changed == ("float16 to float32",)


@pytest.mark.parametrize(
    ("values", "options", "fault"),
    [
        (np.zeros((4, 4), np.float64), {}, "floating point of 64 bits"),
        (np.zeros((4, 4), np.int16), {}, "signed integers of 16 bits"),
        (np.zeros((4, 4), np.complex64), {}, "complex numbers"),
        (np.zeros((4, 4, 4), np.uint16), {"photometric": "separated"}, "CMYK of 16 bits"),
        (
            np.zeros((4, 4, 4), np.uint16),
            {"photometric": "rgb", "extrasamples": ["unspecified"]},
            "one of which is neither",
        ),
        (
            np.zeros((4, 4, 4), np.uint8),
            {"photometric": "rgb", "extrasamples": ["unspecified"]},
            "one of which is neither",
        ),
        (
            np.zeros((4, 4, 4), np.uint16),
            {"photometric": "rgb", "extrasamples": ["assocalpha"]},
            "multiplied by their transparency",
        ),
    ],
)
def test_pixels_that_are_not_supported_are_named(values, options, fault):
    file = io.BytesIO()
    tifffile.imwrite(file, values, **{"photometric": "minisblack", **options})

    with pytest.raises(UnsupportedImage, match=f"{fault}.*Supported pixels: RGB and grey"):
        decode(file.getvalue())


def test_a_compression_that_is_not_supported_is_named():
    file = io.BytesIO()
    tifffile.imwrite(file, np.zeros((4, 4), np.uint16), compression="zstd")

    with pytest.raises(UnsupportedImage, match=r"compression is .*ZSTD.*: none, LZW, deflate and PackBits"):
        decode(file.getvalue())


def test_a_segment_that_decompresses_beyond_its_size_is_refused():
    file = io.BytesIO()
    tifffile.imwrite(file, np.zeros((8, 8), np.uint16), compression="zlib", compressionargs={"level": 9})
    small = file.getvalue()
    with tifffile.TiffFile(io.BytesIO(small)) as opened:
        tags = opened.pages[0].tags
        places = [tags[code].valueoffset for code in (273, 279)]
    bomb = zlib.compress(bytes(30_000_000), 9)
    data = bytearray(small)
    struct.pack_into("<I", data, places[0], len(data))
    struct.pack_into("<I", data, places[1], len(bomb))

    with pytest.raises(BrokenImage):
        decode(bytes(data) + bomb)
