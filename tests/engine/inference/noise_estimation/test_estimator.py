import math
import time
from dataclasses import astuple

import pytest
import torch

from engine.data import text
from engine.imageio.read import read_rgb
from engine.inference.noise_estimation import NoiseEstimate, estimate_noise, noise_kind, sentence
from tests.support.noise import DATA, in_8_bits, leaves, needs_kodak, needs_polyu, noise, ramp
from tests.support.pixels import generator


def rms(values):
    return math.sqrt(sum(value**2 for value in values) / len(values))


@pytest.mark.parametrize("sigma", [5, 15, 25, 50])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_white_noise_is_measured_to_a_tenth(sigma, seed):
    clean = leaves(seed)

    estimate = estimate_noise(clean + sigma / 255 * noise(clean))

    assert rms(estimate.sigma) == pytest.approx(sigma, rel=0.1)
    assert estimate.sigma == pytest.approx([sigma] * 3, rel=0.15)
    assert estimate.chroma.sigma == pytest.approx(sigma * (2 / 3) ** 0.5, rel=0.1)
    assert not estimate.correlated
    assert noise_kind(estimate) == "white"


@pytest.mark.parametrize("sigma", [5, 25, 50])
def test_clipped_noise_is_measured_as_it_was_before_clipping(sigma):
    clean = leaves(3)

    estimate = estimate_noise(in_8_bits(clean + sigma / 255 * noise(clean)))

    assert rms(estimate.sigma) == pytest.approx(sigma, rel=0.1)
    assert noise_kind(estimate) == "white"


def test_noise_is_measured_where_a_tenth_of_it_is_clipped():
    clean = torch.full((256, 256, 3), 1.28 * 30 / 255)

    estimate = estimate_noise(in_8_bits(clean + 30 / 255 * noise(clean)))

    assert estimate.sigma == pytest.approx([30] * 3, rel=0.04)


@pytest.mark.parametrize("low", [0.0, -0.3])
def test_noise_is_measured_where_half_of_it_is_clipped(low):
    clean = ramp(low=low, high=0)

    estimate = estimate_noise(in_8_bits(clean + 30 / 255 * noise(clean)))

    assert estimate.sigma == pytest.approx([30] * 3, rel=0.1)


def test_each_channel_has_its_own_noise():
    clean = leaves()

    estimate = estimate_noise(clean + torch.tensor([6.0, 12.0, 24.0]) / 255 * noise(clean))

    assert estimate.sigma == pytest.approx((6, 12, 24), rel=0.1)
    assert estimate.luma.sigma**2 + estimate.chroma.sigma**2 == pytest.approx(rms(estimate.sigma) ** 2, rel=0.02)


def test_grey_is_the_same_in_one_channel_and_in_three():
    clean = leaves().mean(2, keepdim=True)
    noisy = clean + 20 / 255 * noise(clean)

    one, three = estimate_noise(noisy), estimate_noise(noisy.expand(-1, -1, 3))

    assert len(one.sigma) == 1
    assert three.sigma == one.sigma * 3
    assert astuple(three)[1:] == astuple(one)[1:]
    assert one.sigma == pytest.approx([20], rel=0.1)
    assert one.chroma is None
    assert noise_kind(one) == "white"


def test_a_fall_of_light_is_not_noise():
    assert max(estimate_noise(ramp(low=0.1, high=0.9)).sigma) < 0.1


def test_constant_bars_do_not_hide_the_noise():
    clean = leaves()
    noisy = in_8_bits(clean + 15 / 255 * noise(clean))
    noisy[:80] = noisy[240:] = 0.0627

    assert rms(estimate_noise(noisy).sigma) == pytest.approx(15, rel=0.1)


def page(paper, ink):
    """A screen with text, two buttons and no noise."""
    lines = [text.TextLine(60 + 18 * n, 13, f"Line {n} of some words, and a number: {n * n}") for n in range(10)]
    screen = paper + (ink - paper) * text.render(lines, 256, 320).unsqueeze(2).expand(-1, -1, 3)
    screen[10:40, 20:120], screen[10:40, 140:240] = torch.tensor([0.3, 0.5, 0.7]), torch.tensor([0.5, 0.5, 0.4])
    return in_8_bits(screen)


@pytest.mark.parametrize(("paper", "ink"), [(0.94, 0.1), (0.8, 0.3), (0.1, 0.8)])
def test_a_computer_drawing_has_no_noise(paper, ink):
    estimate = estimate_noise(page(paper, ink))

    assert estimate.sigma == (0, 0, 0)
    assert noise_kind(estimate) == "white"


@pytest.mark.parametrize("sigma", [2, 10])
def test_noise_on_a_drawing_is_measured(sigma):
    screen = page(0.8, 0.1)

    estimate = estimate_noise(in_8_bits(screen + sigma / 255 * noise(screen)))

    assert rms(estimate.sigma) == pytest.approx(sigma, rel=0.1)


def test_a_noisy_photo_on_a_constant_page_is_measured():
    page = torch.full((400, 500, 3), 240 / 255)
    page[40:360, 60:380] = in_8_bits(leaves() + 10 / 255 * noise(leaves()))

    assert rms(estimate_noise(page).sigma) == pytest.approx(10, rel=0.1)


def test_all_parts_of_a_large_image_are_looked_at():
    clean = ramp(1600, 2400, channels=1)
    sigma = torch.where(torch.arange(2400) < 1200, 5.0, 15.0).view(1, -1, 1)

    estimate = estimate_noise(clean + sigma / 255 * noise(clean))

    # A bin at the border between both levels may count as either.
    assert estimate.sigma == pytest.approx([rms((5, 15))], rel=0.15)
    assert estimate.noise_level_function[0].sigma == pytest.approx(5, rel=0.1)
    assert estimate.noise_level_function[-1].sigma == pytest.approx(15, rel=0.1)


def test_a_larger_image_takes_no_longer():
    images = [torch.rand(side, side, 1, generator=generator()) for side in (1024, 4096)]

    def seconds(image):
        start = time.thread_time()
        estimate_noise(image)
        return time.thread_time() - start

    small, large = (min(seconds(image) for _ in range(3)) for image in images)
    assert large < 2.5 * small


def test_the_estimate_is_reproducible_and_the_image_not_changed():
    clean = leaves()
    noisy = clean + 15 / 255 * noise(clean)
    before = noisy.clone()

    first = estimate_noise(noisy)
    torch.manual_seed(1)

    assert estimate_noise(noisy) == first
    assert torch.equal(noisy, before)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 100), (7, 5), (15, 300)])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_tiny_image_cannot_be_measured(height, width, channels):
    estimate = estimate_noise(torch.rand(height, width, channels, generator=generator()))

    assert estimate == NoiseEstimate()
    assert noise_kind(estimate) == "camera"


@pytest.mark.parametrize(("height", "width"), [(16, 16), (16, 1000), (33, 47), (64, 64)])
def test_a_small_image_is_measured_roughly(height, width):
    clean = ramp(height, width)

    estimate = estimate_noise(clean + 10 / 255 * noise(clean))

    assert rms(estimate.sigma) == pytest.approx(10, rel=0.15)
    assert noise_kind(estimate) == "white"


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_constant_image_has_no_noise(value):
    estimate = estimate_noise(torch.full((64, 64, 3), value))

    assert estimate.sigma == (0, 0, 0)
    assert estimate.drawn == "palette"


def test_a_mostly_saturated_image_is_measured_in_the_rest():
    clean = leaves()
    noisy = in_8_bits(clean + 10 / 255 * noise(clean))
    noisy[:, 60:] = 1.0

    estimate = estimate_noise(noisy)

    assert rms(estimate.sigma) == pytest.approx(10, rel=0.15)
    assert estimate.flat < 0.3


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_and_infinite_values_are_refused(value):
    image = torch.rand(32, 32, 3)
    image[5, 6, 1] = value

    with pytest.raises(ValueError, match="NaN or infinite"):
        estimate_noise(image)


@pytest.mark.parametrize("shape", [(32, 32), (32, 32, 2), (1, 32, 32, 3), (0, 5, 3)])
def test_a_tensor_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"an image is \(H, W, 1\) or \(H, W, 3\); got \("):
        estimate_noise(torch.zeros(shape))


@needs_kodak
@pytest.mark.parametrize("sigma", [5, 15, 50])
@pytest.mark.parametrize("clipped", [False, True])
def test_noise_on_kodak_is_measured_to_a_tenth(sigma, clipped):
    ratios = []
    for number in (1, 5, 8, 13, 20, 23):
        clean = read_rgb(DATA / "kodak24" / f"kodim{number:02}.png").float() / 255
        noisy = clean + sigma / 255 * noise(clean, number)
        estimate = estimate_noise(in_8_bits(noisy) if clipped else noisy)
        ratios.append(rms(estimate.sigma) / sigma)
        assert noise_kind(estimate) == "white"

    assert ratios == pytest.approx([1] * 6, rel=0.1)


@needs_polyu
def test_noise_of_real_cameras_is_recognised():
    for file in sorted((DATA / "polyu").glob("*_real.JPG"))[::20]:
        estimate = estimate_noise(read_rgb(file).float() / 255)

        assert noise_kind(estimate) == "camera"
        assert estimate.chroma.correlation[0] > 0.6
        assert estimate.luma.correlation[0] > 0.3
        assert 0.2 < estimate.luma.sigma < 8


def test_integer_and_float_samples_have_equal_estimates():
    clean = leaves()
    samples = (255 * in_8_bits(clean + 20 / 255 * noise(clean))).round().to(torch.uint8)

    assert estimate_noise(samples) == estimate_noise(samples.float() / 255)
    grey = samples[..., :1]
    assert len(estimate_noise(grey).sigma) == len(estimate_noise(grey.float() / 255).sigma)


@pytest.mark.parametrize("scale", [1e-4, 1e-6, 1e-9, 1e6])
def test_noise_is_measured_in_any_unit(scale):
    clean = leaves()

    estimate = estimate_noise(scale * (clean + 20 / 255 * noise(clean)))

    assert rms(estimate.sigma) == pytest.approx(20 * scale, rel=0.1)
    assert noise_kind(estimate) == "white"
    assert sentence(estimate).endswith("in fine grains of single pixels.")
