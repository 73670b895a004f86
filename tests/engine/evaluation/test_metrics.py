import pytest
import torch

from engine.evaluation.metrics import psnr, ssim
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
