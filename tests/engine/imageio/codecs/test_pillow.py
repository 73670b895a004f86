"""Images of 8 bits a channel through Pillow, and AVIF of 10 bits through imagecodecs."""

from dataclasses import replace
from io import BytesIO

import imagecodecs
import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from engine.imageio.formats import UnsupportedImage
from engine.imageio.read import decode, read
from engine.imageio.write import encode_png
from tests.support.images import PROFILE

LOSSLESS = {"PNG": {}, "WEBP": {"lossless": True}, "BMP": {}, "TIFF": {"compression": "tiff_lzw"}}
ORIENTATION = 0x0112


def to_8_bits(pixels):
    return pixels.mul(255).round().to(torch.uint8).numpy()


@pytest.mark.parametrize("kind", LOSSLESS)
def test_a_lossless_rgb_file_is_decoded_exactly(kind, samples, file_of):
    noisy = samples(9, 14)

    image = decode(file_of(noisy, kind, **LOSSLESS[kind]))

    assert image.samples.dtype == torch.uint8
    assert image.samples.is_contiguous()
    assert image.pixels.dtype == torch.float32
    assert image.pixels.is_contiguous()
    np.testing.assert_array_equal(to_8_bits(image.pixels), noisy)
    assert not image.grey
    assert image.alpha is None
    assert image.depth == "8"


def test_a_jpeg_is_decoded_closely(samples, file_of):
    noisy = samples(40, 50) // 8 * 8

    image = decode(file_of(noisy, "JPEG", quality=95, subsampling=0))

    assert np.abs(to_8_bits(image.pixels).astype(int) - noisy).mean() < 5


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF"])
def test_a_grey_image_has_equal_channels_and_is_written_grey(kind, samples, file_of):
    noisy = samples(7, 5, 1)

    image = decode(file_of(noisy, kind))
    with PILImage.open(BytesIO(encode_png(image))) as returned:
        mode, values = returned.mode, np.array(returned)

    assert image.grey
    np.testing.assert_array_equal(to_8_bits(image.pixels), noisy.repeat(3, axis=2))
    assert mode == "L"
    np.testing.assert_array_equal(values, noisy[..., 0])


def test_a_bilevel_scan_is_grey(file_of):
    scan = PILImage.new("1", (8, 3))
    scan.putpixel((5, 1), 1)

    image = decode(file_of(scan, "TIFF", compression="group4"))

    assert image.grey
    assert image.pixels.sum() == 3
    assert image.pixels[1, 5].tolist() == [1, 1, 1]


@pytest.mark.parametrize("channels", [2, 4], ids=["grey", "rgb"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_alpha_comes_back_unchanged(kind, channels, samples, file_of):
    noisy = samples(6, 11, channels)

    image = decode(file_of(noisy, kind))
    darker = encode_png(replace(image, samples=image.samples // 2))
    with PILImage.open(BytesIO(darker)) as returned:
        values = np.array(returned)

    np.testing.assert_array_equal(image.alpha, noisy[..., -1])
    np.testing.assert_array_equal(values[..., -1], noisy[..., -1])
    assert values.shape == noisy.shape
    np.testing.assert_array_equal(values[..., :-1], noisy[..., :-1] // 2)


def test_a_palette_keeps_its_colours_and_transparent_entry(file_of):
    image = PILImage.new("P", (4, 2), 1)
    image.putpalette([200, 0, 0, 10, 20, 30])
    image.putpixel((3, 1), 0)

    decoded = decode(file_of(image, transparency=0))

    assert to_8_bits(decoded.pixels)[0, 0].tolist() == [10, 20, 30]
    assert to_8_bits(decoded.pixels)[1, 3].tolist() == [200, 0, 0]
    assert decoded.alpha.tolist() == [[255, 255, 255, 255], [255, 255, 255, 0]]


@pytest.mark.parametrize(
    ("value", "turned"),
    [(1, lambda a: a), (3, lambda a: a[::-1, ::-1]), (6, lambda a: np.rot90(a, -1)), (8, np.rot90)],
)
def test_an_image_is_turned_as_its_exif_says(value, turned, samples, file_of):
    noisy = samples(5, 8, 4)
    exif = PILImage.Exif()
    exif[ORIENTATION] = value

    image = decode(file_of(noisy, exif=exif))

    np.testing.assert_array_equal(to_8_bits(image.pixels), turned(noisy)[..., :3])
    np.testing.assert_array_equal(image.alpha, turned(noisy)[..., 3])


def test_the_colour_profile_comes_back(samples, file_of):
    image = decode(file_of(samples(3, 3), icc_profile=PROFILE))
    with PILImage.open(BytesIO(encode_png(image))) as returned:
        kept = returned.info["icc_profile"]

    assert kept == PROFILE


@pytest.mark.parametrize("profile", [PROFILE, b"nonsense" * 40], ids=["profile", "nonsense"])
def test_the_profile_of_a_gif_is_read(profile, samples, file_of):
    plain = file_of(samples(6, 5), "GIF")
    blocks = b"".join(
        bytes([len(part)]) + part for part in (profile[:255], profile[255:510], profile[510:]) if part
    )
    at = 13 + 3 * 2 ** ((plain[10] & 7) + 1)

    back = read(plain[:at] + b"\x21\xff\x0bICCRGBG1012" + blocks + b"\0" + plain[at:])

    is_whole = profile == PROFILE
    assert back.pages[0].metadata.icc_profile == (PROFILE if is_whole else None)
    assert back.changed == (() if is_whole else ("without an unreadable colour profile",))


def test_pixels_that_are_not_supported_are_named(file_of):
    with pytest.raises(UnsupportedImage, match=r"CMYK of 8 bits a channel, without .* Supported pixels: RGB"):
        decode(file_of(PILImage.new("CMYK", (4, 4)), "TIFF"))


def test_a_10_bit_avif_keeps_its_depth():
    values = np.random.default_rng(0).integers(1024, size=(16, 16, 3)).astype(np.uint16)

    data = imagecodecs.avif_encode(values, bitspersample=10, level=100)
    image = decode(data)

    expected = np.round(imagecodecs.avif_decode(data) / 1023 * 65535)
    np.testing.assert_array_equal(image.samples.numpy(), expected)


def test_an_animated_avif_of_10_bits_is_refused_by_name():
    frames = np.random.default_rng(0).integers(1024, size=(3, 16, 16, 3)).astype(np.uint16)

    with pytest.raises(UnsupportedImage, match="The animated AVIF has 10 bits a channel"):
        read(imagecodecs.avif_encode(frames, bitspersample=10))


# Colours


def test_cielab_becomes_srgb(file_of):
    # L*, a*, b* of black, white and sRGB's red at D50, by the CIE's formulas.
    lab = np.array([[[0, 0, 0], [255, 0, 0], [139, 81, 70]]], np.uint8)
    data = file_of(PILImage.frombytes("LAB", lab.shape[1::-1], lab.tobytes()), "TIFF")

    back = read(data)

    expected = torch.tensor([[[0, 0, 0], [255, 255, 255], [255, 0, 0]]])
    assert (back.pages[0].samples.int() - expected).abs().max() <= 8
    assert back.changed == ("CIELAB to sRGB",)


@pytest.mark.parametrize("kind", ["TIFF", "JPEG"])
def test_cmyk_without_a_profile_is_refused(kind, file_of):
    with pytest.raises(UnsupportedImage, match="CMYK of 8 bits a channel, without the colour profile"):
        decode(file_of(PILImage.new("CMYK", (4, 4)), kind))


@pytest.mark.parametrize("kind", ["TIFF", "JPEG"])
def test_cmyk_with_another_profile_is_refused_by_name(kind, file_of):
    with pytest.raises(UnsupportedImage, match="CMYK with a profile that is not one for CMYK"):
        decode(file_of(PILImage.new("CMYK", (4, 4)), kind, icc_profile=PROFILE))
    with pytest.raises(UnsupportedImage, match="CMYK with a profile that is not one for CMYK"):
        decode(file_of(PILImage.new("CMYK", (4, 4)), kind, icc_profile=b"no profile" * 20))
