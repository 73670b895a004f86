import io
import struct
import sys
import zlib

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from engine.imageio.codecs import png
from engine.imageio.codecs.png import (
    AVERAGE,
    NONE,
    PAETH,
    SUB,
    UP,
    difference,
    encoded,
    filtered,
)

seeds = st.integers(0, 2**32 - 1)


def drawn(shape, dtype, seed=0):
    """Smooth in parts, noise in others, so that all filters are worth their while somewhere."""
    rng = np.random.default_rng(seed)
    most = np.iinfo(dtype).max
    slope = np.add.outer(np.arange(shape[0]), np.arange(shape[1])) * rng.integers(1, 9)
    values = slope.reshape(*slope.shape, *[1] * (len(shape) - 2)) + rng.integers(0, rng.integers(1, most), shape)
    return (values % (most + 1)).astype(dtype)


def undone(data):
    """The numbers of a PNG's rows, by the specification's definition; slow."""
    _, header, *_ = (data[:8], data[16:29])
    width, height, depth, colour = struct.unpack(">IIBB", header[:10])
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
    seeds,
)
def test_what_is_written_is_undone_by_the_definition_and_read_by_others(high, wide, channels, dtype, level, seed):
    array = drawn((high, wide, *channels), dtype, seed)

    data = encoded(array, level)

    bytes_ = array.astype(array.dtype.newbyteorder(">")).view(np.uint8).reshape(high, -1)
    assert np.array_equal(undone(data), bytes_)
    assert np.array_equal(imagecodecs.png_decode(data).reshape(array.shape), array)
    if dtype == np.uint8:
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))).reshape(array.shape), array)


# A row of two pixels of one byte, and the row above it.
@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        (NONE, [200, 30]),
        (SUB, [200, 30 - 200 + 256]),
        (UP, [200 - 90, 30 - 250 + 256]),
        (AVERAGE, [200 - 45, 30 - 225 + 256]),
        # 200 + 250 - 90 is 360, to which 250 is nearest.
        (PAETH, [200 - 90, 30 - 250 + 256]),
    ],
)
def test_a_filter_worked_by_hand(kind, wanted):
    rows, above = np.array([[200, 30]], np.uint8), np.array([[90, 250]], np.uint8)

    assert difference(kind, rows, above, 1).tolist() == [wanted]


def test_an_image_of_several_strips_is_filtered_as_in_one(monkeypatch):
    rows = drawn((70, 30), np.uint8)
    whole = [filtered(rows, 3, level) for level in (1, 6)]

    monkeypatch.setattr(png, "_STRIP", 16)

    assert all(map(np.array_equal, [filtered(rows, 3, level) for level in (1, 6)], whole))


@pytest.mark.parametrize(
    "array",
    [
        np.tile(np.random.default_rng(0).integers(0, 256, (1, 400), np.uint8), (300, 1)),
        np.tile(np.random.default_rng(0).integers(0, 256, (300, 1), np.uint8), (1, 400)),
        np.tile(np.random.default_rng(0).integers(0, 2, (8, 8), np.uint8) * 255, (40, 50)),
    ],
    ids=["columns", "rows", "tiles"],
)
def test_what_an_image_repeats_is_found(array, monkeypatch):
    size, forced = len(encoded(array, 1)), []
    for kind in (NONE, SUB, UP, AVERAGE):
        monkeypatch.setattr(png, "_best", lambda rows, pixel, kind=kind: kind)
        forced.append(len(encoded(array, 1)))

    assert size <= 1.15 * min(forced)
    assert size < 0.9 * max(forced)
    assert size < array.size / 25


def test_at_level_1_a_photograph_is_about_as_large_as_by_pillow():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:256, :384] / 40
    smooth = 120 + 60 * np.sin(x[..., None] + [0, 1, 2]) * np.cos(y[..., None])
    array = (smooth + rng.normal(0, 4, (256, 384, 3))).clip(0, 255).astype(np.uint8)
    other = io.BytesIO()
    Image.fromarray(array).save(other, "PNG", compress_level=1, compress_type=zlib.Z_RLE)

    sizes = [len(encoded(array, level)) for level in (0, 1, 6)]

    assert sizes[1] < 1.05 * len(other.getvalue())
    assert sizes[0] > sizes[1] > 0.9 * sizes[2]


def test_large_data_are_cut_into_chunks(monkeypatch):
    monkeypatch.setattr(png, "_CHUNK", 100)
    array = drawn((30, 20, 3), np.uint8)

    data = encoded(array, 1)

    assert data.count(b"IDAT") > 5
    assert np.array_equal(undone(data), array.reshape(30, -1))


def test_without_imagecodecs_the_file_holds_the_same(monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    array = drawn((30, 20, 3), np.uint8)

    assert np.array_equal(undone(encoded(array, 6)), array.reshape(30, -1))
