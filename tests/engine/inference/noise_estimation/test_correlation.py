import math

import pytest

from engine.inference.noise_estimation import estimate_noise, noise_kind
from tests.support.noise import as_jpeg, blurred, in_8_bits, leaves, noise, ramp


def test_correlated_noise_is_measured_with_its_correlation():
    clean = ramp()
    # The taps' autocorrelation at 0 to 3 pixels: 6, 4, 1 and 0 for luma; 70, 56, 28 and 8 for chroma.
    luma = 8 * blurred(noise(clean, 1, channels=1))
    chroma = 6 * blurred(noise(clean, 2), (1, 4, 6, 4, 1))
    chroma = chroma - chroma.mean(2, keepdim=True)

    estimate = estimate_noise(clean + (luma + chroma) / 255)

    assert estimate.luma.sigma == pytest.approx(8, rel=0.1)
    assert estimate.luma.correlation == pytest.approx((4 / 6, 1 / 6, 0), abs=0.1)
    assert estimate.chroma.sigma == pytest.approx(6 * (2 / 3) ** 0.5, rel=0.1)
    assert estimate.chroma.correlation == pytest.approx((56 / 70, 28 / 70, 8 / 70), abs=0.1)
    assert estimate.sigma == pytest.approx([math.sqrt(8**2 + 6**2 * 2 / 3)] * 3, rel=0.1)
    assert estimate.correlated


def test_white_noise_has_no_correlation():
    clean = ramp()

    estimate = estimate_noise(clean + 10 / 255 * noise(clean))

    assert estimate.luma.correlation == pytest.approx((0, 0, 0), abs=0.06)
    assert estimate.chroma.correlation == pytest.approx((0, 0, 0), abs=0.06)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("quality", [None, 95, 75])
def test_a_cameras_noise_is_recognised_by_its_chroma(seed, quality):
    clean = leaves(seed)
    luma, chroma = 10 * noise(clean, 1, channels=1), 5 * blurred(noise(clean, 2))
    noisy = clean + (luma + chroma - chroma.mean(2, keepdim=True)) / 255

    estimate = estimate_noise(noisy if quality is None else as_jpeg(noisy, quality))

    assert estimate.correlated
    assert noise_kind(estimate) == "camera"


@pytest.mark.parametrize("seed", range(4))
def test_correlated_noise_of_grey_is_recognised_by_its_luma(seed):
    clean = leaves(seed).mean(2, keepdim=True)

    estimate = estimate_noise(in_8_bits(clean + 15 / 255 * blurred(noise(clean))))

    assert noise_kind(estimate) == "camera"
