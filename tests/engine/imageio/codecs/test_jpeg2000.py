"""JPEG 2000 files."""

import imagecodecs
import numpy as np
import pytest

from engine.imageio.formats import UnsupportedImage
from engine.imageio.read import decode, read
from tests.support.images import with_alpha


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_lossless_jpeg_2000_is_decoded_exactly(dtype, channels):
    values = np.random.default_rng(0).integers(np.iinfo(dtype).max + 1, size=(12, 9, channels)).astype(dtype)

    image = decode(imagecodecs.jpeg2k_encode(values.squeeze(), reversible=True))

    np.testing.assert_array_equal(with_alpha(image), values)


def test_a_bare_codestream_is_decoded():
    values = np.random.default_rng(0).integers(256, size=(12, 9, 3)).astype(np.uint8)

    image = decode(imagecodecs.jpeg2k_encode(values, reversible=True, codecformat="j2k"))

    np.testing.assert_array_equal(image.samples.numpy(), values)


def test_signed_integers_are_refused():
    data = imagecodecs.jpeg2k_encode(np.zeros((8, 8), np.int16), reversible=True)

    with pytest.raises(
        UnsupportedImage, match=r"signed integers, or more than 16 bits a channel\. Supported pixels"
    ):
        decode(data)


def test_12_bits_are_scaled_and_reported():
    values = np.array([[0, 4095]], np.uint16)

    file = read(imagecodecs.jpeg2k_encode(values, reversible=True, bitspersample=12))

    assert file.pages[0].samples.flatten().tolist() == [0, 65535]
    assert file.changed == ("12 bits to 16, scaled",)
