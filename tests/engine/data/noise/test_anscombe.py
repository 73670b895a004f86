"""Generalised Anscombe transform: unit variance, and an inverse without bias."""

import math

import pytest
import torch

from engine.data.noise.anscombe import Anscombe, NoiseLaw

SAMPLES = 400_000


def _sensor(law: NoiseLaw, photons: float) -> torch.Tensor:
    """Samples of an even scene with that many expected photons, float64 (SAMPLES,)."""
    rng = torch.Generator().manual_seed(int(photons * 10))
    counts = torch.poisson(torch.full((SAMPLES,), photons, dtype=torch.float64), generator=rng)
    read_noise = math.sqrt(law.read_variance) * torch.randn(SAMPLES, dtype=torch.float64, generator=rng)
    return law.pedestal + law.gain * counts + read_noise


@pytest.mark.parametrize("read_noise", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("photons", [0.1, 0.5, 2.0, 20.0, 90.0, 150.0, 1000.0])
def test_mean_comes_back_without_bias(photons: float, read_noise: float) -> None:
    law = NoiseLaw(gain=2.0, pedestal=100.0, read_variance=(2 * read_noise) ** 2)
    transform = Anscombe(law)
    expected = transform.forward(_sensor(law, photons)).mean().float().reshape(1)
    error = float(transform.inverse(expected) - law.pedestal) / law.gain - photons
    # Four standard errors of the mean.
    assert abs(error) < 4 * math.sqrt((photons + read_noise**2) / SAMPLES) + 2e-4 * photons


@pytest.mark.parametrize("photons", [5.0, 50.0, 500.0])
def test_variance_is_one(photons: float) -> None:
    law = NoiseLaw(gain=0.5, pedestal=-3.0, read_variance=0.25)
    variance = float(Anscombe(law).forward(_sensor(law, photons)).var())
    assert variance == pytest.approx(1, abs=0.06)


def test_inverse_rises_without_a_step() -> None:
    z = torch.linspace(0, 60, 20_001)
    steps = Anscombe(NoiseLaw(1.0, 0.0, 0.5)).inverse(z).diff()
    assert (steps > 0).all()
    assert (steps.diff().abs() < 2e-3).all()


def test_table_by_hand() -> None:
    # Without light and without read noise every sample is the pedestal: z = 2 * sqrt(3 / 8).
    transform = Anscombe(NoiseLaw(gain=4.0, pedestal=7.0, read_variance=0.0))
    z = transform.forward(torch.tensor([7.0]))
    assert float(z) == pytest.approx(2 * math.sqrt(0.375))
    assert float(transform.inverse(z)) == pytest.approx(7.0, abs=1e-5)


def test_law_gives_the_variance() -> None:
    law = NoiseLaw(gain=2.0, pedestal=100.0, read_variance=9.0)
    assert law.variance(torch.tensor([90.0, 100.0, 110.0])).tolist() == [9.0, 9.0, 29.0]
