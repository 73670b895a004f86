"""Laws of the channels: each channel of an image gets a noise law, or none does.

- A channel that is the same everywhere has no noise: a microscope that records one dye leaves two channels empty.
- A weak channel shows too little of how its noise grows.

Such a channel takes the law of another channel, if that law also gives the variance measured here. One sensor
recorded them all, so this is the usual case.
"""

import math
from collections.abc import Sequence

from torch import Tensor

from engine.data.noise.anscombe import NoiseLaw
from engine.inference.noise_estimation.law_bins import law_bins, overall_variance
from engine.inference.noise_estimation.noise_law import LawEstimate
from engine.inference.noise_estimation.value_range import is_even

# Measured variance over that of the law, or the reverse, up to which the law fits.
MAX_RATIO = 1.4


def laws_of_channels(estimates: Sequence[LawEstimate | None], tiles: Tensor) -> list[LawEstimate]:
    """One law for each channel; an empty list unless there is one for all.

    estimates: of each channel. tiles: (T, h, w, C), what they were measured in, in the same units.
    """
    lenders = [estimate for estimate in estimates if estimate and estimate.confident]
    laws = []
    for estimate, channel in zip(estimates, tiles.unbind(3), strict=True):
        law = estimate if estimate and estimate.confident else _borrowed(lenders, channel)
        if law is None:
            return []
        laws.append(law)
    return laws


def _borrowed(lenders: Sequence[LawEstimate], channel: Tensor) -> LawEstimate | None:
    """The law of another channel that fits this one best, if one does. channel: (T, h, w)."""
    if not lenders:
        return None
    if is_even(channel):
        return lenders[0]
    misfits = [_misfit(lender.law, channel) for lender in lenders]
    least = min(misfits)
    return lenders[misfits.index(least)] if least < math.log(MAX_RATIO) else None


def _misfit(law: NoiseLaw, channel: Tensor) -> float:
    """How far the measured variance is from the law's: the absolute logarithm of their ratio."""
    bins = law_bins(channel)
    if bins is not None:
        measured = float((bins.counts * bins.high).sum())
        expected = float((bins.counts * law.variance(bins.mean + bins.centre)).sum())
    else:
        # Too dark for bins of brightness. Texture is weaker than the noise there.
        measured, expected = overall_variance(channel), float(law.variance(channel).mean())
    return abs(math.log(measured / expected)) if measured > 0 < expected else math.inf
