"""Mosaics are denoised by their noise law, or left alone without one."""

import numpy as np
import pytest
import torch

from engine.imageio.codecs.raw import RawMosaic
from engine.inference.denoise import OutputOptions
from engine.inference.mosaic import (
    MIN_SIDE,
    MOSAIC_MODEL,
    MosaicDenoiser,
    MosaicLaw,
    NoiseLaw,
    denoise_mosaic,
    law_of,
    requested_share,
)
from engine.inference.preparation import PreparationOptions
from engine.models import checkpoint
from engine.models.networks import build_network
from engine.models.unet import UNetConfig

BLACK = 512
WHITE = 15871
SPAN = WHITE - BLACK
RGGB = ((0, 1), (3, 2))
GRBG = ((1, 0), (2, 3))


@pytest.fixture(scope="module")
def identity():
    """An untrained network returns its input."""
    return build_network(UNetConfig((8,), (1,)), torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def grey():
    return checkpoint.load(checkpoint.find(MOSAIC_MODEL)).net


def light(height, width, pattern=RGGB):
    """Smooth light from 0 to 1, of one hue."""
    y, x = np.mgrid[:height, :width]
    waves = 0.5 + 0.25 * np.sin(x / 19) + 0.2 * np.cos(y / 23)
    by_colour = np.array([0.5, 1.0, 0.6, 1.0])
    return waves * by_colour[np.tile(pattern, (height // 2 + 1, width // 2 + 1))[:height, :width]]


def mosaic_of(clean, electrons, read_noise=3.0, pattern=RGGB, profile=None, seed=0):
    """electrons: at white. read_noise: in electrons."""
    rng = np.random.default_rng(seed)
    noisy = (rng.poisson(clean * electrons) + rng.normal(0, read_noise, clean.shape)) / electrons
    return stored(noisy, pattern, profile)


def stored(values, pattern=RGGB, profile=None):
    counts = np.clip(np.rint(BLACK + values * SPAN), 0, WHITE).astype(np.uint16)
    return RawMosaic(counts, pattern, (BLACK,) * 4, WHITE, profile)


def exact_law(electrons, read_noise=3.0):
    law = NoiseLaw(SPAN / electrons, BLACK, (read_noise * SPAN / electrons) ** 2)
    return MosaicLaw((law,) * 4, stated=False)


def test_the_stated_noise_is_taken_for_each_colour():
    profile = ((0.001, 1e-6), (0.002, 2e-6), (0.003, 3e-6))

    law = law_of(stored(light(64, 64, GRBG), GRBG, profile))

    assert law.stated
    gains = [each.gain / SPAN for each in law.laws]
    assert gains == pytest.approx([0.002, 0.001, 0.003, 0.002])
    assert law.laws[1].read_variance == pytest.approx(1e-6 * SPAN**2)
    assert law.laws[1].pedestal == BLACK


@pytest.mark.parametrize("profile", [((0.0, 1e-6),), ((0.001, 0.0),) * 4, ()])
def test_a_noise_profile_without_sense_is_not_taken(profile):
    assert law_of(stored(light(64, 64), profile=profile)) is None


@pytest.mark.parametrize("electrons", [100, 400, 1500])
def test_the_law_is_measured_where_nothing_states_it(electrons):
    law = law_of(mosaic_of(light(400, 500), electrons))

    assert not law.stated
    for each in law.laws:
        assert each.gain == pytest.approx(SPAN / electrons, rel=0.1)
        assert each.pedestal == BLACK


def test_noise_without_growth_has_no_law():
    clean = light(400, 500)
    even = clean + np.random.default_rng(0).normal(0, 0.03, clean.shape)

    assert law_of(stored(even)) is None


def test_companded_values_have_no_law():
    noisy = mosaic_of(light(400, 500), 400).values
    companded = np.sqrt((noisy - float(BLACK)).clip(0) / SPAN)

    assert law_of(stored(companded)) is None


def test_a_mosaic_at_base_sensitivity_is_left_alone():
    assert law_of(mosaic_of(light(400, 500), 20_000)) is None


def test_a_tiny_mosaic_is_left_alone():
    assert law_of(stored(light(MIN_SIDE - 2, 64), profile=((0.001, 1e-6),))) is None


@pytest.mark.parametrize("pattern", [RGGB, GRBG])
@pytest.mark.parametrize("shape", [(64, 96), (63, 95)])
def test_a_network_that_removes_nothing_changes_nothing(identity, pattern, shape):
    mosaic = mosaic_of(light(*shape, pattern), 2000, pattern=pattern)

    values = denoise_mosaic(identity, mosaic, exact_law(2000))

    assert values.dtype == np.uint16
    assert values.shape == shape
    # The exact unbiased inverse is for means, and lies a little above single values.
    assert np.abs(values.astype(int) - mosaic.values).max() <= 8


@pytest.mark.parametrize("pattern", [RGGB, GRBG])
def test_noise_is_removed_and_the_total_stays(grey, pattern):
    clean = light(128, 192, pattern)
    mosaic = mosaic_of(clean, 400, pattern=pattern)
    truth = BLACK + clean * SPAN

    values = denoise_mosaic(grey, mosaic, exact_law(400))

    before, after = (((each - truth) ** 2).mean() for each in (mosaic.values, values))
    assert after < before / 5
    for row in range(2):
        for column in range(2):
            part = (slice(row, None, 2), slice(column, None, 2))
            assert values[part].mean() == pytest.approx(mosaic.values[part].mean(), rel=1e-3)


def test_a_mosaic_of_more_detail_than_noise_is_left_alone(grey):
    rng = np.random.default_rng(1)
    clean = light(128, 192) * rng.choice([0.4, 1.0], (128, 192))

    assert denoise_mosaic(grey, mosaic_of(clean, 12_000), exact_law(12_000)) is None


def test_detail_in_a_third_of_a_mosaic_stays(grey):
    """Far less is removed there than the network would: its error would be many times the noise."""
    rng = np.random.default_rng(1)
    clean = light(128, 192)
    clean[:, :64] *= rng.choice([0.4, 1.0], (128, 64))
    mosaic = mosaic_of(clean, 12_000)
    truth = BLACK + clean * SPAN

    values = denoise_mosaic(grey, mosaic, exact_law(12_000))

    before, after = (((each - truth)[:, :56] ** 2).mean() for each in (mosaic.values, values))
    assert after < before * 1.3


def test_saturated_areas_stay_and_no_value_exceeds_white(grey):
    clean = light(128, 128)
    clean[40:80, 40:80] = 2.0
    mosaic = mosaic_of(clean, 400)

    values = denoise_mosaic(grey, mosaic, exact_law(400))

    assert (values[44:76, 44:76] == WHITE).all()
    assert values.max() <= WHITE


def test_windows_run_in_any_order_and_give_the_same_values(grey):
    mosaic = mosaic_of(light(128, 192), 400)
    whole = denoise_mosaic(grey, mosaic, exact_law(400))

    denoiser = MosaicDenoiser(grey, mosaic, exact_law(400), memory_budget=1)
    for window in reversed(denoiser.windows):
        window.write(window.net.forward(window.read().unsqueeze(0))[0], window.read())

    assert len(denoiser.windows) > 4
    assert np.abs(denoiser.result().astype(int) - whole).max() <= 2


def test_the_network_runs_on_as_many_pixels_as_the_mosaic_has(identity):
    mosaic = mosaic_of(light(64, 96), 400)

    denoiser = MosaicDenoiser(identity, mosaic, exact_law(400))

    assert sum(window.pixels for window in denoiser.windows) == mosaic.values.size


def test_a_share_of_zero_returns_the_values(identity):
    mosaic = mosaic_of(light(64, 96), 400)

    assert (denoise_mosaic(identity, mosaic, exact_law(400), share=0.0) == mosaic.values).all()


def test_the_share_follows_the_options():
    steps = PreparationOptions()

    assert requested_share(OutputOptions(strength=0.5, chroma=0.5), steps) == 0.25
    assert requested_share(OutputOptions(output="residual"), steps) == 0
    assert requested_share(OutputOptions(strength=1.5), steps) == 1
    assert requested_share(OutputOptions(grain=0.25), steps) == 0.75
    assert requested_share(OutputOptions(), PreparationOptions(normalise=False)) == 0


def test_words_name_gain_and_read_noise():
    law = NoiseLaw(38.4, 512.0, 13225.0)

    assert MosaicLaw((law,) * 4, stated=False).words == (
        "mosaic denoised before developing (measured gain 38.4, read noise 115)"
    )
