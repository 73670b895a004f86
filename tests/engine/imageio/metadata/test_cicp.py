"""Colour spaces by number."""

import io

import numpy as np
import pytest
from PIL import ImageCms

from engine.imageio.metadata.cicp import ColourCode, calibrated_profile, is_srgb_calibration, profile_of
from tests.engine.imageio.metadata.test_icc import to_srgb

P3 = ColourCode(12, 13)
PQ = ColourCode(9, 16)
HLG = ColourCode(9, 18)


def test_display_p3_has_its_colours():
    profile = ImageCms.ImageCmsProfile(io.BytesIO(profile_of(P3, grey=False))).profile

    # Source: the profile that Apple ships.
    assert profile.red_colorant[0] == pytest.approx((0.51512, 0.24120, -0.00105), abs=2e-4)
    assert profile.green_colorant[0] == pytest.approx((0.29198, 0.69225, 0.04189), abs=2e-4)
    assert profile.blue_colorant[0] == pytest.approx((0.15710, 0.06657, 0.78407), abs=2e-4)
    assert profile.profile_description == "Display P3 sRGB"


@pytest.mark.parametrize("primaries", [1, 4, 5, 6, 7, 8, 9, 11, 12, 22])
@pytest.mark.parametrize("transfer", [1, 4, 5, 6, 7, 8, 13, 14, 15, 16, 17, 18])
def test_every_known_pair_has_a_profile_of_neutral_greys(primaries, transfer):
    ramp = np.arange(256)
    for grey in (False, True):
        profile = profile_of(ColourCode(primaries, transfer), grey)
        converted = to_srgb(profile, ramp[None] if grey else ramp[None, :, None].repeat(3, 2)).astype(int)[0]

        assert np.ptp(converted, axis=1).max() <= 3
        assert (np.diff(converted[:, 1]) >= 0).all()
        assert converted[0].max() <= 1
        assert converted[-1].min() >= 253


@pytest.mark.parametrize("code", [ColourCode(3, 13), ColourCode(1, 9), ColourCode(200, 200)])
def test_unknown_numbers_have_no_profile(code):
    assert profile_of(code, grey=False) is None
    assert str(code.primaries) in code.name or "BT.709" in code.name


@pytest.mark.parametrize(("code", "white"), [(PQ, 0.5807), (HLG, 0.75)])
def test_hdr_is_mapped_to_tones_and_keeps_its_numbers(code, white):
    profile = profile_of(code, grey=False)

    value = round(255 * white)
    shown = to_srgb(profile, np.full((1, 1, 3), value))

    assert b"cicp" + bytes(4) + bytes((code.primaries, code.transfer, 0, 1)) in profile
    # Diffuse white is half of the light, which is 188 in sRGB.
    assert np.abs(shown.astype(int) - 188).max() <= 6


def test_numbers_that_mean_srgb_are_known():
    assert all(ColourCode(*each).is_srgb for each in ((1, 13), (2, 2), (1, 2), (2, 13)))
    assert not any(ColourCode(*each).is_srgb for each in ((12, 13), (1, 8), (9, 2)))
    assert is_srgb_calibration(None, 1 / 0.45455)
    assert not is_srgb_calibration(None, 1.0)
    assert not is_srgb_calibration(((0.68, 0.32), (0.265, 0.69), (0.15, 0.06), (0.3127, 0.329)), None)


def test_a_calibration_without_primaries_has_those_of_srgb():
    shown = to_srgb(calibrated_profile(None, 1.0, grey=False), np.array([[[55, 0, 0]]]))

    assert np.abs(shown.astype(int) - (128, 0, 0)).max() <= 1
