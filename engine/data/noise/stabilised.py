"""Photon noise after the generalised Anscombe transform, on the network's range: as serving presents it.

A sensor's shot is drawn as photons and read noise, stabilised, and mapped to about [0, 1]. Its noise has nearly
one level, but tails and low counts that are not Gaussian. Both views go through the same transform and the same
map. So the network learns the expected value of a stabilised sample, which is what the transform's exact unbiased
inverse takes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.data.noise.anscombe import stabilise
from engine.data.noise.model import (
    NoiseModel,
    Views,
    cpu_generator,
    error_weight,
    grey_mask,
    remove_colour,
    split_batch,
)
from engine.data.patch_store import PatchBatch
from engine.data.rng import log_uniform, uniform

# Photons, drawn evenly on a logarithmic scale: at white, or in half of the scenes at the mean brightness.
PHOTONS = (2.0, 2000.0)
# The mean brightness counts as no less than this: a star field's ground may be a thousandth of white.
LEAST_MEAN = 1e-3
# Read noise in electrons, drawn evenly on a logarithmic scale.
READ_NOISE = (0.05, 5.0)
# Light that reaches every pixel, as a part of the range: the largest, and the share of scenes with any.
MAX_BLACK_LEVEL = 0.5
BLACK_LEVEL_SHARE = 0.5
# Exponents of a scene's brightness. Photos are coded for the eye; 2.2 gives about the light that made them.
EXPONENT = (1.0, 2.2)
# The measured law is off by up to this part, in the gain and in the read noise's variance.
LAW_ERROR = 0.1
# The map's ends are these quantiles of the noisy values, which are off by up to this part of the range.
QUANTILES = (0.001, 0.999)
RANGE_ERROR = 0.05
# Most shots in the mean of a target. Drawing photons is slow: 16 shots took a quarter of a training step.
MAX_TARGET_SHOTS = 6
# Smallest range, in noise levels: pure noise between these quantiles.
MIN_RANGE = 6.0
# Share of scenes that are part of an image with a wider range, and the largest factor.
WIDER_SHARE = 0.5
MAX_WIDER = 8.0


@dataclass(frozen=True)
class PartlyStabilised:
    """A noise model, and stabilised photon noise for a share of the scenes.

    base: the model of the other scenes, with views as large as their scenes. grey, target_views: as in
    GaussianNoise, for the stabilised scenes.
    """

    base: NoiseModel
    share: float
    grey: float = 0.0
    target_views: int = 1

    largest_scale = 1

    def draw_scales(self, count: int, rng: torch.Generator) -> list[int]:
        """Views are as large as their scenes."""
        return [1] * count

    def views(self, scenes: PatchBatch, scale: int, rng: torch.Generator) -> Views:
        """Two views of each scene; each kind of noise gets its part of the batch."""
        chosen, rest = split_batch(len(scenes.boxes.image), (self.share,), cpu_generator(rng))
        parts = []
        if chosen.start < chosen.stop:
            parts.append(self._stabilised(scenes.part(chosen), rng))
        if rest.start < rest.stop:
            parts.append(self.base.views(scenes.part(rest), scale, rng))
        return parts[0] if len(parts) == 1 else Views(*(torch.cat(same) for same in zip(*parts, strict=True)))

    def clean(self, scenes: PatchBatch, scale: int) -> Tensor:
        """Raises NotImplementedError: the map depends on the noise, so the base's scenes serve for validation."""
        raise NotImplementedError("stabilised views have no clean scenes; validate with the base model")

    def _stabilised(self, scenes: PatchBatch, rng: torch.Generator) -> Views:
        is_grey = grey_mask(scenes, self.grey)
        clean = remove_colour(scenes.read(), is_grey)
        if self.grey < 1:
            return stabilised_views(clean, self.target_views, is_grey, rng)
        # Drawing photons takes most of the time, and one channel is enough here.
        noisy, target, weight = stabilised_views(clean[..., :1], self.target_views, None, rng)
        return Views(noisy.repeat(1, 1, 1, 3), target.repeat(1, 1, 1, 3), weight)


def stabilised_views(clean: Tensor, target_views: int, is_grey: Tensor | None, rng: torch.Generator) -> Views:
    """Two views of scenes (N, side, side, C) on [0, 1].

    target_views: how many shots the target is the mean of, up to MAX_TARGET_SHOTS. is_grey: scenes whose channels
    all get the same noise, bool (N,).
    """
    shape = (len(clean), 1, 1, 1)
    rate = _photons(clean, rng)
    read_noise = log_uniform(*READ_NOISE, shape, rng)
    gain, variance_error = uniform(1 - LAW_ERROR, 1 + LAW_ERROR, (2, *shape), rng)
    read_variance = variance_error * read_noise.square()

    def shot() -> Tensor:
        photons = torch.poisson(rate, generator=rng)
        noise = torch.randn(rate.shape, generator=rng, device=rate.device).mul_(read_noise)
        stable = stabilise(photons.add_(noise), gain, 0.0, read_variance)
        return stable if is_grey is None else torch.where(is_grey.view(shape), stable[..., 1:2], stable)

    noisy = shot()
    low, span = _range(noisy, rng)
    scale = 1 / span
    # The mean of the shots, not one with less noise: the transform of a mean is not the mean of transforms.
    count = min(target_views, MAX_TARGET_SHOTS)
    target = shot()
    for _ in range(count - 1):
        target += shot()
    target /= count
    return Views((noisy - low).mul_(scale), (target - low).mul_(scale), error_weight(scale.square().flatten()))


def _photons(clean: Tensor, rng: torch.Generator) -> Tensor:
    """The expected photons of each pixel."""
    shape = (len(clean), 1, 1, 1)
    number, black, at_mean = torch.rand((3, *shape), generator=rng, device=clean.device)
    light = clean.clamp(min=0).pow(uniform(*EXPONENT, shape, rng))
    black = MAX_BLACK_LEVEL * (black - (1 - BLACK_LEVEL_SHARE)).clamp(min=0) / BLACK_LEVEL_SHARE
    light = black + (1 - black) * light
    mean = light.mean((1, 2, 3), keepdim=True).clamp(min=LEAST_MEAN)
    low, high = PHOTONS
    white = torch.pow(high / low, number).mul_(low) / torch.where(at_mean < 0.5, mean, 1.0)
    expected: Tensor = light * white
    return expected


def _range(noisy: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """The value of each channel that becomes 0, (N, 1, 1, C), and the difference that becomes 1, (N, 1, 1, 1)."""
    shape = (len(noisy), 1, 1, 1)
    # Each channel has its own law, and so its own end. Their colours keep one scale.
    low, high = (torch.quantile(noisy.flatten(1, 2), part, 1)[:, None, None] for part in QUANTILES)
    span = (high - low).amax(3, keepdim=True)
    low = low - (MIN_RANGE - span).clamp(min=0) / 2
    span = span.clamp(min=MIN_RANGE)
    wider, place = torch.rand((2, *shape), generator=rng, device=noisy.device)
    # A patch rarely holds the darkest and the brightest pixels of its image.
    whole = span * torch.pow(MAX_WIDER, (wider - (1 - WIDER_SHARE)).clamp(min=0) / WIDER_SHARE)
    error_low, error_span = uniform(-RANGE_ERROR, RANGE_ERROR, (2, *shape), rng) * whole
    return low - place * (whole - span) + error_low, whole + error_span
