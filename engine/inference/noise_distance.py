"""Distance between the noise of an image and the noise that weights were adapted to.

Four quantities are compared, each with a limit:
- level: the standard deviation against brightness. It is compared at each brightness where the image shows it, by
  the ratio of both, and the root mean square of the ratio's logarithm counts. What chance adds to that by the
  standard errors of the image's levels is taken off: the levels of a small image are uncertain. If chance alone
  would reach the limit, the image says too little.
- correlation: the largest difference of the correlation of pixels 1, 2 and 3 apart.
- share: the standard deviation as a share of the image's range. The network has learnt some such shares. A darker
  image of the same camera has a larger one.
- reach: how far the brightness where the image shows its noise lies outside that of the shots, as a share of the
  width of theirs. Nothing is known of the noise there.

The distance is the largest of the four, each divided by its limit. At most 1 is near. Images of another number of
channels, of another depth, or with JPEG's blocks where the shots had none, are not compared.

The limits were measured with scenes of photons, of white and of correlated noise, in crops of 96 to 384 pixels a
side. The estimator's levels lie within 1.1 of the truth in nearly all from 192 pixels on, and within 1.3 in those
of 96. Its correlations lie within 0.1. With weights for other noise (levels off by 1.4 or more, gains by 2 or
more, correlated for white) no image of 192 pixels was near, nor any of Kodak24 with white noise of another level.
Of 28 other fluorescence images of one microscope, each stretched on its own, 25 were near.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from engine.inference.adapted_noise import (
    CHANNELS,
    SAMPLES,
    AdaptedNoise,
    Laws,
    channels_of,
    correlation_of,
    share_of,
)
from engine.inference.noise_estimation import NoiseEstimate
from engine.inference.noise_estimation.words import figure

# The limits. Level and share: ratios.
MAX_LEVEL = 1.15
MAX_CORRELATION = 0.2
MAX_SHARE = 2.0
MAX_REACH = 0.5
# Relative standard error of a level that was measured without a law. No level counts as more certain, so that the
# many dark levels of a dark image do not outvote the bright ones, which show the gain.
LEVEL_ERROR = 0.05
# The law of a channel is a line, which two numbers describe.
LINE_NUMBERS = 2


@dataclass(frozen=True)
class NoiseDistance:
    """How far the noise of an image is from that of weights. level, share: ratios from 1 on.

    correlation: a difference. reach: a share. laws: those of the weights that are nearest; empty if they have
    none. other: what makes both different in kind, for people; then there is no distance.
    """

    level: float = math.inf
    correlation: float = math.inf
    share: float = math.inf
    reach: float = math.inf
    laws: Laws = ()
    other: str = ""

    @property
    def value(self) -> float:
        """At most 1 is near; infinite for another kind of image."""
        return math.inf if self.other else max(share for share, _ in self._parts)

    @property
    def is_near(self) -> bool:
        """Whether the weights suit the image's noise."""
        return self.value <= 1

    @property
    def words(self) -> str:
        """For people: of what is near, all quantities and their limits; otherwise what is beyond its limit."""
        if self.other:
            return self.other
        if not math.isfinite(self.level):
            return "the image shows too little of its noise"
        parts = [words for share, words in self._parts if self.is_near or share > 1]
        return ", ".join(parts)

    @property
    def _parts(self) -> list[tuple[float, str]]:
        """Each quantity, divided by its limit, and in words."""
        return [
            (
                math.log(self.level) / math.log(MAX_LEVEL),
                f"level within a factor of {figure(self.level)} of at most {MAX_LEVEL:g}",
            ),
            (
                self.correlation / MAX_CORRELATION,
                f"correlation within {self.correlation:.2f} of at most {MAX_CORRELATION:g}",
            ),
            (
                math.log(self.share) / math.log(MAX_SHARE),
                f"share of the range within a factor of {figure(self.share)} of at most {MAX_SHARE:g}",
            ),
            (
                self.reach / MAX_REACH,
                f"brightness outside theirs by {figure(self.reach, 2)} of their range, at most {MAX_REACH:g}",
            ),
        ]


def distance(estimate: NoiseEstimate, samples: str, noise: AdaptedNoise) -> NoiseDistance:
    """From the noise of an image to that of weights.

    estimate: of the image, as measured. samples: the type of its samples, a key of SAMPLES.
    """
    if other := _other_kind(estimate, samples, noise):
        return NoiseDistance(other=other)
    levels = _levels_of(estimate)
    if not levels:
        return NoiseDistance(other="the noise cannot be measured")
    candidates = [(_level_distance(levels, noise, laws), laws) for laws in noise.laws or ((),)]
    level, laws = min(candidates, key=lambda each: each[0])
    correlations = zip(correlation_of(estimate), noise.correlation, strict=True)
    share = share_of(estimate)
    return NoiseDistance(
        level=math.exp(level) if math.isfinite(level) else math.inf,
        correlation=max(abs(own - theirs) for own, theirs in correlations),
        share=max(share / noise.share[1], noise.share[0] / share, 1.0),
        reach=_reach(levels, noise.brightness),
        laws=laws,
    )


def nearest(
    estimate: NoiseEstimate, samples: str, weights: Mapping[str, AdaptedNoise]
) -> tuple[str, NoiseDistance] | None:
    """The weights whose noise is nearest, by name, and how far it is. None without weights."""
    found = {name: distance(estimate, samples, noise) for name, noise in weights.items()}
    return min(found.items(), key=lambda each: each[1].value) if found else None


def _other_kind(estimate: NoiseEstimate, samples: str, noise: AdaptedNoise) -> str:
    """What keeps the image from being compared; empty if nothing does."""
    if estimate.sigma is None or estimate.luma is None:
        return "the noise cannot be measured"
    if estimate.drawn or not any(estimate.sigma):
        return "the image has no noise"
    if channels_of(estimate) != noise.channels:
        own, theirs = CHANNELS[channels_of(estimate)], CHANNELS[noise.channels]
        return f"it is for {theirs} images, and this one is {own}"
    # A floating-point image may hold the counts of any other. Its level tells whether it does.
    if samples != noise.samples and "float32" not in (samples, noise.samples):
        own, theirs = (SAMPLES.get(each, each) for each in (samples, noise.samples))
        return f"it is for {theirs} images, and this one is {own}"
    if estimate.jpeg_blocks and noise.jpeg_blocks == 0:
        return "the image was compressed as JPEG, and the shots were not"
    if not estimate.jpeg_blocks and noise.jpeg_blocks == 1:
        return "the shots were compressed as JPEG, and the image was not"
    return ""


@dataclass(frozen=True)
class _Level:
    """channel: None for the root mean square of all. error, chance: relative, of this level and of what chance
    adds.
    """

    channel: int | None
    brightness: float
    sigma: float
    error: float
    chance: float


def _levels_of(estimate: NoiseEstimate) -> list[_Level]:
    """Where the image shows how strong its noise is, in the samples' units."""
    scale = estimate.white / 255
    if not estimate.laws:
        return [
            _Level(None, scale * each.brightness, scale * each.sigma, LEVEL_ERROR, LEVEL_ERROR)
            for each in estimate.noise_level_function
            if each.sigma > 0
        ]
    levels = []
    for channel, found in enumerate(estimate.laws):
        errors = [math.hypot(point.standard_error / point.sigma, LEVEL_ERROR) for point in found.points]
        chance = math.sqrt(LINE_NUMBERS / sum(error**-2 for error in errors))
        for point, error in zip(found.points, errors, strict=True):
            # By the law: it has less texture and chance in it than a single point.
            variance = float(found.law.variance(torch.tensor(point.brightness)))
            if variance > 0:
                levels.append(_Level(channel, point.brightness, math.sqrt(variance), error, chance))
    return levels


def _level_distance(levels: Sequence[_Level], noise: AdaptedNoise, laws: Laws) -> float:
    """Root mean square of the logarithm of the ratio of levels, without what chance adds.

    Infinite if chance alone may be as much as the limit.
    """
    squares = total = chances = 0.0
    for level in levels:
        expected = noise.sigma_at(level.brightness, level.channel, laws)
        if expected <= 0:
            return math.inf
        weight = level.error**-2
        squares += weight * math.log(level.sigma / expected) ** 2
        chances += weight * level.chance**2
        total += weight
    if math.sqrt(chances / total) > math.log(MAX_LEVEL):
        return math.inf
    return math.sqrt(max(squares - chances, 0.0) / total)


def _reach(levels: Sequence[_Level], brightness: tuple[float, float]) -> float:
    low, high = brightness
    outside = max(max(low - level.brightness, level.brightness - high, 0.0) for level in levels)
    return outside / (high - low) if high > low else math.inf
