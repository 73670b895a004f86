"""JPEG XL files."""

import imagecodecs
import numpy as np
import pytest

from engine.imageio.codecs.jpegxl import (
    _BitReader,
    _find_fault,
    _has_animation_or_preview,
    _read_depth,
    _read_size,
)
from engine.imageio.formats import ImageTooLarge, UnsupportedImage
from engine.imageio.metadata.cicp import ColourCode, calibrated_profile
from engine.imageio.read import decode
from tests.support.images import with_alpha


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_lossless_jpeg_xl_is_decoded_exactly(channels):
    values = np.random.default_rng(0).integers(256, size=(12, 9, channels), dtype=np.uint8)

    image = decode(imagecodecs.jpegxl_encode(values.squeeze(), lossless=True))

    np.testing.assert_array_equal(with_alpha(image), values)


@pytest.mark.parametrize("lossless", [True, False])
def test_linear_light_stays_linear_and_is_named(lossless):
    linear = np.linspace(0.02, 1, 16, dtype=np.float32)[:, None, None].repeat(16, 1).repeat(3, 2)
    data = imagecodecs.jpegxl_encode(linear, lossless=lossless, distance=None if lossless else 0.5)

    image = decode(data)

    assert image.metadata.colour_code == ColourCode(1, 8)
    assert np.abs(image.samples.numpy() - linear).max() <= (0 if lossless else 0.01)


# The standard's enumerations, as bits: the lowest first.
SRGB = [1]
RGB = [0, 0, 0, 0]
D65 = [1, 0]
DCI = [0, 1, 1, 0, 0, 1]
P3 = [0, 1, 1, 0, 0, 1]
BT2020 = [0, 1, 1, 1, 1, 0]
SRGB_PRIMARIES = [1, 0]
NO_GAMMA = [0]
SRGB_CURVE = [0, 1, 1, 1, 0, 1]
PQ = [0, 1, 0, 1, 1, 1]
HLG = [1, 1, 0, 0, 0, 0, 0, 0]
UNKNOWN_CURVE = [0, 1, 0, 0, 0, 0]
RELATIVE = [1, 0]
GAMMA = [1, *(5_000_000 >> place & 1 for place in range(24))]


def with_colours(bits):
    """A file of 16 x 16 pixels with these bits as its description of colours."""
    values = np.arange(768, dtype=np.uint8).reshape(16, 16, 3)
    bits_of = np.unpackbits(
        np.frombuffer(imagecodecs.jpegxl_encode(values, lossless=True), np.uint8), bitorder="little"
    )
    reader = _BitReader(np.packbits(bits_of, bitorder="little").tobytes()[2:])
    _read_size(reader)
    assert not reader.flag()
    assert not _has_animation_or_preview(reader)
    assert not _find_fault(reader, _read_depth(reader))
    reader.flag()
    start = 16 + reader.position
    header, rest = bits_of[:start], bits_of[start:]
    # sRGB takes one bit. Behind it: no extensions, and the default transforms.
    assert rest[0]
    behind, frame = rest[1:4], bits_of[-(-(start + 4) // 8) * 8 :]
    new = np.concatenate((header, np.array(bits, np.uint8), behind))
    padded = np.concatenate((new, np.zeros(-len(new) % 8, np.uint8), frame))
    return np.packbits(padded, bitorder="little").tobytes()


@pytest.mark.parametrize(
    ("bits", "code"),
    [
        (SRGB, None),
        ([*RGB, *D65, *SRGB_PRIMARIES, *NO_GAMMA, *SRGB_CURVE, *RELATIVE], None),
        ([*RGB, *D65, *P3, *NO_GAMMA, *SRGB_CURVE, *RELATIVE], ColourCode(12, 13)),
        ([*RGB, *DCI, *P3, *NO_GAMMA, *SRGB_CURVE, *RELATIVE], ColourCode(11, 13)),
        ([*RGB, *D65, *BT2020, *NO_GAMMA, *PQ, *RELATIVE], ColourCode(9, 16)),
        ([*RGB, *D65, *BT2020, *NO_GAMMA, *HLG, *RELATIVE], ColourCode(9, 18)),
    ],
)
def test_the_colours_of_a_jpeg_xl_are_named(bits, code):
    image = decode(with_colours(bits))

    assert image.metadata.colour_code == code
    np.testing.assert_array_equal(image.samples.flatten(), np.arange(768) % 256)


def test_an_exponent_becomes_a_profile():
    image = decode(with_colours([*RGB, *D65, *SRGB_PRIMARIES, *GAMMA, *RELATIVE]))

    assert image.metadata.icc_profile == calibrated_profile(None, 2.0, grey=False)


@pytest.mark.parametrize(
    "bits",
    [
        [0, 1, 0, 0],
        [0, 0, 0, 1, 0, 0, 0, 0],
        [*RGB, *DCI, *BT2020, *NO_GAMMA, *SRGB_CURVE],
        [*RGB, *D65, *P3, *NO_GAMMA, *UNKNOWN_CURVE],
    ],
    ids=["profile", "XYB", "odd white", "unknown curve"],
)
def test_colours_without_a_number_are_refused(bits):
    with pytest.raises(UnsupportedImage, match="a colour profile or colours that have no number"):
        decode(with_colours(bits))


def test_a_jpeg_xl_is_refused_by_its_header():
    data = imagecodecs.jpegxl_encode(np.zeros((300, 200, 3), np.uint8), lossless=True)

    with pytest.raises(ImageTooLarge, match="200 x 300 = 60000 pixels; the limit is 59999"):
        decode(data[:40], max_pixels=59999)
