"""MRC."""

import io

import mrcfile
import numpy as np
import pytest
import tifffile

from engine.imageio.formats import FORMATS, BrokenImage, UnsupportedImage
from engine.imageio.mapped_file import map_file
from engine.imageio.read import count_pages, read, read_info, read_pages
from engine.imageio.write import encode

RNG = np.random.default_rng(0)
VALUES = 50 + 10 * RNG.standard_normal((4, 20, 30)).astype(np.float32)


@pytest.fixture
def mrc(tmp_path):
    """mrc(values, order, extended): the bytes of a file."""

    def make(values, order=None, extended=b""):
        path = tmp_path / "made.mrc"
        with mrcfile.new(path, overwrite=True) as file:
            file.set_data(values.astype(values.dtype.newbyteorder(order)) if order else values)
            if extended:
                file.set_extended_header(np.frombuffer(extended, np.uint8))
        return path.read_bytes()

    return make


@pytest.mark.parametrize("dtype", ["int8", "int16", "uint16", "float32"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_type_and_order_comes_back_as_tiff(dtype, order, mrc):
    data = mrc(VALUES.astype(dtype), order)

    back = tifffile.imread(io.BytesIO(encode(read(data), FORMATS["tiff"]).data))

    assert back.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(back, VALUES.astype(dtype)[:, ::-1])


def test_floats_of_16_bits_become_those_of_32_bits(mrc):
    file = read(mrc(VALUES[0].astype(np.float16)))

    np.testing.assert_array_equal(file.pages[0].samples[..., 0], VALUES[0, ::-1].astype(np.float16))
    assert file.changed == ("float16 to float32", "without the MRC header")


def test_an_extended_header_is_skipped(mrc):
    page = read(mrc(VALUES[0], extended=bytes(range(200)))).pages[0]

    np.testing.assert_array_equal(page.samples[..., 0], VALUES[0, ::-1])


def test_sections_are_pages(mrc):
    data = mrc(VALUES)

    assert count_pages(data) == 4
    assert read_info(data, page=2).pixels == 600
    np.testing.assert_array_equal(read(data, page=2).pages[0].samples[..., 0], VALUES[1, ::-1])


def test_sections_are_read_from_a_mapped_file(mrc, tmp_path):
    mrc(VALUES)

    with map_file(tmp_path / "made.mrc") as data:
        [(page, _)] = read_pages(data, {3})
        np.testing.assert_array_equal(page.samples[..., 0].numpy(), VALUES[3, ::-1])


def test_complex_numbers_are_refused(mrc):
    with pytest.raises(UnsupportedImage, match="pixels are complex numbers"):
        read(mrc(VALUES.astype(np.complex64)))


@pytest.mark.parametrize("part", [slice(1500), slice(1024), slice(500)])
def test_a_file_cut_short_is_broken(part, mrc):
    with pytest.raises(BrokenImage, match="broken or cut short"):
        read(mrc(VALUES)[part])
