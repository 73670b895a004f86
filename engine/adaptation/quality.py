"""Quality without a clean image: the error of a denoiser, estimated from noisy shots alone, with an interval.

A shot that the denoiser has not seen judges its output. Its noise is independent of the output's error, so the
mean of their product is 0:

- Three shots: mean((f(y1) - y2) * (f(y1) - y3)) is the squared error of f(y1). The shots may have different
  amounts of noise.
- Two shots: mean((f(y1) - y2)^2) + mean((f(y2) - y1)^2) - mean((y1 - y2)^2) is the sum of the squared errors of
  f(y1) and f(y2). One direction alone would need the noise of both shots to be equal: measured, it was off by up
  to 1.5 dB.

For f(y) = y this is the error of the noisy shots themselves, so the gain needs no clean image either. Noise that
shots share, such as a fixed pattern, counts as a part of the scene.
Sources: Lehtinen et al., "Noise2Noise: Learning image restoration without clean data", ICML 2018 (a noisy image
as the target); Efron & Stein, "The jackknife estimate of variance", Annals of Statistics 1981 (the interval).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist

import torch
from torch import Tensor

# Of an interval.
CONFIDENCE = 0.95
# Parts of the brightness range that are judged apart.
PARTS = 3
# Of the covariance with a denoised shot, in standard deviations by chance, from which a gain is fitted.
MIN_DEVIATIONS = 10.0
# Keeps logarithms finite: the least error, as a share of the noisy shots' error.
LEAST_SHARE = 1e-4


@dataclass(frozen=True)
class Estimate:
    """A value with an interval that holds the truth in 95 % of cases. In dB, if nothing else is said."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if not math.isfinite(self.high - self.low):
            return f"{self.value:.2f} dB (interval not known)"
        return f"{self.value:.2f} dB ({self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True)
class SceneError:
    """Squared errors of one scene in each third of the brightness range, in the square of the shots' unit.

    noisy: of the shots. denoised: of each denoiser that was judged. counts: the share of pixels in each part.
    bias: of each denoiser, the mean of output less shot.
    """

    noisy: tuple[float, ...]
    denoised: tuple[tuple[float, ...], ...]
    counts: tuple[float, ...]
    bias: tuple[float, ...]

    def whole(self, errors: tuple[float, ...]) -> float:
        """The mean over the parts."""
        return sum(count * error for count, error in zip(self.counts, errors, strict=True))


def error_map(outputs: Sequence[Tensor], shots: Sequence[Tensor]) -> Tensor:
    """The squared error of the outputs at each pixel, mean over shots. Unbiased, and without a clean image.

    outputs: f(y) of each shot y, or the shots themselves. shots: at least two, of the same scene and in the same
    unit, (H, W, C) each. Single pixels are noisy and may be negative: take means. Raises ValueError.
    """
    if len(shots) < 2 or len(outputs) != len(shots):
        raise ValueError(
            f"The error needs at least two shots and an output for each; got {len(shots)} shots and "
            f"{len(outputs)} outputs."
        )
    if len(shots) == 2:
        (first, second), (f, g) = shots, outputs
        total = (f - second).square() + (g - first).square() - (first - second).square()
        return total / 2
    total = torch.zeros_like(shots[0])
    for index, output in enumerate(outputs):
        judges = [shot for other, shot in enumerate(shots) if other != index]
        differences = output - torch.stack(judges)
        # The mean over all pairs of two different judges.
        pairs = differences.sum(0).square() - differences.square().sum(0)
        total += pairs / (len(judges) * (len(judges) - 1))
    return total / len(shots)


def fit_levels(
    shots: Sequence[Tensor], outputs: Sequence[Tensor], usable: Tensor | None = None
) -> list[tuple[float, float]]:
    """The gain and the offset of each shot against the first, for lamps that drift: shot = gain * first + offset.

    outputs: denoised shots. Noise in what a line is fitted against makes it too flat. So the slope is the
    covariance with a denoised shot, over that of the first shot. If there are three shots or more, this is one
    that has seen neither of the two. usable: (H, W) bool. In an even scene the gain is taken to be 1.
    """
    where = torch.ones(shots[0].shape[:2], dtype=torch.bool) if usable is None else usable
    shots, outputs = ([image[where].double() for image in images] for images in (shots, outputs))
    first, levels = shots[0], [(1.0, 0.0)]
    for index in range(1, len(shots)):
        unseen = [each for other, each in enumerate(outputs) if other not in (0, index)] or list(outputs)
        judge = torch.stack(unseen).mean(0)
        judge = judge - judge.mean()
        power = float((judge * first).sum())
        chance = float((judge.square().sum() * (first - first.mean()).square().mean()).sqrt())
        gain = float((judge * shots[index]).sum()) / power if power > MIN_DEVIATIONS * chance else 1.0
        levels.append((gain, float(shots[index].mean()) - gain * float(first.mean())))
    return levels


def scene_error(
    shots: Sequence[Tensor],
    denoised: Sequence[Sequence[Tensor]],
    limits: tuple[float, float],
    usable: Tensor | None = None,
) -> SceneError:
    """The errors of one scene.

    shots: at least two, (H, W, C), in the same unit. denoised: for each denoiser to be judged, its output for
    each shot. limits: the brightness range of all scenes, which is cut into thirds; a pixel's brightness is that
    of the mean of all outputs, not of a noisy shot. usable: (H, W) bool, pixels without motion and clipping.
    """
    levels = fit_levels(shots, denoised[0], usable)
    shots, *denoised = (_levelled(images, levels) for images in (shots, *denoised))
    brightness = torch.stack([image for images in denoised for image in images]).mean((0, 3))
    low, high = limits
    part = ((brightness - low) / max(high - low, 1e-30) * PARTS).long().clamp(0, PARTS - 1)
    usable = torch.ones_like(part, dtype=torch.bool) if usable is None else usable
    parts = [usable & (part == number) for number in range(PARTS)]
    total = max(int(usable.sum()), 1)
    maps = [error_map(images, shots).mean(2) for images in (shots, *denoised)]
    noisy, *errors = (tuple(_mean(each, where) for where in parts) for each in maps)
    bias = [
        sum(_mean((f - y).mean(2), usable) for f, y in zip(images, shots, strict=True)) for images in denoised
    ]
    return SceneError(
        noisy,
        tuple(errors),
        tuple(int(where.sum()) / total for where in parts),
        tuple(each / len(shots) for each in bias),
    )


def gain(scenes: Sequence[SceneError], denoiser: int = 0, part: int | None = None) -> Estimate:
    """By how much a denoiser lowers the error of the shots, in dB: 10 log10 of the ratio of mean squared errors.

    The interval is for scenes of the same kind that were not looked at. One scene gives an infinite one. part: of
    the brightness range, from 0; None for all of it.
    """
    return _ratio(
        scenes, lambda s: _error_of(s, s.noisy, part), lambda s: _error_of(s, s.denoised[denoiser], part)
    )


def improvement(
    scenes: Sequence[SceneError], before: int = 0, after: int = 1, part: int | None = None
) -> Estimate:
    """By how much one denoiser is better than another, in dB. The scenes are the same, so chance mostly cancels.

    part: of the brightness range, from 0; None for all of it.
    """
    return _ratio(
        scenes,
        lambda s: _error_of(s, s.denoised[before], part),
        lambda s: _error_of(s, s.denoised[after], part),
    )


def _error_of(scene: SceneError, errors: tuple[float, ...], part: int | None) -> float:
    """The mean error, or what one part of the brightness range adds to it."""
    return scene.whole(errors) if part is None else scene.counts[part] * errors[part]


def _ratio(
    scenes: Sequence[SceneError], above: Callable[[SceneError], float], below: Callable[[SceneError], float]
) -> Estimate:
    """10 log10 of the ratio of the means, with the jackknife's standard error and Student's t."""
    if not scenes:
        raise ValueError("No scene was held out, so nothing can be estimated. Give more scenes.")
    floor = LEAST_SHARE * sum(scene.whole(scene.noisy) for scene in scenes) / len(scenes)

    def decibels(chosen: Sequence[SceneError]) -> float:
        ends = (max(sum(map(each, chosen)) / len(chosen), floor, 1e-300) for each in (above, below))
        first, second = ends
        return 10 * math.log10(first / second)

    value, count = decibels(scenes), len(scenes)
    if count < 2:
        return Estimate(value, -math.inf, math.inf)
    without = [decibels([*rest]) for rest in combinations(scenes, count - 1)]
    middle = sum(without) / count
    error = math.sqrt((count - 1) / count * sum((each - middle) ** 2 for each in without))
    reach = _student(count - 1) * error
    return Estimate(value, value - reach, value + reach)


def _student(freedom: int) -> float:
    """The quantile of Student's t that CONFIDENCE of its values lie below, by size.

    By the expansion in Abramowitz & Stegun, "Handbook of mathematical functions", 1964, formula 26.7.5; the first
    three are exact, since the expansion needs more.
    """
    if freedom <= 3:
        return (12.706, 4.303, 3.182)[freedom - 1]
    x = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
    terms = (
        x,
        (x**3 + x) / 4,
        (5 * x**5 + 16 * x**3 + 3 * x) / 96,
        (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / 384,
    )
    return math.fsum(term / freedom**power for power, term in enumerate(terms))


def _levelled(images: Sequence[Tensor], levels: Sequence[tuple[float, float]]) -> list[Tensor]:
    return [(image - offset) / gain for image, (gain, offset) in zip(images, levels, strict=True)]


def _mean(values: Tensor, where: Tensor) -> float:
    chosen = values[where]
    return float(chosen.mean(dtype=torch.float64)) if len(chosen) else 0.0
