"""Fill values that a file does not declare."""

from io import BytesIO

import numpy as np
import pytest
import tifffile

from engine.imageio.image import to_array
from engine.imageio.read import read
from engine.imageio.samples import take_missing

SIZE = 128


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def data(rng, low, high, dtype=np.float32):
    return rng.uniform(low, high, (SIZE, SIZE, 1)).astype(dtype)


def undeclared(values, nodata=None):
    _, missing = take_missing(values, nodata)
    return missing.undeclared if missing else ()


@pytest.mark.parametrize(
    ("dtype", "low", "high", "fill"),
    [
        (np.float32, 100, 300, -9999),
        (np.float64, 100, 300, 99999.5),
        (np.float16, 100, 300, -10000),
        (np.int16, 0, 900, -32768),
        (np.int32, -50, 900, 2**31 - 1),
        (np.uint16, 30000, 50000, 0),
        (np.uint16, 200, 900, 65535),
        (np.int8, 10, 30, -128),
    ],
)
def test_an_area_far_from_the_others_is_missing(rng, dtype, low, high, fill):
    values = data(rng, low, high, dtype)
    values[20:60, 30:80] = fill
    values[0, 5] = np.float16(high - 1)

    found, missing = take_missing(values, None)

    assert missing.undeclared == (fill,)
    assert found.min() >= low
    assert found.max() <= high
    np.testing.assert_array_equal(missing.put_back(found), values)


def test_both_the_least_and_the_largest_value_can_be_fill_values(rng):
    values = data(rng, 100, 300)
    values[:20], values[60:90, :50] = -9999, 32767

    assert undeclared(values) == (-9999, 32767)


def test_outliers_hide_no_fill_value(rng):
    values = data(rng, 1000, 1100)
    values[:20] = -9999
    values[40, 40], values[50, 50] = 1e6, 300

    assert undeclared(values) == (-9999,)


def test_an_area_on_the_strips_border_and_in_one_channel_is_found(rng):
    values = rng.uniform(100, 300, (600, 300, 3)).astype(np.float32)
    values[250:262, :, 1] = -9999

    assert undeclared(values) == (-9999,)


def with_scattered(rng, values, value, share):
    values[rng.random(values.shape) < share] = value
    return values


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(lambda rng: with_scattered(rng, data(rng, 100, 300), -9999, 0.05), id="impulses"),
        pytest.param(lambda rng: data(rng, 100, 300), id="plain"),
        pytest.param(lambda rng: np.full((SIZE, SIZE, 1), 7, np.int16), id="constant"),
        pytest.param(
            lambda rng: (
                with_scattered(rng, np.zeros((SIZE, SIZE, 1), np.float32), 300, 0.02)
                + with_scattered(rng, np.zeros((SIZE, SIZE, 1), np.float32), 310, 0.02)
            ),
            id="photons",
        ),
        pytest.param(
            lambda rng: np.where(np.indices((SIZE, SIZE))[0] < 40, 0, 1)[..., None] * data(rng, 100, 300),
            id="black area beside a wide range",
        ),
        pytest.param(
            lambda rng: np.where(np.indices((SIZE, SIZE))[0] < 40, 0, 65535)[..., None].astype(np.uint16),
            id="mask",
        ),
        pytest.param(
            lambda rng: (
                np.where(np.indices((SIZE, SIZE))[0] < 40, 0, 1)[..., None].astype(np.uint8)
                * data(rng, 200, 220, np.uint8)
            ),
            id="8 bits",
        ),
    ],
)
def test_other_images_have_no_fill_value(rng, values):
    assert undeclared(values(rng)) == ()


def test_a_saturated_star_is_no_fill_value(rng):
    rows, columns = np.indices((SIZE, SIZE)) - SIZE // 2
    star = 1e6 * np.exp(-(rows**2 + columns**2) / 128)
    values = (data(rng, 900, 1100)[..., 0] + star).clip(0, 65535).astype(np.uint16)

    assert (values == 65535).mean() > 0.01
    assert undeclared(values[..., None]) == ()


def tiff(values, nodata=None):
    file = BytesIO()
    tags = [] if nodata is None else [(42113, 2, 0, nodata, True)]
    tifffile.imwrite(file, values, photometric="minisblack", extratags=tags)
    return file.getvalue()


def test_a_fill_value_of_a_file_is_told_and_comes_back(rng):
    values = data(rng, 100, 300)[..., 0]
    values[20:60, 30:80] = -9999

    file = read(tiff(values))

    assert file.changed == ("the fill value -9999 kept as it is",)
    np.testing.assert_array_equal(to_array(file.pages[0]), values)


def test_a_declared_value_is_not_told(rng):
    values = data(rng, 100, 300)[..., 0]
    values[20:60, 30:80] = -9999

    assert read(tiff(values, "-9999")).changed == ()


def test_an_unreadable_nodata_tag_is_told_and_dropped(rng):
    values = data(rng, 0, 900, np.int16)[..., 0]
    values[20:60, 30:80] = -32768

    file = read(tiff(values, "no number"))

    assert file.changed == ("the fill value -32768 kept as it is", "without an unreadable nodata tag")
    assert b"no number" not in (file.pages[0].metadata.exif or b"")


def test_samples_that_are_scaled_have_no_fill_value(rng):
    values = data(rng, 3000, 4000, np.uint16)[..., 0]
    values[20:60, 30:80] = 0
    file = BytesIO()
    tifffile.imwrite(file, values, photometric="minisblack", bitspersample=12, compression=None)

    assert all("fill value" not in word for word in read(file.getvalue()).changed)
