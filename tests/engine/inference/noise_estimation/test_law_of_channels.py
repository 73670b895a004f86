import numpy as np
import pytest
import torch

import engine
from engine.inference.noise_estimation import estimate_noise
from tests.support.noise import as_counts, cells, generator


def composite(*peaks, gain=2.0, offset=100.0):
    """Counts of three dyes, with so many photons each at the brightest; 0 for a channel that was not recorded."""
    channels = [
        as_counts(cells(seed), peak, 1, gain, offset, seed=seed) if peak else torch.zeros(256, 256, 1)
        for seed, peak in enumerate(peaks)
    ]
    return torch.cat(channels, 2)


def truth(*peaks, gain=2.0, offset=100.0):
    channels = [offset + gain * peak * cells(seed) if peak else cells() * 0 for seed, peak in enumerate(peaks)]
    return torch.cat(channels, 2)


@pytest.mark.parametrize("peaks", [(0, 100, 20), (100, 30, 0), (100, 100, 1)])
def test_empty_and_weak_channels_take_the_law_of_another(peaks):
    laws = estimate_noise(composite(*peaks)).laws

    assert [law.law.gain for law in laws] == pytest.approx([2] * 3, rel=0.15)


def test_a_channel_alone_is_measured_as_grey():
    alone, grey = estimate_noise(composite(0, 100, 0)), estimate_noise(composite(0, 100, 0)[..., 1:2])

    assert alone.laws == grey.laws
    assert alone.sigma == (0, grey.sigma[0], 0)
    assert alone.chroma is None


def test_an_empty_channel_has_no_noise():
    estimate = estimate_noise(composite(100, 0, 30))

    assert estimate.sigma[1] == 0
    assert min(estimate.sigma[0], estimate.sigma[2]) > 0


def test_a_channel_of_another_noise_takes_no_law():
    counts = composite(100, 100, 100)
    counts[..., 2] = 300 + 40 * torch.randn(256, 256, generator=generator(9))

    assert not estimate_noise(counts).laws


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_a_channel_alone_is_denoised_as_grey(dtype):
    counts = composite(0, 100, 0).round().numpy().astype(dtype)

    result = engine.denoise(counts)

    assert np.array_equal(result[..., 1], engine.denoise(counts[..., 1]))
    assert not result[..., ::2].any()


@pytest.mark.parametrize("peaks", [(100, 0, 0), (100, 30, 1)])
def test_weak_channels_keep_their_light(peaks):
    noisy, clean = composite(*peaks), truth(*peaks)

    result = torch.from_numpy(engine.denoise(noisy.numpy()))

    light, expected = ((x - x.new_tensor([100])).sum((0, 1)) for x in (result, clean))
    assert light == pytest.approx(expected, rel=0.03)
    error, before = ((x - clean).square().mean((0, 1)).sqrt() for x in (result, noisy))
    assert (error[torch.tensor(peaks) > 0] < 0.5 * before[torch.tensor(peaks) > 0]).all()
