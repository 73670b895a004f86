import pytest
import torch

from engine.evaluation.metrics import FIGURES, MeasuredImage, psnr, ssim
from tests.support.pixels import generator


def test_psnr_of_an_error_of_a_tenth_everywhere_is_20_db():
    clean = torch.rand(8, 8, 3, generator=generator()) * 0.9

    assert psnr(clean + 0.1, clean) == pytest.approx(20, abs=1e-4)


def test_psnr_of_equal_images_is_a_number_and_not_infinity():
    clean = torch.rand(8, 8, 3)

    assert psnr(clean, clean) == 100


def test_images_of_two_shapes_are_not_compared():
    with pytest.raises(ValueError, match=r"the same shape.*\(1, 8, 8, 3\) and \(1, 8, 9, 3\)"):
        psnr(torch.zeros(8, 8, 3), torch.zeros(8, 9, 3))


def test_ssim_of_equal_images_is_one():
    clean = torch.rand(16, 16, 3, generator=generator())

    assert ssim(clean, clean) == pytest.approx(1)


def test_ssim_of_plain_images_compares_their_brightness():
    dark, bright = torch.full((12, 12, 3), 0.2), torch.full((12, 12, 3), 0.6)

    assert ssim(dark, bright) == pytest.approx((2 * 0.12 + 1e-4) / (0.04 + 0.36 + 1e-4), abs=1e-6)


def test_ssim_agrees_with_its_definition_window_by_window():
    a = torch.rand(13, 14, 3, generator=generator(1)).double()
    b = (a + 0.2 * torch.randn(a.shape, generator=generator(2))).double()
    position = torch.arange(11).double() - 5
    weight = torch.exp(-(position[:, None] ** 2 + position**2) / 4.5)[..., None]
    weight = weight / weight.sum()
    scores = []
    for y in range(3):
        for x in range(4):
            p, q = a[y : y + 11, x : x + 11], b[y : y + 11, x : x + 11]
            mp, mq = (weight * p).sum((0, 1)), (weight * q).sum((0, 1))
            vp, vq = (weight * (p - mp) ** 2).sum((0, 1)), (weight * (q - mq) ** 2).sum((0, 1))
            cov = (weight * (p - mp) * (q - mq)).sum((0, 1))
            scores.append((2 * mp * mq + 1e-4) * (2 * cov + 9e-4) / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4)))

    assert ssim(a, b) == pytest.approx(float(torch.stack(scores).mean()), abs=1e-9)


def test_ssim_refuses_an_image_smaller_than_its_window():
    with pytest.raises(ValueError, match="at least 11 x 11 pixels; got 20 x 10"):
        ssim(torch.zeros(10, 20, 3), torch.zeros(10, 20, 3))


# Measured images


def measured(noisy, output, truth, low=0.0, span=1.0):
    return MeasuredImage(noisy.double(), output.double(), truth.double(), low, span)


RAMP = torch.linspace(100, 300, 4000).view(40, 100)


def test_errors_are_in_parts_of_the_span():
    image = measured(RAMP, RAMP + 3, RAMP, 100, 200)

    assert FIGURES["rmse"](image) == pytest.approx(0.015)
    assert FIGURES["bias"](image) == pytest.approx(0.015)


def test_bias_is_that_of_the_worst_range_of_brightness():
    output = torch.where(RAMP >= 290, RAMP - 4, RAMP + torch.where(torch.arange(100) % 2 == 0, 1.0, -1.0))

    assert FIGURES["bias"](measured(RAMP, output, RAMP, 100, 200)) == pytest.approx(0.02, rel=0.05)


def test_ranges_of_few_pixels_do_not_count_for_the_bias():
    truth = torch.zeros(50, 50)
    truth[0, :20] = 1

    assert FIGURES["bias"](measured(truth, truth * 0.5, truth)) == 0


def test_bias_of_an_even_image_is_its_mean_error():
    truth = torch.full((20, 20), 7.0)

    assert FIGURES["bias"](measured(truth, truth + 1, truth, 0, 10)) == pytest.approx(0.1)


def test_totals_are_of_the_light_above_none():
    image = measured(RAMP, 100 + 1.1 * (RAMP - 100), RAMP, 100, 200)

    assert FIGURES["total"](image) == pytest.approx(1.1)
    assert FIGURES["flux"](image) == pytest.approx(1.1)


def test_flux_and_ground_are_of_bright_and_of_dark_pixels():
    truth = torch.full((40, 40), 800.0)
    truth[:2] = 30_000
    noise = 5 * torch.randn(truth.shape, generator=generator())
    image = measured(truth, torch.where(truth > 800, truth * 0.9 + 80, truth + noise), truth, 800, 65535)

    assert FIGURES["flux"](image) == pytest.approx(0.9, abs=1e-3)
    assert FIGURES["ground"](image) == pytest.approx(5, rel=0.1)


def test_changed_is_a_share_of_pixels_and_not_of_channels():
    noisy = torch.zeros(4, 5, 3)
    output = noisy.clone()
    output[0, 0] = 1
    output[1, 1, 2] = 1

    assert FIGURES["changed"](measured(noisy, output, noisy)) == pytest.approx(2 / 20)


def test_the_fitted_gain_ignores_gain_and_offset_of_the_truth():
    noisy = RAMP + 10 * torch.randn(RAMP.shape, generator=generator())
    output = RAMP + 1 * torch.randn(RAMP.shape, generator=generator(1))

    assert FIGURES["fitted_gain"](measured(noisy, output, 0.3 * RAMP - 20)) == pytest.approx(20, abs=0.6)
