"""ICC profiles that are made here."""

import io

import pytest
from PIL import ImageCms

from engine.imageio.metadata.icc import prophoto_profile


def test_prophoto_has_its_primaries_and_its_curve():
    profile = ImageCms.ImageCmsProfile(io.BytesIO(prophoto_profile())).profile

    assert profile.profile_description == "ProPhoto RGB"
    assert (profile.xcolor_space.strip(), profile.connection_space.strip()) == ("RGB", "XYZ")
    assert profile.red_colorant[0] == pytest.approx((0.79767, 0.28804, 0.0), abs=1e-4)
    assert profile.green_colorant[0] == pytest.approx((0.13519, 0.71187, 0.0), abs=1e-4)
    assert profile.blue_colorant[0] == pytest.approx((0.03135, 0.00009, 0.82521), abs=1e-4)
    assert len(prophoto_profile()) == int.from_bytes(prophoto_profile()[:4], "big") < 1000
