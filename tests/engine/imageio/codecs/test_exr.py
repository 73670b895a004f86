"""OpenEXR."""

import struct

import numpy as np
import OpenEXR
import pytest

from engine.imageio.formats import FORMATS, BrokenImage, ImageTooLarge, UnsupportedImage
from engine.imageio.metadata.cicp import ColourCode
from engine.imageio.metadata.icc import profile_space
from engine.imageio.read import read, read_info
from engine.imageio.write import encode

VALUES = np.random.default_rng(0).random((20, 30)).astype(np.float32) * 4
HEADER = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
RGB = {"R": VALUES, "G": VALUES / 2, "B": VALUES / 4}


@pytest.fixture
def exr(tmp_path):
    """exr(channels, **header): the bytes of a file."""

    def make(channels, **header):
        path = tmp_path / "made.exr"
        # The library puts objects of its own into the dictionary.
        OpenEXR.File({**HEADER, **header}, dict(channels)).write(str(path))
        return path.read_bytes()

    return make


@pytest.mark.parametrize(
    "compression", [OpenEXR.NO_COMPRESSION, OpenEXR.ZIP_COMPRESSION, OpenEXR.PIZ_COMPRESSION]
)
def test_colours_are_read_exactly_and_stay_linear(compression, exr):
    file = read(exr(RGB, compression=compression))

    np.testing.assert_array_equal(file.pages[0].samples, np.stack(list(RGB.values()), 2))
    assert file.pages[0].metadata.colour_code == ColourCode(1, 8)
    assert file.changed == ()


def test_greys_of_16_bits_become_floats(exr):
    file = read(exr({"Y": VALUES.astype(np.float16)}))

    np.testing.assert_array_equal(file.pages[0].samples[..., 0], VALUES.astype(np.float16).astype(np.float32))
    assert file.changed == ("float16 to float32",)


def test_an_opaque_image_is_read_without_its_further_channels(exr):
    file = read(exr({**RGB, "A": np.ones_like(VALUES), "Z": VALUES}))

    assert file.pages[0].alpha is None
    assert file.changed == ("without its further channels",)


def test_a_tiff_keeps_floats_and_gets_a_profile(exr):
    numbers = (0.708, 0.292, 0.17, 0.797, 0.131, 0.046, 0.3127, 0.329)
    file = read(exr(RGB, chromaticities=numbers))

    back = read(encode(file, FORMATS["tiff"]).data)

    np.testing.assert_array_equal(back.pages[0].samples, file.pages[0].samples)
    assert profile_space(back.pages[0].metadata.icc_profile) == b"RGB "


def test_a_part_of_the_image_is_told(exr):
    window = (np.array([5, 5], np.int32), np.array([34, 24], np.int32))
    whole = (np.array([0, 0], np.int32), np.array([39, 39], np.int32))

    assert read(exr(RGB, dataWindow=window, displayWindow=whole)).changed == ("the data window alone",)


def test_further_images_are_told(tmp_path):
    path = tmp_path / "parts.exr"
    parts = [OpenEXR.Part({"type": OpenEXR.scanlineimage}, dict(RGB), name) for name in ("left", "right")]
    OpenEXR.File(parts).write(str(path))

    file = read(path.read_bytes())

    assert (len(file.pages), file.changed) == (1, ("without the other images of the file",))


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        ({"Y": (VALUES * 9).astype(np.uint32)}, "whole numbers for samples"),
        ({"R": VALUES, "G": VALUES}, "other channels than those that are read"),
        ({"Z": VALUES}, "other channels than those that are read"),
        ({**RGB, "A": VALUES}, "multiplied by its transparency"),
    ],
)
def test_channels_that_are_not_read_are_refused(channels, message, exr):
    with pytest.raises(UnsupportedImage, match=message):
        read(exr(channels))


def test_a_file_cut_short_is_broken(exr):
    whole = exr(RGB)

    for part in (0.01, 0.1, 0.5, 0.95):
        with pytest.raises(BrokenImage, match="OpenEXR file is broken"):
            read(whole[: max(8, int(len(whole) * part))])


def test_a_large_image_is_refused_from_its_header(exr):
    data = exr(RGB)
    window = struct.pack("<4i", 0, 0, 29, 19)
    large = data.replace(window, struct.pack("<4i", 0, 0, 29, 19_999), 1)

    assert read_info(data).pixels == 600
    with pytest.raises(ImageTooLarge):
        read(large, max_pixels=10_000)


def test_damaged_files_raise_only_our_errors(exr):
    data = exr(RGB)

    for at in range(4, len(data), 23):
        damaged = bytearray(data)
        damaged[at] ^= 0x41
        try:
            read(bytes(damaged), max_pixels=100_000)
        except (BrokenImage, UnsupportedImage, ImageTooLarge):
            continue
