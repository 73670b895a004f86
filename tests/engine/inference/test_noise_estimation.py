import io
import math
import time
from dataclasses import astuple
from functools import cache
from pathlib import Path

import pytest
import torch
from PIL import Image

from engine.data import text
from engine.data.dead_leaves import dead_leaves
from engine.imageio.read import decode, read_rgb
from engine.inference.noise_estimation.estimator import Component, NoiseEstimate, estimate_noise, pick, sentence

DATA = Path(__file__).parents[3].parent / "shared" / "data"
needs_kodak = pytest.mark.skipif(not (DATA / "kodak24").is_dir(), reason="Kodak24 is not in ../shared/data")
needs_polyu = pytest.mark.skipif(not (DATA / "polyu").is_dir(), reason="PolyU is not in ../shared/data")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@cache
def leaves(seed=0, side=320):
    return dead_leaves(side, side, generator(seed)).float() / 255


def ramp(height=256, width=256, channels=3, low=0.2, high=0.8):
    """Even but for its brightness, which rises from left to right."""
    return torch.linspace(low, high, width).view(1, -1, 1).expand(height, -1, channels)


def noise(image, seed=0, channels=None):
    return torch.randn(*image.shape[:2], channels or image.shape[2], generator=generator(seed))


def in_8_bits(image):
    return (image.clamp(0, 1) * 255).round() / 255


def blurred(noise, taps=(1, 2, 1)):
    """By these taps along both sides, scaled to keep the variance of white noise."""
    power = sum(tap**2 for tap in taps) ** 0.5
    for axis in (0, 1):
        noise = sum(tap / power * noise.roll(step, axis) for step, tap in enumerate(taps))
    return noise


def as_jpeg(image, quality):
    file = io.BytesIO()
    Image.fromarray((in_8_bits(image) * 255).to(torch.uint8).numpy()).save(file, "JPEG", quality=quality)
    return decode(file.getvalue()).pixels


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
    assert pick(estimate) == "white"


@pytest.mark.parametrize("sigma", [5, 25, 50])
def test_noise_that_8_bits_clipped_is_measured_as_it_was_before(sigma):
    clean = leaves(3)

    estimate = estimate_noise(in_8_bits(clean + sigma / 255 * noise(clean)))

    assert rms(estimate.sigma) == pytest.approx(sigma, rel=0.1)
    assert pick(estimate) == "white"


def test_noise_is_measured_where_a_tenth_of_it_is_clipped_everywhere():
    clean = torch.full((256, 256, 3), 1.28 * 30 / 255)

    estimate = estimate_noise(in_8_bits(clean + 30 / 255 * noise(clean)))

    assert estimate.sigma == pytest.approx([30] * 3, rel=0.04)


@pytest.mark.parametrize("low", [0.0, -0.3])
def test_noise_is_measured_in_the_dark_where_half_of_it_is_clipped(low):
    clean = ramp(low=low, high=0)

    estimate = estimate_noise(in_8_bits(clean + 30 / 255 * noise(clean)))

    assert estimate.sigma == pytest.approx([30] * 3, rel=0.1)


def test_each_channel_has_its_own_noise():
    clean = leaves()

    estimate = estimate_noise(clean + torch.tensor([6.0, 12.0, 24.0]) / 255 * noise(clean))

    assert estimate.sigma == pytest.approx((6, 12, 24), rel=0.1)
    assert estimate.luma.sigma**2 + estimate.chroma.sigma**2 == pytest.approx(rms(estimate.sigma) ** 2, rel=0.02)


def test_grey_in_one_channel_and_in_three_is_the_same_image():
    clean = leaves().mean(2, keepdim=True)
    noisy = clean + 20 / 255 * noise(clean)

    one, three = estimate_noise(noisy), estimate_noise(noisy.expand(-1, -1, 3))

    assert len(one.sigma) == 1
    assert three.sigma == one.sigma * 3
    assert astuple(three)[1:] == astuple(one)[1:]
    assert one.sigma == pytest.approx([20], rel=0.1)
    assert one.chroma is None
    assert pick(one) == "white"


def test_correlated_noise_is_measured_with_its_correlation():
    clean = ramp()
    # Products of the taps with themselves, 0 to 3 apart: 6, 4, 1 and 0 for luma; 70, 56, 28 and 8 for chroma.
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
def test_noise_of_a_camera_is_told_by_its_chroma_even_if_luma_is_white(seed, quality):
    clean = leaves(seed)
    luma, chroma = 10 * noise(clean, 1, channels=1), 5 * blurred(noise(clean, 2))
    noisy = clean + (luma + chroma - chroma.mean(2, keepdim=True)) / 255

    estimate = estimate_noise(noisy if quality is None else as_jpeg(noisy, quality))

    assert estimate.correlated
    assert pick(estimate) == "camera"


@pytest.mark.parametrize("seed", range(4))
def test_correlated_noise_of_grey_is_told_by_its_luma(seed):
    clean = leaves(seed).mean(2, keepdim=True)

    estimate = estimate_noise(in_8_bits(clean + 15 / 255 * blurred(noise(clean))))

    assert pick(estimate) == "camera"


@pytest.mark.parametrize("shot", [0.006, -0.004])
def test_the_law_of_noise_against_brightness_is_found(shot):
    clean = ramp(384, 384)
    base = 0.0005 if shot > 0 else 0.004
    variance = shot * clean + base

    estimate = estimate_noise(clean + variance.sqrt() * noise(clean))

    assert len(estimate.law) >= 6
    brightness = [level.brightness for level in estimate.law]
    assert brightness == sorted(brightness)
    truth = [255 * math.sqrt(shot * at / 255 + base) for at in brightness]
    assert [level.sigma for level in estimate.law] == pytest.approx(truth, rel=0.1)
    assert estimate.sigma == pytest.approx([255 * float(variance.mean().sqrt())] * 3, rel=0.05)


def test_texture_at_one_brightness_is_not_taken_for_noise_there():
    clean = ramp().clone()
    texture = 0.1 * blurred(noise(clean, 5, channels=1), (1, 4, 6, 4, 1))
    clean[:, 160:] += texture[:, 160:]

    estimate = estimate_noise(clean + 5 / 255 * noise(clean))

    assert estimate.sigma == pytest.approx([5] * 3, rel=0.1)
    assert max(level.brightness for level in estimate.law) < 160
    assert 0.3 < estimate.flat < 0.7


def chequered(shares, side=256):
    """A texture of single pixels: of so much of the noise of 5, in squares of 16 drawn evenly from these."""
    row, column = torch.arange(side).view(-1, 1, 1), torch.arange(side).view(-1, 1)
    drawn = torch.tensor(shares)[torch.randint(len(shares), (side // 16, side // 16), generator=generator())]
    strength = drawn.repeat_interleave(16, 0).repeat_interleave(16, 1).unsqueeze(2)
    return 5 / 255 * strength * (1 - 2 * ((row + column) % 2))


@pytest.mark.parametrize(("shares", "start"), [((4.0,), 192), ((0.0, 0.7), 128), ((0.0,) * 9 + (4.0,), 0)])
def test_fine_texture_is_not_taken_for_noise_if_even_or_uneven_at_one_brightness_or_rare(shares, start):
    clean = ramp().clone()
    clean[:, start:] += chequered(shares)[:, start:]

    estimate = estimate_noise(clean + 5 / 255 * noise(clean))

    assert estimate.sigma == pytest.approx([5] * 3, rel=0.1)


def test_a_fall_of_light_is_no_noise():
    assert max(estimate_noise(ramp(low=0.1, high=0.9)).sigma) < 0.1


def test_constant_bars_above_and_below_do_not_hide_the_noise():
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
def test_what_a_computer_drew_has_no_noise_and_is_left_to_the_network_that_leaves_it(paper, ink):
    estimate = estimate_noise(page(paper, ink))

    assert estimate.sigma == (0, 0, 0)
    assert pick(estimate) == "white"


@pytest.mark.parametrize("sigma", [2, 10])
def test_a_screens_noise_is_measured_once_it_has_some(sigma):
    screen = page(0.8, 0.1)

    estimate = estimate_noise(in_8_bits(screen + sigma / 255 * noise(screen)))

    assert rms(estimate.sigma) == pytest.approx(sigma, rel=0.1)


def test_a_noisy_photo_on_a_constant_page_is_measured():
    page = torch.full((400, 500, 3), 240 / 255)
    page[40:360, 60:380] = in_8_bits(leaves() + 10 / 255 * noise(leaves()))

    assert rms(estimate_noise(page).sigma) == pytest.approx(10, rel=0.1)


def test_a_large_image_is_looked_at_in_all_its_parts():
    clean = ramp(1600, 2400, channels=1)
    sigma = torch.where(torch.arange(2400) < 1200, 5.0, 15.0).view(1, -1, 1)

    estimate = estimate_noise(clean + sigma / 255 * noise(clean))

    # A bin at the border between them may count as either.
    assert estimate.sigma == pytest.approx([rms((5, 15))], rel=0.15)
    assert estimate.law[0].sigma == pytest.approx(5, rel=0.1)
    assert estimate.law[-1].sigma == pytest.approx(15, rel=0.1)


def test_a_larger_image_takes_no_longer():
    images = [torch.rand(side, side, 1, generator=generator()) for side in (1024, 4096)]

    def seconds(image):
        start = time.thread_time()
        estimate_noise(image)
        return time.thread_time() - start

    small, large = (min(seconds(image) for _ in range(3)) for image in images)
    assert large < 2.5 * small


def test_the_same_image_gives_the_same_estimate_and_is_not_changed():
    clean = leaves()
    noisy = clean + 15 / 255 * noise(clean)
    before = noisy.clone()

    first = estimate_noise(noisy)
    torch.manual_seed(1)

    assert estimate_noise(noisy) == first
    assert torch.equal(noisy, before)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 100), (7, 5), (15, 300)])
@pytest.mark.parametrize("channels", [1, 3])
def test_of_a_tiny_image_nothing_is_said(height, width, channels):
    estimate = estimate_noise(torch.rand(height, width, channels, generator=generator()))

    assert estimate == NoiseEstimate()
    assert pick(estimate) == "camera"


@pytest.mark.parametrize(("height", "width"), [(16, 16), (16, 1000), (33, 47), (64, 64)])
def test_a_small_image_is_measured_roughly(height, width):
    clean = ramp(height, width)

    estimate = estimate_noise(clean + 10 / 255 * noise(clean))

    assert rms(estimate.sigma) == pytest.approx(10, rel=0.15)
    assert pick(estimate) == "white"


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_of_a_constant_image_nothing_is_said(value):
    assert estimate_noise(torch.full((64, 64, 3), value)) == NoiseEstimate()


def test_an_image_that_is_mostly_saturated_is_judged_by_the_rest():
    clean = leaves()
    noisy = in_8_bits(clean + 10 / 255 * noise(clean))
    noisy[:, 60:] = 1.0

    estimate = estimate_noise(noisy)

    assert rms(estimate.sigma) == pytest.approx(10, rel=0.15)
    assert estimate.flat < 0.3


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_no_numbers_are_refused(value):
    image = torch.rand(32, 32, 3)
    image[5, 6, 1] = value

    with pytest.raises(ValueError, match="NaN or infinite"):
        estimate_noise(image)


@pytest.mark.parametrize("shape", [(32, 32), (32, 32, 2), (1, 32, 32, 3), (0, 5, 3)])
def test_what_is_no_image_is_refused_with_its_shape(shape):
    with pytest.raises(ValueError, match=r"an image is \(H, W, 1\) or \(H, W, 3\); got \("):
        estimate_noise(torch.zeros(shape))


@pytest.mark.parametrize("sigma", [0, 5, 25])
@pytest.mark.parametrize("quality", [30, 60, 85, 92])
def test_a_jpeg_file_is_known_by_its_steps_however_noisy_it_was_and_wherever_its_blocks_begin(sigma, quality):
    clean = leaves()
    image = as_jpeg(clean + sigma / 255 * noise(clean), quality)

    assert estimate_noise(image).jpeg_blocks
    assert estimate_noise(image[3:, 5:]).jpeg_blocks
    assert estimate_noise(image.mean(2, keepdim=True) if sigma == 0 else image.rot90()).jpeg_blocks


def squares(side):
    """A chessboard's."""
    row, column = torch.arange(256).view(-1, 1, 1) // side, torch.arange(256).view(-1, 1) // side
    return (0.8 * ((row + column) % 2)).expand(-1, -1, 3).contiguous()


@pytest.mark.parametrize(
    "image",
    [
        leaves(),
        in_8_bits(leaves() + 25 / 255 * noise(leaves())),
        in_8_bits(leaves()[:40, :40].repeat_interleave(8, 0).repeat_interleave(8, 1)),
        (leaves() * 4).round() / 4,
        as_jpeg(leaves(), 60).unflatten(0, (160, 2)).mean(1).unflatten(1, (160, 2)).mean(2),
        *map(squares, (1, 5, 8)),
    ],
    ids=["clean", "noisy", "enlarged", "of few values", "JPEG made smaller", "1", "5", "8"],
)
def test_what_is_no_jpeg_file_is_not_taken_for_one(image):
    assert not estimate_noise(image).jpeg_blocks


@needs_kodak
def test_jpeg_files_of_kodak_are_known_and_the_images_themselves_are_not_taken_for_any():
    for number in (1, 5, 8, 13, 20, 23):
        clean = read_rgb(DATA / "kodak24" / f"kodim{number:02}.png").float() / 255

        assert not estimate_noise(clean).jpeg_blocks
        assert all(estimate_noise(as_jpeg(clean, quality)).jpeg_blocks for quality in (40, 75, 85, 95))


ONE = Component(0.0, (0.0, 0.0, 0.0), 1.0)


@pytest.mark.parametrize(
    ("estimate", "words"),
    [
        (
            NoiseEstimate(),
            "Of its noise nothing can be told: it is too small, or all of it is constant, black or white.",
        ),
        (
            NoiseEstimate((9.0, 12.0, 15.0), ONE, correlated=False),
            "Noise of about 12.2 of 255, in fine grains of single pixels.",
        ),
        (
            NoiseEstimate((3.0,), ONE, correlated=True, jpeg_blocks=True),
            "Noise of about 3.0 of 255, in soft grains of several pixels; compressed as JPEG.",
        ),
        (NoiseEstimate((0.4,), ONE, correlated=True), "Hardly any noise, about 0.4 of 255."),
        (NoiseEstimate((0.0, 0.0, 0.0), ONE, correlated=False), "No noise: a computer drew this, it seems."),
    ],
)
def test_an_estimate_is_told_in_a_sentence(estimate, words):
    assert sentence(estimate) == words


@pytest.mark.parametrize(
    ("sigma", "shared", "kind"),
    [(2.4, 0.35, "white"), (2.6, 0.35, "camera"), (2.4, 0.45, "camera"), (0.4, 0.7, "camera")],
)
def test_what_may_be_a_clean_images_texture_is_left_to_the_network_that_leaves_it(sigma, shared, kind):
    luma = Component(sigma, (shared, 0.0, 0.0), 0.5)

    assert pick(NoiseEstimate((sigma,) * 3, luma, ONE, correlated=True)) == kind


@needs_kodak
def test_most_of_kodaks_clean_images_are_taken_for_clean():
    estimates = [estimate_noise(read_rgb(file)) for file in sorted((DATA / "kodak24").glob("*.png"))]

    assert [pick(estimate) for estimate in estimates].count("white") >= 16


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
        assert pick(estimate) == "white"

    assert ratios == pytest.approx([1] * 6, rel=0.1)


@needs_polyu
def test_noise_of_real_cameras_is_recognised():
    for file in sorted((DATA / "polyu").glob("*_real.JPG"))[::20]:
        estimate = estimate_noise(read_rgb(file).float() / 255)

        assert pick(estimate) == "camera"
        assert estimate.chroma.correlation[0] > 0.6
        assert estimate.luma.correlation[0] > 0.3
        assert 0.2 < estimate.luma.sigma < 8
