"""PNG encoder, against the specification's definition, imagecodecs and Pillow; and 16-bit PNG files."""

import io
import struct
import sys
import zlib

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage

from engine.imageio.codecs import png
from engine.imageio.codecs.png import AVERAGE, NONE, PAETH, SUB, UP, apply_filter, encode, filter_rows
from engine.imageio.formats import BrokenImage
from engine.imageio.metadata.png import png_chunk
from engine.imageio.read import decode
from engine.imageio.write import encode_png
from tests.support.images import with_alpha

SEEDS = st.integers(0, 2**32 - 1)


def mixed_array(shape, dtype, seed=0):
    """Smooth in parts and noise in others, so that every filter is the best one somewhere."""
    rng = np.random.default_rng(seed)
    most = np.iinfo(dtype).max
    slope = np.add.outer(np.arange(shape[0]), np.arange(shape[1])) * rng.integers(1, 9)
    values = slope.reshape(*slope.shape, *[1] * (len(shape) - 2)) + rng.integers(0, rng.integers(1, most), shape)
    return (values % (most + 1)).astype(dtype)


def decode_by_definition(data):
    """The bytes of a PNG's rows, decoded as the specification defines it; slow."""
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    pixel = {0: 1, 2: 3, 4: 2, 6: 4}[colour] * depth // 8
    at, packed = 8, b""
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        assert struct.unpack(">I", data[at + 8 + size : at + 12 + size]) == (
            zlib.crc32(data[at + 4 : at + 8 + size]),
        )
        packed += data[at + 8 : at + 8 + size] if kind == b"IDAT" else b""
        at += 12 + size
    rows, before = [], [0] * (width * pixel)
    unpacked = zlib.decompress(packed)
    for start in range(0, len(unpacked), width * pixel + 1):
        kind, row = unpacked[start], list(unpacked[start + 1 : start + 1 + width * pixel])
        for i in range(len(row)):
            left, corner = (row[i - pixel], before[i - pixel]) if i >= pixel else (0, 0)
            guess = left + before[i] - corner
            paeth = min((left, before[i], corner), key=lambda each: abs(guess - each))
            row[i] = (row[i] + (0, left, before[i], (left + before[i]) // 2, paeth)[kind]) % 256
        rows.append(row)
        before = row
    assert len(rows) == height
    return np.array(rows, np.uint8)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.integers(1, 40),
    st.integers(1, 20),
    st.sampled_from([(), (1,), (2,), (3,), (4,)]),
    st.sampled_from([np.uint8, np.uint16]),
    st.sampled_from([0, 1, 2, 6, 9]),
    SEEDS,
)
def test_every_array_is_decoded_by_definition_and_libraries(height, width, channels, dtype, level, seed):
    array = mixed_array((height, width, *channels), dtype, seed)

    data = encode(array, level)

    expected = array.astype(array.dtype.newbyteorder(">")).view(np.uint8).reshape(height, -1)
    assert np.array_equal(decode_by_definition(data), expected)
    assert np.array_equal(imagecodecs.png_decode(data).reshape(array.shape), array)
    if dtype == np.uint8:
        assert np.array_equal(np.asarray(PILImage.open(io.BytesIO(data))).reshape(array.shape), array)


# A row of two pixels of one byte, and the row above it.
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (NONE, [200, 30]),
        (SUB, [200, 30 - 200 + 256]),
        (UP, [200 - 90, 30 - 250 + 256]),
        (AVERAGE, [200 - 45, 30 - 225 + 256]),
        # 200 + 250 - 90 is 360, to which 250 is nearest.
        (PAETH, [200 - 90, 30 - 250 + 256]),
    ],
)
def test_a_filter_worked_by_hand(kind, expected):
    rows, above = np.array([[200, 30]], np.uint8), np.array([[90, 250]], np.uint8)

    assert apply_filter(kind, rows, above, 1).tolist() == [expected]


def test_strips_are_filtered_as_the_whole_image(monkeypatch):
    rows = mixed_array((70, 30), np.uint8)
    whole = [filter_rows(rows, 3, level) for level in (1, 6)]

    monkeypatch.setattr(png, "_STRIP_ROWS", 16)

    assert all(map(np.array_equal, [filter_rows(rows, 3, level) for level in (1, 6)], whole))


@pytest.mark.parametrize(
    "array",
    [
        np.tile(np.random.default_rng(0).integers(0, 256, (1, 400), np.uint8), (300, 1)),
        np.tile(np.random.default_rng(0).integers(0, 256, (300, 1), np.uint8), (1, 400)),
        np.tile(np.random.default_rng(0).integers(0, 2, (8, 8), np.uint8) * 255, (40, 50)),
    ],
    ids=["columns", "rows", "tiles"],
)
def test_repetition_is_compressed_well(array, monkeypatch):
    size, forced = len(encode(array, 1)), []
    for kind in (NONE, SUB, UP, AVERAGE):
        monkeypatch.setattr(png, "_best_filter", lambda rows, pixel, kind=kind: kind)
        forced.append(len(encode(array, 1)))

    assert size <= 1.15 * min(forced)
    assert size < 0.9 * max(forced)
    assert size < array.size / 25


def test_level_1_compresses_a_photograph_as_well_as_pillow():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:256, :384] / 40
    smooth = 120 + 60 * np.sin(x[..., None] + [0, 1, 2]) * np.cos(y[..., None])
    array = (smooth + rng.normal(0, 4, (256, 384, 3))).clip(0, 255).astype(np.uint8)
    other = io.BytesIO()
    PILImage.fromarray(array).save(other, "PNG", compress_level=1, compress_type=zlib.Z_RLE)

    sizes = [len(encode(array, level)) for level in (0, 1, 6)]

    assert sizes[1] < 1.05 * len(other.getvalue())
    assert sizes[0] > sizes[1] > 0.9 * sizes[2]


def test_large_data_are_split_into_chunks(monkeypatch):
    monkeypatch.setattr(png, "_CHUNK_BYTES", 100)
    array = mixed_array((30, 20, 3), np.uint8)

    data = encode(array, 1)

    assert data.count(b"IDAT") > 5
    assert np.array_equal(decode_by_definition(data), array.reshape(30, -1))


def test_without_imagecodecs_the_file_holds_the_same(monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    array = mixed_array((30, 20, 3), np.uint8)

    assert np.array_equal(decode_by_definition(encode(array, 6)), array.reshape(30, -1))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_comes_back_exactly(kind, file_of):
    values = np.arange(0, 65536, 257).astype(np.uint16).reshape(16, 16)
    values[3, 4] = 12345

    image = decode(file_of(values, kind))
    with PILImage.open(io.BytesIO(encode_png(image))) as returned:
        mode, back = returned.mode, np.array(returned)

    assert (image.grey, image.depth) == (True, "16")
    assert image.pixels[3, 4, 0] == pytest.approx(12345 / 65535)
    assert mode == "I;16"
    np.testing.assert_array_equal(back, values)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_16_bit_png_is_what_imagecodecs_reads_and_writes(channels):
    values = np.random.default_rng(0).integers(65536, size=(6, 7, channels), dtype=np.uint16)

    image = decode(imagecodecs.png_encode(values.squeeze()))
    again = imagecodecs.png_decode(encode_png(image))

    np.testing.assert_array_equal(with_alpha(image), values)
    np.testing.assert_array_equal(again.reshape(values.shape), values)


def test_a_png_whose_last_rows_are_missing_is_broken(samples):
    whole = encode(samples(20, 30), 1)
    rows = zlib.decompress(whole[whole.index(b"IDAT") + 4 : -16])
    short = zlib.compress(rows[: len(rows) // 2])

    with pytest.raises(BrokenImage, match="rows are missing"):
        decode(whole[:33] + png_chunk(b"IDAT", short) + png_chunk(b"IEND", b""))
