"""Samples that are missing, and samples of types that an Image does not hold."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.imageio.samples import is_exact_in_float32, parse_nodata, take_missing, to_16_bits, to_stored

NAN = np.nan


def column(*values, dtype=np.float32):
    return np.array(values, dtype).reshape(1, -1, 1)


@pytest.mark.parametrize(
    ("values", "filled"),
    [
        ((1, 2, NAN, NAN, 5, 6), (1, 2, 2, 5, 5, 6)),
        ((NAN, NAN, 3, 4), (4, 3, 3, 4)),
        ((1, NAN, NAN, NAN), (1, 1, 1, 1)),
        ((1, 2, NAN, NAN, NAN, NAN, NAN), (1, 2, 2, 1, 1, 2, 2)),
        ((NAN, NAN), (0, 0)),
    ],
)
def test_missing_samples_are_reflections_of_their_neighbours(values, filled):
    found, _ = take_missing(column(*values), None)

    assert found.flatten().tolist() == list(filled)


def test_the_nearer_neighbours_are_reflected_across_or_down():
    values = np.array([[1, 2], [3, NAN], [NAN, NAN], [7, 8]], np.float32)[..., None]

    found, _ = take_missing(values, None)

    assert found[..., 0].tolist() == [[1, 2], [3, 3], [3, 8], [7, 8]]


def test_where_rows_and_columns_are_missing_other_rows_are_reflected():
    values = np.full((3, 3, 1), NAN, np.float32)
    values[0, 0] = 5

    found, _ = take_missing(values, None)

    assert (found == 5).all()


def test_each_channel_is_filled_by_itself():
    values = np.array([[[1, 10, 100], [NAN, 20, 200], [3, 30, NAN]]], np.float32)

    found, _ = take_missing(values, None)

    assert found.tolist() == [[[1, 10, 100], [1, 20, 200], [3, 30, 200]]]


@pytest.mark.parametrize(
    ("dtype", "nodata", "value"),
    [
        (np.float32, None, NAN),
        (np.float32, None, np.inf),
        (np.float32, None, -3.4028234663852886e38),
        (np.float32, None, 1e30),
        (np.float32, -9999.0, -9999),
        (np.float64, -1.7976931348623157e308, -1.7976931348623157e308),
        (np.uint8, 0.0, 0),
        (np.uint16, 65535.0, 65535),
        (np.int16, -32768.0, -32768),
        (np.int32, -(2.0**31), -(2**31)),
        (np.uint32, None, 2**32 - 1),
    ],
)
def test_missing_samples_are_put_back_exactly(dtype, nodata, value):
    values = column(1, value, 3, dtype=dtype)

    found, missing = take_missing(values, nodata)

    assert found.flatten().tolist() == [1, 1, 3]
    np.testing.assert_array_equal(missing.put_back(found), values)


@pytest.mark.parametrize(("dtype", "nodata"), [(np.uint8, -9999.0), (np.uint16, 0.5), (np.float32, -1.0)])
def test_a_value_that_no_sample_has_leaves_all_as_they_are(dtype, nodata):
    values = column(0, 1, 241, dtype=dtype)

    found, missing = take_missing(values, nodata)

    assert missing is None
    assert found is values


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.data())
def test_samples_that_are_present_never_change(data):
    height, width = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    present = np.array(data.draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width)))
    values = np.arange(1, height * width + 1, dtype=np.float32)
    whole = np.where(present, values, NAN).reshape(height, width, 1)

    found, missing = take_missing(whole, None)

    np.testing.assert_array_equal(found.flatten()[present], values[present])
    assert np.isin(found.flatten(), values[present] if present.any() else [0]).all()
    np.testing.assert_array_equal(missing.put_back(found) if missing else found, whole)


def test_too_many_different_missing_values_are_refused():
    with pytest.raises(ValueError, match="more than 250 different values"):
        take_missing((1e31 * np.arange(1, 400, dtype=np.float64)).reshape(1, -1, 1), None)


def test_integers_are_rounded_and_clipped_to_their_type():
    values = np.array([-40000, -1.6, 2.4, 40000], np.float32)

    assert to_stored(values, "int16").tolist() == [-32768, -2, 2, 32767]
    assert to_stored(np.array([-1, 5e9], np.float32), "uint32").tolist() == [0, 2**32 - 1]


@pytest.mark.parametrize(
    ("values", "stored", "expected", "words"),
    [
        ((0, 65535), "uint32", (0, 65535), "32 bits to 16 bits a channel"),
        ((7, 9), "int16", (7, 9), "signed 16 bits to 16 bits a channel"),
        ((-32768, 5), "int16", (0, 32773), "signed 16 bits to 16 bits a channel, 32768 added"),
        ((0, 2**32 - 2**8), "uint32", (0, 65535), "32 bits to 16 bits a channel, divided by 65537"),
    ],
)
def test_integers_become_16_bits_as_the_words_say(values, stored, expected, words):
    samples, change = to_16_bits(torch.tensor(values, dtype=torch.float32), stored)

    assert samples.tolist() == list(expected)
    assert change == words


def test_a_loss_of_precision_is_noticed():
    assert is_exact_in_float32(np.array([0.5, NAN, 1e300]))
    assert not is_exact_in_float32(np.array([0.1]))
    assert is_exact_in_float32(np.array([2**24], np.uint32))
    assert not is_exact_in_float32(np.array([2**24 + 1], np.uint32))


@pytest.mark.parametrize(("text", "value"), [("-9999", -9999.0), (" 0 \0", 0.0), ("nan", None)])
def test_the_value_for_no_data_is_read(text, value):
    assert parse_nodata(text) == value


@pytest.mark.parametrize("text", ["none", "", " \0-1", "-9999,0"])
def test_a_value_for_no_data_that_is_no_number_is_refused(text):
    with pytest.raises(ValueError, match=r"could not convert|empty"):
        parse_nodata(text)
