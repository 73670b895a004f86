"""Camera raw files, on small DNGs with known values."""

import io
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image as PILImage
from PIL import ImageCms

from engine.imageio.formats import (
    FORMATS,
    SAME,
    BrokenImage,
    CannotWrite,
    ImageTooLarge,
    NotCameraRaw,
    UnsupportedImage,
    detect_format,
    output_format,
)
from engine.imageio.read import develop, read, read_info, read_mosaic
from engine.imageio.write import encode
from tests.support.raw_files import BLACK, RGGB_PATTERN, WHITE, XTRANS, dng, nef, scene

DEVELOPED = "developed from a camera's raw file (camera white balance, sRGB)"
NO_MOSAIC = "denoised after developing: the file has no Bayer mosaic"


def srgb(linear):
    """0..1 -> 0..65535. Source: IEC 61966-2-1."""
    return 65535 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def balanced_grey(level):
    """A mosaic that is an even grey, of this share of white, after the balance 2 : 1 : 1.6."""
    mosaic = np.full((48, 64), level)
    mosaic[::2, ::2] /= 2
    mosaic[1::2, 1::2] /= 1.6
    return (BLACK + mosaic * (WHITE - BLACK)).round().astype(np.uint16)


@pytest.mark.parametrize("level", [0.001, 0.05, 0.4, 0.9])
def test_a_grey_is_developed_to_the_same_grey_of_srgb(level):
    file = read(dng(balanced_grey(level)))

    assert file.kind.name == "raw"
    assert file.changed == (DEVELOPED,)
    # The mosaic's rounding, on the steepest part of the curve.
    assert np.abs(file.pages[0].samples.numpy() - srgb(np.array(level))).max() < 65535 * 12.92 * 1.7 / (
        WHITE - BLACK
    )


def test_the_brightness_does_not_depend_on_the_highest_value():
    plain, spotted = balanced_grey(0.4), balanced_grey(0.4)
    spotted[4, 5] = 0.9 * WHITE

    developed, other = (read(dng(each)).pages[0].samples.numpy() for each in (plain, spotted))

    np.testing.assert_array_equal(developed[16:], other[16:])


def test_without_a_camera_balance_daylight_is_taken():
    file = read(dng(neutral=None))

    assert file.changed == ("developed from a camera's raw file (daylight white balance, sRGB)",)
    # This camera's colours are those of sRGB, so a mosaic of greys stays grey.
    red, green, blue = file.pages[0].samples.float().mean((0, 1)).tolist()
    assert red == pytest.approx(green, rel=0.01) == pytest.approx(blue, rel=0.01)


def test_the_image_is_turned_upright():
    file = read(dng(orientation=6))

    assert file.pages[0].samples.shape == (64, 48, 3)
    assert file.pages[0].metadata.orientation == 1
    expected = np.rot90(read(dng()).pages[0].samples.numpy(), -1)
    np.testing.assert_array_equal(file.pages[0].samples.numpy(), expected)


def test_the_size_is_known_before_anything_is_unpacked():
    info = read_info(dng())

    assert (info.kind.name, info.pixels, info.depth) == ("raw", 48 * 64, "16")
    with pytest.raises(ImageTooLarge, match="64 x 48 = 3072 pixels; the limit is 3000"):
        read(dng(), max_pixels=3000)
    with pytest.raises(ImageTooLarge):
        read_mosaic(dng(), max_pixels=3000)


@pytest.mark.parametrize(
    ("values", "pattern", "channels"),
    [
        (np.stack([scene()] * 3, -1), (), 3),
        (scene(), (), 1),
        (scene(520, 520), XTRANS, 3),
    ],
    ids=["linear", "without colours", "X-Trans"],
)
def test_what_has_no_bayer_mosaic_is_developed_and_told(values, pattern, channels):
    data = dng(values, pattern)

    file = read(data)

    assert file.pages[0].samples.shape == (*values.shape[:2], channels)
    assert file.changed[1:] == (NO_MOSAIC,)
    assert read_mosaic(data) is None


def test_a_camera_without_colours_has_srgbs_curve_in_any_space():
    levels = np.full((48, 64), BLACK + 0.4 * (WHITE - BLACK)).round().astype(np.uint16)

    for colour in ("srgb", "prophoto"):
        image = read(dng(levels, ()), colour=colour).pages[0]
        assert image.samples.float().mean().item() == pytest.approx(srgb(np.array(0.4)), rel=1e-3)
        assert image.metadata.icc_profile is None


def test_prophoto_shows_the_same_colours_through_its_profile():
    rng = np.random.default_rng(0)
    # Patches of 16 x 16 pixels: demosaicing does not blur their middle.
    patches = rng.uniform(0.1, 0.8, (4, 4)).repeat(16, 0).repeat(16, 1)
    values = (BLACK + patches * (WHITE - BLACK)).astype(np.uint16)
    values[::2, ::2] //= 2
    narrow = read(dng(values)).pages[0]
    wide = read(dng(values), colour="prophoto")

    assert wide.changed == ("developed from a camera's raw file (camera white balance, ProPhoto RGB)",)
    profile = ImageCms.ImageCmsProfile(io.BytesIO(wide.pages[0].metadata.icc_profile))
    pixels = PILImage.fromarray((wide.pages[0].samples.numpy() >> 8).astype(np.uint8))
    shown = ImageCms.profileToProfile(pixels, profile, ImageCms.createProfile("sRGB"))
    difference = np.asarray(shown).astype(int) - (narrow.samples.numpy() >> 8)
    middle = difference.reshape(4, 16, 4, 16, 3)[:, 6:10, :, 6:10]
    assert np.abs(middle).mean() < 1.5
    assert narrow.metadata.icc_profile is None


def test_prophoto_is_refused_for_other_files(file_of, samples):
    for work in (read, read_info):
        with pytest.raises(NotCameraRaw, match=r"prophoto .* camera raw files only, and this is a PNG file\."):
            work(file_of(samples(4, 5)), colour="prophoto")


def test_exif_is_kept_without_tags_of_the_raw_data():
    image = read(dng(preview=True, noise_profile=(1e-4, 1e-6))).pages[0]

    written = encode(replace(read(dng()), pages=(image,)), FORMATS["tiff"]).data

    assert detect_format(written).name == "tiff"
    with tifffile.TiffFile(io.BytesIO(written)) as file:
        tags = file.pages[0].tags
        assert [tags[code].value for code in (271, 272, 315)] == ["Maker", "Model", "Artist"]
        assert not [tag.code for tag in tags if tag.code >= 50000]


def test_same_is_refused_because_raw_is_not_written():
    with pytest.raises(CannotWrite, match=r"Camera raw can be read but not written\. Output formats: jpeg"):
        output_format(SAME, read_info(dng()).kind)


# Cut and broken files


@pytest.mark.parametrize("percent", [30, 70, 98])
@pytest.mark.parametrize("make", [dng, nef, lambda: dng(preview=True)], ids=["dng", "nef", "dng with a preview"])
def test_a_file_cut_short_is_refused(make, percent):
    data = make()

    with pytest.raises(BrokenImage):
        read(data[: len(data) * percent // 100])


def test_a_file_whose_end_is_black_is_refused():
    values = scene()
    values[40:] = 0

    with pytest.raises(BrokenImage, match="broken or cut short: its last 3 rows hold no data"):
        read(dng(values))


def test_a_sensor_much_larger_than_its_image_is_refused():
    # Its ActiveArea says that 64 x 64 pixels show the image.
    with io.BytesIO(dng(scene(240, 240))) as file, tifffile.TiffFile(file) as opened:
        at = opened.pages[0].tags[50714].offset
        data = bytearray(file.getvalue())
    data[at : at + 12] = b"\x8d\xc6\3\0\4\0\0\0" + len(data).to_bytes(4, "little")
    data += np.array([0, 0, 64, 64], "<u2").tobytes()

    with pytest.raises(BrokenImage, match="its sensor has 240 x 240 pixels, and its image 64 x 64"):
        read_info(bytes(data))


def test_what_libraw_does_not_know_is_refused_by_name():
    with pytest.raises(UnsupportedImage, match="a camera's raw file that LibRaw cannot open"):
        read(b"FUJIFILMCCD-RAW " + bytes(500))


# The mosaic


def test_the_mosaic_has_the_sensors_values_and_levels():
    profile = (1e-4, 1e-6, 2e-4, 2e-6, 3e-4, 3e-6)

    mosaic = read_mosaic(dng(noise_profile=profile))

    np.testing.assert_array_equal(mosaic.values, scene())
    assert mosaic.values.dtype == np.uint16
    assert mosaic.pattern == RGGB_PATTERN
    assert mosaic.black == (BLACK,) * 4
    assert mosaic.white == WHITE
    assert mosaic.noise_profile == ((1e-4, 1e-6), (2e-4, 2e-6), (3e-4, 3e-6))


@pytest.mark.parametrize(
    ("colours", "pattern"),
    [((0, 1, 1, 2), ((0, 1), (3, 2))), ((2, 1, 1, 0), ((2, 3), (1, 0))), ((1, 0, 2, 1), ((1, 0), (2, 3)))],
)
def test_the_pattern_says_which_pixel_has_which_colour(colours, pattern):
    assert read_mosaic(dng(pattern=colours)).pattern == pattern


@pytest.mark.parametrize("colour", ["srgb", "prophoto"])
def test_the_own_mosaic_is_developed_to_the_same_image(colour):
    for data in (dng(orientation=8), nef()):
        again, file = develop(data, read_mosaic(data).values, colour=colour), read(data, colour=colour)

        assert again.changed == file.changed
        assert again.pages[0].metadata == file.pages[0].metadata
        assert torch.equal(again.pages[0].samples, file.pages[0].samples)


def test_another_mosaic_is_developed_in_its_place():
    data, other = dng(), scene(seed=1, noise=0)

    file = develop(data, other)

    assert torch.equal(file.pages[0].samples, read(dng(other)).pages[0].samples)


def test_a_mosaic_of_another_shape_is_refused():
    with pytest.raises(UnsupportedImage, match=r"it is uint16, \(3, 3\)\. The file's is uint16, \(48, 64\)"):
        develop(dng(), np.zeros((3, 3), np.uint16))
    with pytest.raises(UnsupportedImage, match="The file's is no Bayer mosaic"):
        develop(dng(pattern=()), scene())


def test_only_camera_raw_has_a_mosaic(file_of, samples):
    for work in (read_mosaic, lambda data: develop(data, scene())):
        with pytest.raises(NotCameraRaw, match="this is a PNG file"):
            work(file_of(samples(4, 5)))


def test_a_saturated_sensor_stays_white_without_a_tint():
    # Nikon's file says nothing of its white level, and LibRaw takes 65535.
    values = np.full((48, 64), 60000, np.uint16)
    values[:, :32] = scene()[:, :32]

    white = read(nef(values)).pages[0].samples[8:40, 44:60].numpy()

    assert white.min() == 65535
