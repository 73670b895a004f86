"""Distance of noise: images of the weights' noise are near, and all others are not."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from engine.data.noise.anscombe import NoiseLaw
from engine.inference.noise_distance import MAX_LEVEL, distance, nearest
from engine.inference.noise_estimation import NoiseEstimate, estimate_noise
from tests.support.adapted import LAW, PHOTONS, SMEARED, WHITE, shot_of, smeared
from tests.support.bursts import PEDESTAL, READ_NOISE, photons, scene, white

OWN = {"photons": (photons(200), PHOTONS), "white": (white(25), WHITE), "smeared": (smeared(25), SMEARED)}


def with_gain(gain):
    """photons(200) of a sensor with another gain."""

    def noisy(light, rng):
        counts = torch.poisson(200 * light, generator=rng)
        return (PEDESTAL + gain * counts + READ_NOISE * torch.randn(light.shape, generator=rng)).round()

    return noisy


OTHERS = {
    "photons": [with_gain(4), with_gain(1), white(25), white(5), smeared(25)],
    "white": [white(5), white(15), white(35), white(60), smeared(25), photons(200)],
    "smeared": [smeared(15), smeared(35), white(25), photons(200)],
}


def found(samples, noise):
    return distance(estimate_noise(samples), str(samples.dtype).removeprefix("torch."), noise)


@pytest.mark.parametrize("number", range(1, 5))
@pytest.mark.parametrize("kind", OWN)
def test_an_image_of_the_same_noise_is_near(kind, number):
    noise, weights = OWN[kind]
    near = found(shot_of(noise, number), weights)

    assert near.is_near, near.words
    assert near.level < MAX_LEVEL


@pytest.mark.parametrize("number", range(1, 4))
@pytest.mark.parametrize("kind", OWN)
def test_an_image_of_other_noise_is_not_near(kind, number):
    _, weights = OWN[kind]
    near = [other for other in OTHERS[kind] if found(shot_of(other, number), weights).is_near]

    assert near == []


@pytest.mark.parametrize("weights", [PHOTONS, WHITE, SMEARED])
@pytest.mark.parametrize("number", range(1, 4))
def test_a_clean_image_is_not_near(number, weights):
    for clean in (shot_of(lambda light, rng: 1000 + 255 * light, number), shot_of(white(0), number)):
        assert not found(clean, weights).is_near


def test_a_jpeg_photo_is_not_near():
    grey = (255 * scene(1, 256)).round().clamp(0, 255).numpy().astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(grey).save(file, "JPEG", quality=75)
    samples = torch.from_numpy(np.array(Image.open(file))).unsqueeze(2)
    eight = replace(
        WHITE, samples="uint8", brightness=(0, 255), levels=((0, 2.0), (255, 2.0)), share=(0.001, 0.1)
    )

    assert found(samples, eight).other == "the image was compressed as JPEG, and the shots were not"


def test_colour_and_depth_make_another_kind_of_image():
    shot = shot_of(photons(200))
    colour = torch.cat([shot_of(photons(200), number) for number in (1, 2, 3)], 2)

    assert found(colour, PHOTONS).other == "it is for grey images, and this one is colour"
    assert (
        found(shot, replace(PHOTONS, samples="uint8")).other == "it is for 8-bit images, and this one is 16-bit"
    )
    assert found(shot.expand(-1, -1, 3), PHOTONS).is_near, "three equal channels are grey"


def test_floating_point_counts_are_compared_with_whole_ones():
    assert found(shot_of(photons(200)).float(), PHOTONS).is_near
    assert not found(shot_of(photons(200)).float() / 65535, PHOTONS).is_near


def test_noise_that_cannot_be_measured_is_not_near():
    assert distance(NoiseEstimate(), "uint16", PHOTONS).other == "the noise cannot be measured"


def test_brightness_that_no_shot_had_is_not_near():
    bright = shot_of(white(25)).float() + 1000

    near = found(bright, WHITE)

    assert near.level < MAX_LEVEL
    assert near.reach > 1
    assert not near.is_near


def test_files_that_were_stretched_are_near_their_own_law():
    stretched = replace(PHOTONS, laws=((LAW,), (NoiseLaw(1.0, PEDESTAL, READ_NOISE**2),)))
    near = found(shot_of(with_gain(1)), stretched)

    assert near.is_near, near.words
    assert near.laws == stretched.laws[1]


def test_the_nearest_of_several_weights_is_found():
    others = {
        "stronger": replace(WHITE, levels=((1000, 40.0), (1250, 40.0))),
        "mine": WHITE,
        "like": replace(WHITE, levels=((1000, 28.0), (1250, 28.0))),
    }

    name, near = nearest(estimate_noise(shot_of(white(25))), "uint16", others)

    assert name == "mine"
    assert near.is_near
    assert nearest(estimate_noise(shot_of(white(25))), "uint16", {}) is None


def test_the_words_name_each_quantity_and_its_limit():
    words = found(shot_of(white(25)), WHITE).words

    assert "level within a factor of 1" in words
    assert "of at most 1.15" in words
    assert "correlation within 0.00 of at most 0.2" in words
