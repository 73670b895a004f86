"""Colours from one format to another: carried over, or the change is told."""

import io
import struct

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from PIL import ImageCms
from PIL.PngImagePlugin import PngInfo

from engine.imageio.formats import FORMATS
from engine.imageio.image import Image, ImageSequence
from engine.imageio.metadata import Metadata
from engine.imageio.metadata.cicp import ColourCode, profile_of
from engine.imageio.metadata.icc import gamma_curve, grey_profile, profile_space
from engine.imageio.metadata.png import png_chunk
from engine.imageio.read import read
from engine.imageio.write import encode
from tests.engine.imageio.metadata.test_icc import to_srgb
from tests.support.images import PROFILE, noise_image

P3 = ColourCode(12, 13)
PQ = ColourCode(9, 16)
GREY = grey_profile("Grey", gamma_curve(1.4))
WITH_PROFILES = ["jpeg", "webp", "tiff"]


def written(metadata, kind, channels=3, dtype=np.uint8):
    file = ImageSequence(FORMATS["png"], (noise_image(0, dtype, channels, False, (20, 30), metadata),))
    return encode(file, FORMATS[kind])


def png_with(*chunks, channels=3):
    """A PNG with chunks: (kind, body)."""
    plain = written(Metadata(), "png", channels).data
    return plain[:33] + b"".join(png_chunk(*each) for each in chunks) + plain[33:]


def shown(data):
    """The file's pixels, converted to sRGB by its profile."""
    with PILImage.open(io.BytesIO(data)) as image:
        return to_srgb(image.info["icc_profile"], np.asarray(image))


@pytest.mark.parametrize("kind", WITH_PROFILES)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_colour_code_becomes_a_profile(kind, channels):
    result = written(Metadata(colour_code=P3), kind, channels)

    back = read(result.data).pages[0]
    assert back.metadata.icc_profile == profile_of(P3, back.grey)
    assert [each for each in result.changed if "grey" not in each] == []


@pytest.mark.parametrize("kind", WITH_PROFILES)
def test_hdr_in_a_profile_is_told(kind):
    result = written(Metadata(colour_code=PQ), kind)

    assert result.changed == ("BT.2020 PQ as a tone-mapped colour profile",)
    assert read(result.data).pages[0].metadata.icc_profile == profile_of(PQ, grey=False)


@pytest.mark.parametrize("kind", ["png", "avif"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("code", [P3, PQ, ColourCode(9, 18)])
def test_png_and_avif_hold_a_colour_code(kind, channels, code):
    result = written(Metadata(colour_code=code), kind, channels)

    assert read(result.data).pages[0].metadata.colour_code == code
    assert [each for each in result.changed if each != "grey to RGB"] == []


@pytest.mark.parametrize("kind", WITH_PROFILES)
def test_a_colour_code_without_a_profile_is_told(kind):
    result = written(Metadata(colour_code=ColourCode(9, 10)), kind)

    assert result.changed == ("without its colour space (BT.2020 transfer 10)",)


def test_a_colour_code_takes_precedence_over_a_profile():
    metadata = Metadata(icc_profile=PROFILE, colour_code=P3)

    png = read(written(metadata, "png").data).pages[0].metadata
    jpeg = read(written(metadata, "jpeg").data).pages[0].metadata
    avif = read(written(metadata, "avif").data).pages[0].metadata

    assert (png.icc_profile, png.colour_code) == (PROFILE, P3)
    assert jpeg.icc_profile == profile_of(P3, grey=False)
    assert (avif.icc_profile, avif.colour_code) == (None, P3)


def test_a_code_of_srgb_needs_no_profile():
    file = read(png_with((b"cICP", bytes((1, 13, 0, 1)))))

    assert file.pages[0].metadata.colour_code == ColourCode(1, 13)
    assert read(encode(file, FORMATS["jpeg"]).data).pages[0].metadata.icc_profile is None


# The chunks of a PNG

LINEAR = (b"gAMA", struct.pack(">I", 100_000))
P3_NUMBERS = struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)


@pytest.mark.parametrize("kind", WITH_PROFILES)
@pytest.mark.parametrize("channels", [1, 3])
def test_linear_light_becomes_a_profile(kind, channels):
    file = read(png_with(LINEAR, channels=channels))
    result = encode(file, FORMATS[kind], quality=100 if kind == "jpeg" else None)

    light = file.pages[0].samples.numpy() / 255
    srgb = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055) * 255
    bright = light.min(2) > 0.1
    difference = np.abs(shown(result.data) - srgb)[bright]
    assert difference.mean() < 4


@pytest.mark.parametrize("kind", [*WITH_PROFILES, "avif"])
def test_chromaticities_become_a_profile(kind):
    file = read(png_with((b"gAMA", struct.pack(">I", 45455)), (b"cHRM", P3_NUMBERS)))

    profile = read(encode(file, FORMATS[kind]).data).pages[0].metadata.icc_profile

    red = ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile.red_colorant[0]
    assert red == pytest.approx((0.51512, 0.24120, -0.00105), abs=2e-4)


@pytest.mark.parametrize(
    ("chunks", "invalid"),
    [
        ([(b"gAMA", struct.pack(">I", 45455))], ()),
        ([(b"sRGB", b"\0"), LINEAR, (b"cHRM", P3_NUMBERS)], ()),
        ([(b"gAMA", bytes(4))], ("gAMA",)),
        ([(b"gAMA", b"x"), (b"cHRM", b"x")], ("gAMA", "cHRM")),
    ],
    ids=["as in sRGB", "sRGB wins", "zero", "of the wrong size"],
)
def test_chunks_that_mean_srgb_or_nothing_add_no_profile(chunks, invalid):
    result = encode(read(png_with(*chunks)), FORMATS["tiff"])

    assert read(result.data).pages[0].metadata.icc_profile is None
    assert result.changed == tuple(f"without an invalid {kind} chunk" for kind in invalid)


def test_impossible_chromaticities_are_told():
    file = read(png_with((b"cHRM", struct.pack(">8I", *[30000] * 8))))

    assert encode(file, FORMATS["jpeg"]).changed == ("without an invalid cHRM chunk",)


def test_a_code_of_limited_range_stays_in_png_and_is_told_elsewhere():
    file = read(png_with((b"cICP", bytes((9, 16, 0, 0)))))

    assert b"cICP\x09\x10\0\0" in encode(file, FORMATS["png"]).data
    assert encode(file, FORMATS["jpeg"]).changed == ("without its colour space",)


def test_mastering_data_stay_in_png_and_are_told_elsewhere():
    file = read(png_with((b"cLLI", bytes(8))))

    assert b"cLLI" in encode(file, FORMATS["png"]).data
    assert encode(file, FORMATS["jpeg"]).changed == ("without HDR mastering data",)


# Profiles


@pytest.mark.parametrize("kind", ["webp", "avif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_greys_with_a_profile_become_srgb(kind, dtype):
    ramp = torch.arange(256).view(16, 16, 1)
    samples = (ramp * 257).to(torch.uint16) if dtype == np.uint16 else ramp.to(torch.uint8)
    file = ImageSequence(FORMATS["png"], (Image(samples, None, Metadata(icc_profile=GREY)),))

    result = encode(file, FORMATS[kind], 100 if kind == "avif" else None)
    back = read(result.data).pages[0]

    expected = to_srgb(GREY, ramp[..., 0].numpy())
    assert result.changed[-2:] == ("grey to RGB", "grey profile to sRGB")
    assert back.metadata.icc_profile is None
    assert np.abs(back.samples.numpy().astype(int) - expected)[1:].max() <= 3


@pytest.mark.parametrize("kind", ["jpeg", "png", "tiff"])
def test_a_grey_profile_stays_with_greys(kind):
    result = written(Metadata(icc_profile=GREY), kind, channels=1)

    assert read(result.data).pages[0].metadata.icc_profile == GREY
    assert result.changed == ()


def test_a_grey_png_has_the_curve_of_an_rgb_profile():
    jpeg = read(written(Metadata(icc_profile=PROFILE), "jpeg", channels=1).data)

    png = encode(jpeg, FORMATS["png"])

    assert profile_space(jpeg.pages[0].metadata.icc_profile) == b"RGB "
    assert profile_space(read(png.data).pages[0].metadata.icc_profile) == b"GRAY"
    assert png.changed == ()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize(
    ("profile", "told"),
    [
        (b"nonsense" * 20, "without an unreadable colour profile"),
        (PROFILE[:200], "without an unreadable colour profile"),
        (PROFILE[:128] + bytes(400), "without an unreadable colour profile"),
        (GREY, "without a colour profile for grey, which the image is not"),
    ],
    ids=["nonsense", "cut short", "no tags", "grey"],
)
def test_a_profile_that_does_not_fit_is_dropped_and_told(kind, profile, told, samples, file_of):
    back = read(file_of(samples(20, 30), kind, icc_profile=profile))

    assert back.changed == (told,)
    assert back.pages[0].metadata.icc_profile is None


def test_each_page_keeps_its_own_colours():
    pages = tuple(
        noise_image(seed, np.uint8, 3, False, metadata=metadata)
        for seed, metadata in enumerate((Metadata(), Metadata(colour_code=P3), Metadata(icc_profile=PROFILE)))
    )

    back = read(encode(ImageSequence(FORMATS["png"], pages), FORMATS["tiff"]).data)

    assert [page.metadata.icc_profile for page in back.pages] == [None, profile_of(P3, grey=False), PROFILE]


def test_text_chunks_are_no_colour(samples, file_of):
    texts = PngInfo()
    texts.add_text("Title", "A title")

    assert encode(read(file_of(samples(9, 9), pnginfo=texts)), FORMATS["jpeg"]).changed == ()
