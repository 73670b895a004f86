"""QOI."""

import imagecodecs
import numpy as np
import pytest

from engine.imageio.formats import BrokenImage, ImageTooLarge
from engine.imageio.read import read, read_info


@pytest.mark.parametrize("channels", [3, 4])
def test_a_qoi_is_read_exactly(channels, samples):
    values = samples(20, 30, channels)

    page = read(imagecodecs.qoi_encode(values)).pages[0]

    np.testing.assert_array_equal(page.samples, values[..., :3])
    assert (page.alpha is None) == (channels == 3)


def test_a_linear_qoi_is_told(samples):
    data = imagecodecs.qoi_encode(samples(5, 5))

    assert read(data).changed == ()
    assert read(data[:13] + b"\1" + data[14:]).changed == ("read as sRGB, though its header says linear light",)


def test_a_qoi_cut_short_is_broken(samples):
    data = imagecodecs.qoi_encode(samples(20, 30))

    for end in (10, 14, 40, len(data) // 2, len(data) - 1):
        with pytest.raises(BrokenImage, match="QOI file is broken"):
            read(data[:end])


def test_a_large_qoi_is_refused_from_its_header():
    header = b"qoif" + (60_000).to_bytes(4, "big") * 2 + b"\3\0"

    assert read_info(header).pixels == 60_000**2
    with pytest.raises(ImageTooLarge):
        read(header, max_pixels=10**6)
