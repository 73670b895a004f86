"""Image: samples to pixels and back, and images from arrays."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from engine.imageio.formats import UnsupportedImage
from engine.imageio.image import Image, convert_mode, from_array, to_array, to_pixels, to_samples
from engine.imageio.metadata import NO_METADATA, Metadata
from tests.support.images import camera_exif, with_alpha


@pytest.mark.parametrize(("dtype", "white"), [(torch.uint8, 255), (torch.uint16, 65535)])
def test_pixels_are_clipped_and_rounded_to_nearest(dtype, white):
    pixels = torch.tensor([-0.3, 0.0, 99.4 / white, 99.6 / white, 1.0, 1.7]).view(2, 3, 1).repeat(1, 1, 3)

    colour, grey = to_samples(pixels, dtype, 3), to_samples(pixels, dtype, 1)

    assert colour.dtype == grey.dtype == dtype
    assert colour[..., 2].tolist() == grey[..., 0].tolist() == [[0, 0, 99], [100, white, white]]


def test_grey_is_the_mean_of_the_channels():
    pixels = torch.tensor([10.0, 20.0, 60.0]).view(1, 1, 3) / 255

    assert to_samples(pixels, torch.uint8, 1).tolist() == [[[30]]]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_sample_survives_conversion_to_pixels_and_back(dtype, channels):
    every = torch.arange(torch.iinfo(dtype).max + 1).to(dtype).view(-1, 16, 1).expand(-1, -1, channels)

    assert torch.equal(to_samples(to_pixels(every), dtype, channels), every)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_an_array_becomes_samples_and_alpha(channels):
    values = np.random.default_rng(0).integers(256, size=(6, 7, channels), dtype=np.uint8)

    image = from_array(values, 8, NO_METADATA)

    assert image.grey == (channels < 3)
    assert (image.alpha is None) == (channels in (1, 3))
    np.testing.assert_array_equal(with_alpha(image), values)


@pytest.mark.parametrize("bits", [*range(1, 8), *range(9, 16)])
def test_other_depths_are_scaled_to_8_or_16_bits(bits):
    white, dtype = (255, torch.uint8) if bits < 8 else (65535, torch.uint16)
    every = np.arange(2**bits, dtype=np.uint16).reshape(-1, 1)

    image = from_array(every, bits, NO_METADATA)

    assert image.samples.dtype == dtype
    np.testing.assert_array_equal(image.samples[..., 0], np.round(every / (2**bits - 1) * white))


def test_an_array_is_turned_together_with_its_metadata():
    values = np.arange(6, dtype=np.uint8).reshape(2, 3)

    image = from_array(values, 8, Metadata(exif=camera_exif(6)), orientation=6)

    assert image.samples[..., 0].tolist() == [[3, 0], [4, 1], [5, 2]]
    assert image.metadata.orientation == 1


def test_samples_that_would_overflow_are_refused():
    with pytest.raises(UnsupportedImage, match=r"samples beyond 1e\+09, the limit\. Divide them by a constant"):
        from_array(np.array([[0.5, 1e12]], np.float32), 32, NO_METADATA)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.uint32, np.float64])
def test_other_types_are_floats_in_their_own_units_and_come_back(dtype):
    values = np.array([[[0], [100]], [[127], [3]]]).astype(dtype)

    image = from_array(values, 8 * values.itemsize, NO_METADATA)

    assert image.samples.dtype == torch.float32
    np.testing.assert_array_equal(image.samples, values)
    assert to_array(image).dtype == dtype
    np.testing.assert_array_equal(to_array(image), values[..., 0])


def test_missing_samples_come_back_and_no_others():
    values = np.array([[1, np.nan, 3], [4, np.inf, -9999]], np.float32)

    image = from_array(values, 32, NO_METADATA, nodata=-9999)
    changed = replace(image, samples=image.samples + 1)

    assert bool(image.samples.isfinite().all())
    np.testing.assert_array_equal(to_array(changed), [[2, np.nan, 4], [5, np.inf, -9999]])


def test_a_mode_in_colour_keeps_missing_samples():
    grey = from_array(np.array([[1, np.nan]], np.float32), 32, NO_METADATA)

    colour = convert_mode(grey, colour=True, alpha=False)

    np.testing.assert_array_equal(to_array(colour), [[[1, 1, 1], [np.nan] * 3]])


def test_an_array_of_five_channels_is_refused():
    with pytest.raises(UnsupportedImage, match=r"The image has 5 channels\. Supported pixels: RGB and grey"):
        from_array(np.zeros((2, 2, 5), np.uint8), 8, NO_METADATA)


def test_a_mode_adds_channels_and_removes_none():
    grey = Image(torch.full((2, 3, 1), 7, dtype=torch.uint8))

    colour = convert_mode(grey, colour=True, alpha=True)
    unchanged = convert_mode(colour, colour=False, alpha=False)

    assert colour.samples.tolist() == [[[7] * 3] * 3] * 2
    assert colour.alpha.tolist() == [[255] * 3] * 2
    assert unchanged.samples.shape == (2, 3, 3)
    assert unchanged.alpha is not None
