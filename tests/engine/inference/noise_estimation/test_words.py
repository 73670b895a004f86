import pytest
import torch

from engine.inference.noise_estimation import Component, NoiseEstimate, estimate_noise, sentence, summary
from engine.inference.noise_estimation.words import figure
from tests.support.noise import leaves, noise

NONE = Component(0.0, (0.0, 0.0, 0.0), 1.0)


@pytest.mark.parametrize(
    ("estimate", "words"),
    [
        (
            NoiseEstimate(),
            "The noise cannot be measured: the image is too small, or all constant, black or white.",
        ),
        (
            NoiseEstimate((9.0, 12.0, 15.0), NONE, correlated=False),
            "Noise of about 12.2 of 255, in fine grains of single pixels.",
        ),
        (
            NoiseEstimate((3.0,), NONE, correlated=True, jpeg_blocks=True),
            "Noise of about 3.0 of 255, in soft grains of several pixels; compressed as JPEG.",
        ),
        (NoiseEstimate((0.4,), NONE, correlated=True), "Hardly any noise, about 0.4 of 255."),
        (NoiseEstimate((0.0, 0.0, 0.0), NONE, correlated=False), "No noise: the image looks computer-drawn."),
    ],
)
def test_an_estimate_is_described_in_a_sentence(estimate, words):
    assert sentence(estimate) == words


def test_a_summary_has_kind_level_and_correlation():
    clean = leaves()

    noisy = (clean + 20 / 255 * noise(clean)).mul(255).round().clamp(0, 255).to(torch.uint8)

    kind, sigma, luma, chroma = summary(estimate_noise(noisy)).split("; ")

    assert kind == "white"
    assert all(18 < float(each) < 22 for each in sigma.removeprefix("sigma ").split())
    assert all(abs(float(each)) < 0.1 for each in luma.removeprefix("luma correlated ").split())
    assert chroma.startswith("chroma correlated ")


def test_a_summary_of_measured_samples_is_in_their_units():
    noisy = 1000 + 500 * leaves() + 25 * noise(leaves())

    _, sigma, *_ = summary(estimate_noise(noisy)).split("; ")

    values, share = sigma.removeprefix("sigma ").removesuffix(" % of the range)").split(" (")
    assert all(22 < float(each) < 28 for each in values.split())
    assert 3 < float(share) < 6


@pytest.mark.parametrize(
    ("value", "text"), [(3063.2, "3060"), (231.9, "232"), (0.01234, "0.0123"), (0, "0"), (65535, "65500")]
)
def test_figures_have_few_digits_and_no_exponent(value, text):
    assert figure(value) == text
