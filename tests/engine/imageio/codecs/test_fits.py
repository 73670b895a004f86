"""FITS."""

import io

import numpy as np
import pytest
import tifffile
from astropy.io import fits

from engine.imageio.formats import FORMATS, BrokenImage, ImageTooLarge, UnsupportedImage
from engine.imageio.read import count_pages, read, read_info
from engine.imageio.write import encode

RNG = np.random.default_rng(0)
COUNTS = RNG.integers(0, 4000, (20, 30)).astype(np.int16)
LOST = "without the FITS header"


def written(*units):
    file = io.BytesIO()
    fits.HDUList(list(units)).writeto(file)
    return file.getvalue()


def of(values, **header):
    unit = fits.PrimaryHDU(values)
    unit.header.update(header)
    return written(unit)


def as_tiff(data):
    return tifffile.imread(io.BytesIO(encode(read(data), FORMATS["tiff"]).data))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint16", "int32", "uint32", "float32", "float64"])
def test_every_type_comes_back_as_tiff(dtype):
    values = (100 + 10 * RNG.standard_normal((20, 30))).astype(np.float32).astype(dtype)

    back = as_tiff(of(values))

    assert back.dtype == values.dtype
    np.testing.assert_array_equal(back, values[::-1])


def test_rows_keep_their_order_if_the_header_says_so():
    np.testing.assert_array_equal(as_tiff(of(COUNTS, ROWORDER="TOP-DOWN")), COUNTS)


def test_scaled_values_are_in_their_units():
    unit = fits.PrimaryHDU(COUNTS.copy())
    unit.scale("int16", bzero=1000, bscale=0.5)
    data = written(unit)

    with fits.open(io.BytesIO(data)) as file:
        np.testing.assert_array_equal(as_tiff(data), file[0].data[::-1])


@pytest.mark.parametrize(
    ("added", "stored", "words"),
    [(0, "int32", "signed 32 bits"), (2**31, "uint32", "32 bits"), (-(2**33), None, None)],
)
def test_integers_of_64_bits_become_those_of_32_bits(added, stored, words):
    data = of(COUNTS.astype(np.int64) + added)

    if stored is None:
        with pytest.raises(UnsupportedImage, match="samples beyond 1e"):
            read(data)
    else:
        assert read(data).pages[0].stored == stored
        assert f"64 bits to {words}" in read(data).changed


def test_blank_samples_are_missing():
    values = COUNTS.copy()
    values[3, 4] = -32768

    page = read(of(values, BLANK=-32768)).pages[0]

    assert page.missing.codes[-4, 4, 0] == 1
    assert page.missing.codes.count_nonzero() == 1


def test_the_first_of_several_images_is_read():
    file = read(written(fits.PrimaryHDU(), fits.ImageHDU(COUNTS), fits.ImageHDU(COUNTS + 1)))

    np.testing.assert_array_equal(file.pages[0].samples[..., 0], COUNTS[::-1])
    assert file.changed == ("the first image of several", LOST)


def test_compressed_images_are_read():
    data = written(fits.PrimaryHDU(), fits.CompImageHDU(COUNTS))

    np.testing.assert_array_equal(as_tiff(data), COUNTS[::-1])
    assert read_info(data).pixels == COUNTS.size


def test_the_planes_of_a_cube_are_pages():
    cube = RNG.standard_normal((5, 20, 30)).astype(np.float32)

    file = read(of(cube))

    assert count_pages(of(cube)) == 5
    np.testing.assert_array_equal(file.pages[2].samples[..., 0], cube[2, ::-1])


def test_three_planes_called_rgb_are_a_colour_image():
    planes = RNG.integers(0, 60000, (3, 20, 30)).astype(np.uint16)

    [page] = read(of(planes, CTYPE3="RGB")).pages

    np.testing.assert_array_equal(page.samples, planes[:, ::-1].transpose(1, 2, 0))


def test_sizes_are_known_before_pixels_are_decoded():
    data = of(COUNTS)

    assert read_info(data).depth == "float"
    assert read_info(of(COUNTS.astype(np.uint16))).depth == "16"
    with pytest.raises(ImageTooLarge, match="30 x 20 = 600 pixels"):
        read(data, max_pixels=599)


def test_a_spectrum_is_refused():
    with pytest.raises(UnsupportedImage, match="has no image: it holds a spectrum or tables alone"):
        read(of(np.arange(50.0)))


@pytest.mark.parametrize("part", [slice(2900), slice(100), slice(10)])
def test_a_file_cut_short_is_broken(part):
    with pytest.raises(BrokenImage, match="broken or cut short"):
        read(of(COUNTS)[part])
