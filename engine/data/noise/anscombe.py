"""Generalised Anscombe transform: photon noise with a variance of one at every brightness, and back without bias.

A sensor's samples have the variance gain * (x - pedestal) + read_variance. After the transform they have about
the variance 1, so a network for white noise fits. The inverse is the exact unbiased one: it maps the expected
value of a transformed sample to the expected value of the sample. The algebraic inverse would be too dark at low
counts.
Sources: Starck, Murtagh & Bijaoui, "Image processing and data analysis", Cambridge University Press 1998 (the
transform); Makitalo & Foi, "Optimal inversion of the generalized Anscombe transformation for Poisson-Gaussian
noise", IEEE Transactions on Image Processing 2013 (the inverse, and its closed form for high counts).
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

# Expected counts up to which the inverse is tabulated. Above, the closed form is within 2e-4 counts.
LARGEST_TABULATED = 100.0
# Entries of the table, evenly spaced in the root of the expected count.
TABLE_SIZE = 513
# Of the read noise's distribution: points, and how many standard deviations they reach.
READ_NOISE_POINTS = 65
READ_NOISE_REACH = 6.0


@dataclass(frozen=True)
class NoiseLaw:
    """Variance of a sensor's noise by brightness: gain * (x - pedestal) + read_variance, in the samples' units.

    gain: how much one photon adds. pedestal: the value of no light. read_variance: of the noise without light.
    """

    gain: float
    pedestal: float
    read_variance: float

    def variance(self, x: Tensor) -> Tensor:
        """Of samples with these expected values."""
        return (self.gain * (x - self.pedestal)).clamp(min=0) + self.read_variance


@dataclass(frozen=True)
class Anscombe:
    """The transform for one law, and its inverse."""

    law: NoiseLaw

    def forward(self, x: Tensor) -> Tensor:
        """Samples -> values with a noise variance of about 1."""
        law = self.law
        return stabilise(x, law.gain, law.pedestal, law.read_variance)

    def inverse(self, z: Tensor) -> Tensor:
        """Expected transformed values -> expected samples. Below the pedestal the curve goes on as a line."""
        expected, counts, _ = (part.to(z.device) for part in self._table)
        index = torch.searchsorted(expected, z.contiguous()).clamp(1, len(expected) - 1)
        low, high = expected[index - 1], expected[index]
        part = (z - low) / (high - low)
        tabulated = counts[index - 1] + part * (counts[index] - counts[index - 1])
        return self.law.pedestal + self.law.gain * torch.where(z > expected[-1], self._closed_form(z), tabulated)

    def variance(self, z: Tensor) -> Tensor:
        """Of transformed values, by their expected values: 1, but less for a few photons without read noise."""
        expected, _, variance = (part.to(z.device) for part in self._table)
        index = torch.searchsorted(expected, z.contiguous()).clamp(max=len(expected) - 1)
        return variance[index]

    @cached_property
    def _table(self) -> tuple[Tensor, Tensor, Tensor]:
        """For each of many expected counts: the expected transformed value, the count, and the variance."""
        counts = torch.linspace(0, math.sqrt(LARGEST_TABULATED), TABLE_SIZE, dtype=torch.float64).square()
        photons = torch.arange(
            math.ceil(LARGEST_TABULATED + 10 * math.sqrt(LARGEST_TABULATED)), dtype=torch.float64
        )
        spread = math.sqrt(self.law.read_variance) / self.law.gain
        points = torch.linspace(-READ_NOISE_REACH, READ_NOISE_REACH, READ_NOISE_POINTS, dtype=torch.float64)
        weights = (-points.square() / 2).softmax(0)
        transformed = 2 * (photons.unsqueeze(1) + spread * points + 0.375 + spread**2).clamp(min=0).sqrt()
        log_chance = torch.xlogy(photons, counts.unsqueeze(1)) - counts.unsqueeze(1) - torch.lgamma(photons + 1)
        expected, square = (
            log_chance.exp() @ (values @ weights) for values in (transformed, transformed.square())
        )
        # The closed form follows without a step.
        counts[-1] = self._closed_form(expected)[-1]
        return expected.float(), counts.float(), (square - expected.square()).float()

    def _closed_form(self, z: Tensor) -> Tensor:
        """Expected counts for high expected values z."""
        root = math.sqrt(1.5)
        z = z.clamp(min=1)
        high = z.square() / 4 + root / (4 * z) - 11 / (8 * z.square()) + 5 * root / (8 * z**3) - 0.125
        return high - self.law.read_variance / self.law.gain**2


def stabilise(x: Tensor, gain: float | Tensor, pedestal: float | Tensor, read_variance: float | Tensor) -> Tensor:
    """The transform, for one law or for a law for each element."""
    offset = 0.375 + read_variance / gain**2 - pedestal / gain
    return 2 * (x / gain + offset).clamp(min=0).sqrt()
