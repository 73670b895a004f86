"""JPEG XL files."""

import imagecodecs
import numpy as np
import pytest

from engine.imageio.formats import ImageTooLarge, UnsupportedImage
from engine.imageio.read import decode
from tests.support.images import with_alpha


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_lossless_jpeg_xl_is_decoded_exactly(channels):
    values = np.random.default_rng(0).integers(256, size=(12, 9, channels), dtype=np.uint8)

    image = decode(imagecodecs.jpegxl_encode(values.squeeze(), lossless=True))

    np.testing.assert_array_equal(with_alpha(image), values)


def test_linear_light_is_refused_rather_than_shown_too_dark():
    linear = imagecodecs.jpegxl_encode(np.zeros((8, 8, 3), np.float32), lossless=True)

    with pytest.raises(UnsupportedImage, match="a colour profile or linear light; only sRGB is supported"):
        decode(linear)


def test_a_jpeg_xl_is_refused_by_its_header():
    data = imagecodecs.jpegxl_encode(np.zeros((300, 200, 3), np.uint8), lossless=True)

    with pytest.raises(ImageTooLarge, match="200 x 300 = 60000 pixels; the limit is 59999"):
        decode(data[:40], max_pixels=59999)
