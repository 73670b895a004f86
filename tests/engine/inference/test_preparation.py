"""Preparation: which steps an image gets, and what comes back."""

import math
from dataclasses import replace

import pytest
import torch

from engine.imageio.formats import FORMATS
from engine.imageio.image import Image
from engine.inference.denoise import OutputOptions, denoise
from engine.inference.noise_estimation import estimate_noise
from engine.inference.preparation import NO_PREPARATION, PreparationOptions, finer_allowed, prepare
from engine.layers import Sequential
from tests.support.measured import PEDESTAL, as_counts, cells, expected, recorded
from tests.support.networks import NETWORKS
from tests.support.noise import leaves, noise

PHOTONS = 30


class Blur(Sequential):
    """Averages 3 x 3 pixels, and adds an error."""

    def __init__(self, error=0.0):
        super().__init__(NETWORKS[0])
        self.error = error

    def forward(self, x, train=False):
        shifts = ((down, across) for down in (-1, 0, 1) for across in (-1, 0, 1))
        return sum(x.roll(shift, (1, 2)) for shift in shifts) / 9 + self.error


def counts():
    return as_counts(recorded(cells(), PHOTONS))


def prepared(samples, **options):
    return prepare(samples, estimate_noise(samples), PreparationOptions(**options))


def run(samples, net=None, output=None, **options):
    preparation = prepared(samples, **options)
    result = denoise(net or Blur(), Image(samples), options=output or OutputOptions(), preparation=preparation)
    return result.samples


@pytest.mark.parametrize("sigma", [0, 10, 25])
def test_a_photograph_gets_no_steps(sigma):
    clean = leaves()
    noisy = ((clean + sigma / 255 * noise(clean)).clamp(0, 1) * 255).round().to(torch.uint8)

    preparation = prepared(noisy)

    assert replace(preparation, max_change=math.inf) == NO_PREPARATION
    assert math.isfinite(preparation.max_change) == (sigma == 0)


def test_counts_of_photons_are_made_even_and_the_total_stays():
    samples = counts()
    preparation = prepared(samples)

    result = run(samples, Blur(error=-0.05), finer=True)

    assert preparation.keep_mean
    assert preparation.words[0].startswith("photon noise made even")
    assert float(result.double().mean()) == pytest.approx(float(samples.double().mean()), rel=1e-5)


def test_the_steps_can_be_left_out():
    assert prepared(counts(), normalise=False) == NO_PREPARATION


def test_coarse_counts_become_floats_in_the_same_units_if_the_format_holds_them():
    samples = counts()

    whole, finer = run(samples), run(samples, finer=True)

    assert whole.dtype == torch.uint16
    assert finer.dtype == torch.float32
    assert float((whole.float() - finer).abs().max()) <= 0.5001
    truth = expected(cells(), PHOTONS).unsqueeze(2)
    assert float((finer - truth).square().mean()) < float((whole.float() - truth).square().mean())


def test_fine_counts_stay_whole():
    samples = as_counts(100 * (recorded(cells(), PHOTONS) - PEDESTAL) + 1000)

    assert prepared(samples, finer=True).keep_mean
    assert run(samples, finer=True).dtype == torch.uint16


@pytest.mark.parametrize(
    ("format_", "output", "allowed"),
    [("tiff", "clean", True), ("tiff", "compare", False), ("tiff", "residual", False), ("png", "clean", False)],
)
def test_floats_need_a_format_that_holds_them(format_, output, allowed):
    assert finer_allowed(FORMATS[format_], output, [Image(counts())]) is allowed


def test_floats_need_counts_without_transparency_on_all_pages():
    page = Image(counts())
    shown = replace(page, alpha=torch.full(page.samples.shape[:2], 65535).to(torch.uint16))
    bytes_ = Image((page.samples.float() / 8).to(torch.uint8))

    assert finer_allowed(FORMATS["tiff"], "clean", [page, page])
    assert not finer_allowed(FORMATS["tiff"], "clean", [page, shown])
    assert not finer_allowed(FORMATS["tiff"], "clean", [page, bytes_])


@pytest.mark.parametrize("offset", [-2.0, 4.0])
def test_an_offset_does_not_change_the_result(offset):
    clean = leaves()[..., :1]
    noisy = (clean + 20 / 255 * noise(clean)).clamp(0, 1)

    result = run(noisy + offset, NETWORKS[0])

    normal = run(noisy, NETWORKS[0])
    assert float((result - offset - normal).abs().mean()) < 2e-3


@pytest.mark.parametrize("strength", [0.0, 0.5])
def test_strength_is_a_share_of_the_change_in_the_files_units(strength):
    samples = counts()
    full = run(samples, finer=True).float()

    part = run(samples, output=OutputOptions(strength=strength), finer=True).float()

    wanted = samples.float() + strength * (full - samples.float())
    assert float((part - wanted).abs().max()) < (1e-2 if strength else 1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_tiles_of_an_image_with_steps_fit_together(channels):
    samples = counts().expand(-1, -1, channels).contiguous()
    preparation = prepared(samples)
    whole = denoise(NETWORKS[0], Image(samples), preparation=preparation).samples

    tiled = denoise(NETWORKS[0], Image(samples), window_size=(2, 1), preparation=preparation).samples

    assert int((whole.to(torch.int32) - tiled.to(torch.int32)).abs().max()) <= 1


def test_hidden_pixels_keep_their_counts():
    samples = counts()
    alpha = torch.full(samples.shape[:2], 65535).to(torch.uint16)
    alpha[:50] = 0

    result = denoise(Blur(), Image(samples, alpha), preparation=prepared(samples, finer=True)).samples

    assert torch.equal(result[:50], samples[:50].to(result.dtype))
