"""Netpbm: every kind of file, as its manual describes it."""

import io

import numpy as np
import pytest
from PIL import Image as PILImage

from engine.imageio.formats import FORMATS, BrokenImage, ImageTooLarge, UnsupportedImage
from engine.imageio.image import to_array
from engine.imageio.read import read, read_info
from engine.imageio.write import encode

GREY = np.array([[0, 1, 2], [3, 200, 255]], np.uint8)
COLOUR = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
DEEP = np.array([[0, 1, 256], [4095, 65535, 7]], np.uint16)
FLOATS = np.array([[-1.5, 0.25, 2.0], [0.0, 1.0, 3.0]], np.float32)
PAM = b"P7\nWIDTH 3\nHEIGHT 2\nDEPTH %d\nMAXVAL %d\nTUPLTYPE %s\nENDHDR\n"


def samples_of(data):
    [page] = read(data).pages
    values = page.samples.numpy()
    return values if page.alpha is None else np.concatenate((values, page.alpha.numpy()[..., None]), 2)


FILES = {
    "P1": (b"P1\n# a comment\n3 2\n0 1 0\n1 1 0\n", np.array([[255, 0, 255], [0, 0, 255]])),
    "P1, without spaces": (b"P1 3 2 010110", np.array([[255, 0, 255], [0, 0, 255]])),
    "P2": (b"P2\n3 2\n255\n0 1 2\n3 200 255\n", GREY),
    "P2, 16 bits": (b"P2 3 2 65535\n0 1 256\n4095 65535 7", DEEP),
    "P3": (b"P3 3 2 # three by two\n255\n" + b" ".join(b"%d" % each for each in COLOUR.flat), COLOUR),
    "P4": (b"P4 3 2\n\x40\xc0", np.array([[255, 0, 255], [0, 0, 255]])),
    "P5": (b"P5\n# by hand\n3 2\n255\n" + GREY.tobytes(), GREY),
    "P5, 16 bits": (b"P5 3 2 65535\n" + DEEP.astype(">u2").tobytes(), DEEP),
    "P6": (b"P6 3 2 255\n" + COLOUR.tobytes(), COLOUR),
    "P6, 16 bits": (b"P6 3 1 65535\n" + DEEP.reshape(2, 3).repeat(3, 0)[:3].astype(">u2").tobytes(), None),
    "PAM, grey": (PAM % (1, 255, b"GRAYSCALE") + GREY.tobytes(), GREY),
    "PAM, alpha": (PAM % (4, 255, b"RGB_ALPHA") + bytes(range(24)), np.arange(24).reshape(2, 3, 4)),
    "PFM": (b"Pf\n3 2\n-1.0\n" + FLOATS[::-1].astype("<f4").tobytes(), FLOATS),
    "PFM, big": (b"Pf\n3 2\n1.0\n" + FLOATS[::-1].astype(">f4").tobytes(), FLOATS),
    "PFM, colour": (b"PF\n1 2\n-1\n" + FLOATS[::-1].astype("<f4").tobytes(), FLOATS[:, None]),
}


@pytest.mark.parametrize("name", FILES)
def test_every_kind_is_read_exactly(name):
    data, expected = FILES[name]

    values = samples_of(data)

    if expected is not None:
        np.testing.assert_array_equal(values.squeeze(), expected.squeeze())
    assert read(data).changed == ()
    assert read_info(data).depth == read(data).pages[0].depth


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "I;16"])
def test_what_pillow_writes_is_read(mode, samples):
    image = PILImage.fromarray(samples(7, 13, 1)[..., 0]).convert("I" if mode == "I;16" else mode).convert(mode)
    file = io.BytesIO()
    image.save(file, "PPM")

    expected = np.array(image).astype(int) * (255 if mode == "1" else 1)
    np.testing.assert_array_equal(samples_of(file.getvalue()).squeeze(), expected)


def test_samples_are_scaled_to_white_and_it_is_told():
    file = read(b"P2 3 1 1000 0 500 1000")

    assert file.pages[0].samples.flatten().tolist() == [0, 32768, 65535]
    assert file.changed == ("samples up to 1000 scaled to 65535",)
    assert read(b"P2 2 1 15 0 15").changed == ("samples up to 15 scaled to 255",)


def test_images_that_follow_one_another_are_pages():
    file = read(b"P5 3 2 255\n" + GREY.tobytes() + b"P6 3 2 255\n" + COLOUR.tobytes() + b"\n")

    assert [page.samples.shape for page in file.pages] == [(2, 3, 1), (2, 3, 3)]


@pytest.mark.parametrize(
    "data",
    [
        b"P5 ", b"P5 3", b"P5 3 2", b"P5 3 2 0\n" + bytes(6), b"P5 3 2 70000\n" + bytes(12),
        b"P5 3 2 255\n" + bytes(5), b"P6 x y 255\n", b"P2 2 1 255 0", b"P2 2 1 255 0 x", b"P2 2 1 9 0 10",
        b"P2 2 1 255 0 -1", b"P1 3 2 01", b"P4 9 2\n" + bytes(3), b"Pf 3 2\n", b"Pf 3 2 0\n" + bytes(24),
        b"P7\nWIDTH 3\nENDHDR\n", b"P7\nWIDTH 3\n", b"P5 0 2 255\n", PAM % (1, 0, b"GRAYSCALE"),
    ],
)  # fmt: skip
def test_a_broken_file_is_refused(data):
    with pytest.raises(BrokenImage, match=r"Netpbm file is broken|has no pixels"):
        read(data)


def test_odd_channels_and_large_images_are_refused_from_the_header():
    with pytest.raises(UnsupportedImage, match="The image has 5 channels"):
        read(PAM % (5, 255, b"FIVE"))
    with pytest.raises(ImageTooLarge, match="100000 x 100000"):
        read(b"P6 100000 100000 255\n", max_pixels=10**6)


def test_samples_that_are_no_numbers_stay_so_in_tiff():
    row = np.array([0.25, np.nan, 0.75, 0.5], "<f4")
    file = read(b"Pf 4 1 -1\n" + row.tobytes())

    back = read(encode(file, FORMATS["tiff"]).data)

    assert file.pages[0].samples.isfinite().all()
    assert np.array_equal(to_array(back.pages[0]).reshape(-1), row, equal_nan=True)
