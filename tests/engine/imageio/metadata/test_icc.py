"""ICC profiles that are made here, as Little CMS reads them."""

import io
import struct

import numpy as np
import pytest
from PIL import Image as PILImage
from PIL import ImageCms

from engine.imageio.metadata.icc import (
    gamma_curve,
    grey_light,
    grey_profile,
    grey_version,
    parametric_curve,
    profile_space,
    prophoto_profile,
    rgb_profile,
    table_curve,
)

SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06), (0.3127, 0.3290))
SRGB_CURVE = parametric_curve(3, (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045))


def opened(profile):
    return ImageCms.ImageCmsProfile(io.BytesIO(profile))


def to_srgb(profile, values, mode="RGB"):
    """Values (H, W, 3) or (H, W), as Little CMS converts them to sRGB."""
    image = PILImage.fromarray(np.asarray(values, np.uint8))
    return np.asarray(ImageCms.profileToProfile(image, opened(profile), ImageCms.createProfile("sRGB"), 1, "RGB"))


def test_prophoto_has_its_primaries_and_its_curve():
    profile = opened(prophoto_profile()).profile

    assert profile.profile_description == "ProPhoto RGB"
    assert (profile.xcolor_space.strip(), profile.connection_space.strip()) == ("RGB", "XYZ")
    assert profile.red_colorant[0] == pytest.approx((0.79767, 0.28804, 0.0), abs=1e-4)
    assert profile.green_colorant[0] == pytest.approx((0.13519, 0.71187, 0.0), abs=1e-4)
    assert profile.blue_colorant[0] == pytest.approx((0.03135, 0.00009, 0.82521), abs=1e-4)
    assert len(prophoto_profile()) == int.from_bytes(prophoto_profile()[:4], "big") < 1000


def test_a_profile_with_the_numbers_of_srgb_changes_nothing():
    values = np.arange(256 * 3).reshape(16, 16, 3) % 256

    converted = to_srgb(rgb_profile("sRGB again", SRGB, SRGB_CURVE), values)

    assert np.abs(converted.astype(int) - values).max() <= 1


def test_linear_light_is_brightened_for_srgb():
    grey = to_srgb(rgb_profile("Linear", SRGB, gamma_curve(1)), np.full((1, 1, 3), 55))

    # 55 / 255 of the light, by the formula of sRGB.
    assert np.abs(grey.astype(int) - 128).max() <= 1


def test_primaries_on_one_line_are_refused():
    with pytest.raises(ValueError, match="line"):
        rgb_profile("None", ((0.1, 0.1), (0.2, 0.2), (0.3, 0.3), (0.3, 0.3)), gamma_curve(2))
    with pytest.raises(ValueError, match="no y"):
        rgb_profile("None", ((0.1, 0.0), (0.2, 0.2), (0.3, 0.4), (0.3, 0.3)), gamma_curve(2))


CURVES = {
    "gamma": gamma_curve(2.2),
    "linear": b"curv" + bytes(8),
    "gamma, version 2": b"curv" + bytes(4) + struct.pack(">IH", 1, 461),
    "table": table_curve(np.linspace(0, 1, 700) ** 1.5),
    "type 1": parametric_curve(1, (2.0, 1.2, -0.2)),
    "type 2": parametric_curve(2, (2.0, 0.9, 0.0, 0.19)),
    "type 3": SRGB_CURVE,
    "type 4": parametric_curve(4, (2.0, 0.9, 0.05, 0.2, 0.1, 0.0975, 0.0971)),
}


@pytest.mark.parametrize("name", CURVES)
def test_light_of_grey_agrees_with_little_cms(name):
    profile = grey_profile("Grey", CURVES[name])
    values = np.arange(256)

    light = grey_light(profile, values / 255)
    srgb = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)

    # Little CMS interpolates in steep curves: the darkest tones are not exact.
    assert np.abs(to_srgb(profile, values[None]) - srgb[None, :, None] * 255)[:, 10:].max() <= 1.5


@pytest.mark.parametrize(
    "profile",
    [
        b"",
        b"nonsense" * 20,
        grey_profile("Grey", b"curv" + bytes(4) + b"\0\0\xff\xff\0"),
        rgb_profile("x", SRGB, SRGB_CURVE),
    ],
    ids=["empty", "nonsense", "table cut short", "no grey"],
)
def test_a_profile_without_a_grey_curve_gives_no_light(profile):
    assert grey_light(profile, np.linspace(0, 1, 4)) is None


def test_a_matrix_profile_becomes_one_for_grey():
    grey = grey_version(rgb_profile("Linear", SRGB, gamma_curve(1)))

    assert profile_space(grey) == b"GRAY"
    np.testing.assert_allclose(grey_light(grey, np.linspace(0, 1, 5)), np.linspace(0, 1, 5), atol=1e-4)
    assert grey_version(b"nonsense" * 20) is None
