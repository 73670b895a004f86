"""The weights and images in the repository: what a user gets who changes nothing."""

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
def test_the_weights_for_photos_take_most_of_the_noise_out_of_the_example(name, clean, noisy):
    denoised = denoise_image(shipped(name), noisy)

    assert psnr(noisy, clean) < 21
    assert psnr(denoised, clean) > 27.5


@pytest.mark.parametrize("name", PHOTO)
def test_the_weights_for_photos_hardly_change_a_clean_image(name, clean):
    # The specialist for cameras smears the finest detail; `auto` gives clean images to the other.
    least = 41 if name == "photo" else 44
    assert psnr(denoise_image(shipped(name), clean), clean) > least


def rings(side=192):
    """Rings about the middle that get finer outwards, to two pixels a period at the middle of each border."""
    place = (torch.arange(side) + 0.5) / side - 0.5
    square = place.view(-1, 1).square() + place.square()
    return (0.5 + 0.4 * (2 * math.pi * side * 0.5 * square).sin()).unsqueeze(2).expand(-1, -1, 3)


@pytest.mark.parametrize("name", [*PHOTO, "photo-grey"])
def test_the_weights_for_photos_leave_fine_stripes(name):
    assert psnr(denoise_image(shipped(name), rings().contiguous()), rings()) > 25


def test_the_noise_of_the_example_is_found_and_its_specialist_chosen(noisy):
    name, estimate = model_selection.choose(noisy)

    assert name == "photo-gaussian"
    # Clipped at black, of which the city has much.
    assert all(22 < sigma < 28 for sigma in estimate.sigma)


def test_the_specialist_for_grey_is_better_at_it_than_those_of_its_size(clean):
    one = clean.mean(2, keepdim=True)
    noise = 25 / 255 * torch.randn(one.shape, generator=torch.Generator().manual_seed(0))
    grey, noisy = (each.expand(-1, -1, 3).contiguous() for each in (one, one + noise))

    reached = {name: psnr(denoise_image(shipped(name), noisy), grey) for name in model_selection.behind("auto")}

    assert model_selection.choose(noisy)[0] == max(reached, key=reached.__getitem__) == "photo-grey"
    assert psnr(denoise_image(shipped("photo-grey"), grey), grey) > 44


def test_the_specialist_for_cameras_takes_out_noise_that_pixels_share(clean):
    rng = torch.Generator().manual_seed(0)
    noise = torch.randn(clean.shape, generator=rng)
    for axis in (0, 1):
        noise = (noise + noise.roll(1, axis)) / 2**0.5
    noisy = clean + 6 / 255 * noise

    gains = {name: psnr(denoise_image(shipped(name), noisy), clean) - psnr(noisy, clean) for name in PHOTO}

    for choice, specialists in model_selection.CHOICES.items():
        assert model_selection.choose(noisy, choice)[0] == specialists["camera"]
        assert gains[specialists["camera"]] > gains[specialists["white"]] + 1


@pytest.mark.parametrize("name", PHOTO)
def test_bfloat16_makes_the_same_image_to_50_db(name, clean, noisy):
    one, other = (denoise_image(shipped(name, compute), noisy) for compute in (torch.float32, torch.bfloat16))

    assert psnr(one, other) > 50
    assert psnr(one, clean) == pytest.approx(psnr(other, clean), abs=0.02)


def test_the_papers_weights_average_noise_of_random_pixels_and_a_deeper_network_more(clean):
    # Each pixel of the small image is one of the 64 that its clean pixel averages.
    pick = torch.randint(8, (2, 40, 40), generator=torch.Generator().manual_seed(0))
    corner = 8 * torch.arange(40)
    noisy = clean[corner.view(-1, 1) + pick[0], corner + pick[1]]
    mean = clean.view(40, 8, 40, 8, 3).mean((1, 3))

    paper, pixels = (denoise_image(shipped(name), noisy) for name in ("paper", "pixels"))

    assert psnr(paper, mean) > psnr(noisy, mean) + 2
    assert psnr(pixels, mean) > psnr(paper, mean) + 0.3
