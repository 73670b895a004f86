"""The shipped weights, tested on the example images."""

import math
from pathlib import Path

import pytest
import torch

from engine.evaluation.metrics import psnr
from engine.imageio.read import decode, read_rgb
from engine.inference import model_selection
from engine.inference.denoise import denoise_image
from engine.models import checkpoint

EXAMPLES = Path(__file__).parents[2] / "weights" / "examples"


def shipped(name, compute=torch.float32):
    return checkpoint.load(checkpoint.weights_folder() / f"{name}.safetensors", compute=compute).net


@pytest.fixture(scope="module")
def clean():
    return read_rgb(EXAMPLES / "city.jpg").float() / 255


@pytest.fixture(scope="module")
def noisy():
    return decode((EXAMPLES / "noisy.png").read_bytes()).pixels


PHOTO = ["photo", "photo-gaussian", "photo-gaussian-large", "photo-small"]


@pytest.mark.parametrize("name", PHOTO)
def test_photo_weights_remove_most_of_the_examples_noise(name, clean, noisy):
    denoised = denoise_image(shipped(name), noisy)

    assert psnr(noisy, clean) < 21
    assert psnr(denoised, clean) > 27.5


@pytest.mark.parametrize("name", PHOTO)
def test_photo_weights_hardly_change_a_clean_image(name, clean):
    # `photo` smears the finest detail; `auto` sends most clean images to `photo-gaussian`.
    least = 41 if name == "photo" else 44
    assert psnr(denoise_image(shipped(name), clean), clean) > least


def rings(side=192):
    """Rings that get finer outwards, down to a period of two pixels at the middle of each border."""
    place = (torch.arange(side) + 0.5) / side - 0.5
    square = place.view(-1, 1).square() + place.square()
    return (0.5 + 0.4 * (2 * math.pi * side * 0.5 * square).sin()).unsqueeze(2).expand(-1, -1, 3)


@pytest.mark.parametrize("name", [*PHOTO, "photo-grey"])
def test_photo_weights_keep_fine_stripes(name):
    assert psnr(denoise_image(shipped(name), rings().contiguous()), rings()) > 25


def test_auto_finds_the_examples_noise_and_takes_photo_gaussian(noisy):
    name, estimate = model_selection.select_model(noisy)

    assert name == "photo-gaussian"
    # Not exactly 25: the image is dark, and its noise is clipped at black.
    assert all(22 < sigma < 28 for sigma in estimate.sigma)


def test_photo_grey_is_the_best_of_its_size_on_grey_images(clean):
    one = clean.mean(2, keepdim=True)
    noise = 25 / 255 * torch.randn(one.shape, generator=torch.Generator().manual_seed(0))
    grey, noisy = (each.expand(-1, -1, 3).contiguous() for each in (one, one + noise))

    reached = {
        name: psnr(denoise_image(shipped(name), noisy), grey) for name in model_selection.models_of("auto")
    }

    assert model_selection.select_model(noisy)[0] == max(reached, key=reached.__getitem__) == "photo-grey"
    assert psnr(denoise_image(shipped("photo-grey"), grey), grey) > 44


def test_photo_removes_noise_that_neighbouring_pixels_share(clean):
    rng = torch.Generator().manual_seed(0)
    noise = torch.randn(clean.shape, generator=rng)
    for axis in (0, 1):
        noise = (noise + noise.roll(1, axis)) / 2**0.5
    noisy = clean + 6 / 255 * noise

    gains = {name: psnr(denoise_image(shipped(name), noisy), clean) - psnr(noisy, clean) for name in PHOTO}

    for choice, specialists in model_selection.AUTO_MODELS.items():
        assert model_selection.select_model(noisy, choice)[0] == specialists["camera"]
        assert gains[specialists["camera"]] > gains[specialists["white"]] + 1


@pytest.mark.parametrize("name", PHOTO)
def test_bfloat16_equals_float32_to_50_db(name, clean, noisy):
    one, other = (denoise_image(shipped(name, compute), noisy) for compute in (torch.float32, torch.bfloat16))

    assert psnr(one, other) > 50
    assert psnr(one, clean) == pytest.approx(psnr(other, clean), abs=0.02)


def test_paper_removes_random_pixel_noise_and_pixels_more_of_it(clean):
    # Each pixel of the noisy image is one of the 64 pixels whose mean is the clean pixel.
    pick = torch.randint(8, (2, 40, 40), generator=torch.Generator().manual_seed(0))
    corner = 8 * torch.arange(40)
    noisy = clean[corner.view(-1, 1) + pick[0], corner + pick[1]]
    mean = clean.view(40, 8, 40, 8, 3).mean((1, 3))

    paper, pixels = (denoise_image(shipped(name), noisy) for name in ("paper", "pixels"))

    assert psnr(paper, mean) > psnr(noisy, mean) + 2
    assert psnr(pixels, mean) > psnr(paper, mean) + 0.3
