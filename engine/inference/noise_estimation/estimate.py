"""Result of the noise estimator, and the kind of noise that follows from it."""

import math
from dataclasses import dataclass, field
from typing import Literal

import torch

from engine.imageio.image import WHITE
from engine.inference.noise_estimation.banding import NO_BANDING, Banding
from engine.inference.noise_estimation.config import DEFAULT_CONFIG, EstimatorConfig
from engine.inference.noise_estimation.graphics import GraphicsKind
from engine.inference.noise_estimation.impulses import NO_IMPULSES, Impulses
from engine.inference.noise_estimation.noise_law import LawEstimate

NoiseKind = Literal["white", "camera"]


@dataclass(frozen=True)
class Component:
    """Noise of luma, the mean of the channels, or of chroma, the difference of each channel from it.

    sigma: standard deviation, 0-255 scale; chroma's is the root mean square over channels. The squares of luma's
    and chroma's sigma add up to the mean square of the channels'.
    correlation: of pixels 1, 2 and 3 apart in a row or column. On 16 images with noise of 8 to 50 of 255,
    chroma's is within 0.12 of the truth. Luma's is within 0.15 in most, but texture may add up to 0.4 to it, and
    where the noise reaches over 5 pixels, up to 0.35 is missing.
    whiteness: variance at high frequencies, divided by that at middle ones: 1 to 1.2 for white noise, less for
    correlated noise and for texture.
    """

    sigma: float
    correlation: tuple[float, float, float]
    whiteness: float


@dataclass(frozen=True)
class NoiseLevel:
    """Noise at one brightness, both on the 0-255 scale. sigma: root mean square over channels."""

    brightness: float
    sigma: float


@dataclass(frozen=True)
class NoiseEstimate:
    """The noise of an image: standard deviations on the 0-255 scale, before clipping to black and white.

    sigma: of each channel, root mean square over the image.
    luma, chroma: chroma is None for grey.
    noise_level_function: sigma against brightness, from dark to bright, where the image has flat parts.
    correlated: whether neighbouring pixels share noise. In a clean image, texture looks as if they did.
    flat: share of the image about as flat as the parts that were measured. If it is small, texture may have been
    taken for noise.
    jpeg_blocks: whether the image was coded in blocks of 8 x 8, as JPEG does, and has hardly changed since.
    laws: of each channel, if its noise grows with brightness as photons' does; in the samples' units.
    white: the sample that is 255 on the 0-255 scale. range: between which nearly all samples lie.

    impulses, banding: what was found besides; all else was measured without them.
    fine_sigma: of what differs from pixel to pixel, root mean square over channels: all of white noise, little of
    correlated noise and of texture.
    texture: whether what looked like correlated noise is known to be texture.
    ceiling: the most noise that the image can have, 0-255 scale; infinite if it is not known.
    drawn: the kind of a computer drawing, None for all other images.

    A computer drawing, and an image that is the same everywhere, has sigma 0 and no noise level function. An
    image with a side below 16 pixels, and one that is black or white nearly everywhere, cannot be measured:
    sigma, luma, chroma and correlated are None.
    """

    sigma: tuple[float, ...] | None = None
    luma: Component | None = None
    chroma: Component | None = None
    noise_level_function: tuple[NoiseLevel, ...] = ()
    correlated: bool | None = None
    flat: float = 0.0
    jpeg_blocks: bool = False
    laws: tuple[LawEstimate, ...] = ()
    impulses: Impulses = NO_IMPULSES
    banding: Banding = NO_BANDING
    fine_sigma: float = 0.0
    texture: bool = False
    ceiling: float = math.inf
    drawn: GraphicsKind | None = None
    white: float = field(default=255, compare=False)
    range: tuple[float, float] = field(default=(0, 255), compare=False)

    @property
    def sigma_in_units(self) -> float:
        """Root mean square of the channels' standard deviations, in the samples' units; 0 if unknown."""
        return overall_sigma(self.sigma) / 255 * self.white if self.sigma else 0.0

    @property
    def sigma_of_255(self) -> float:
        """The same, of 255: for 8 bits of white, otherwise of the range, which may be a small part of it."""
        if self.white == WHITE[torch.uint8]:
            return overall_sigma(self.sigma) if self.sigma else 0.0
        return 255 * self.sigma_of_range

    @property
    def sigma_of_range(self) -> float:
        """The same, as a share of the range; 0 for an even image."""
        low, high = self.range
        return self.sigma_in_units / (high - low) if high > low else 0.0


def overall_sigma(sigma: tuple[float, ...]) -> float:
    """Root mean square of the channels' standard deviations."""
    return math.hypot(*sigma) / math.sqrt(len(sigma))


def noise_kind(estimate: NoiseEstimate, config: EstimatorConfig = DEFAULT_CONFIG) -> NoiseKind:
    """The kind of noise that the image should be denoised for.

    "camera" also if the noise cannot be measured. "white" also if there may be none: a network for white noise
    leaves a clean image as it is, while fine texture looks like a camera's noise.
    """
    if estimate.sigma is None or estimate.luma is None:
        return "camera"
    return "white" if not estimate.correlated or may_be_clean(estimate, config) else "camera"


def may_be_clean(estimate: NoiseEstimate, config: EstimatorConfig = DEFAULT_CONFIG) -> bool:
    """Whether what looks like correlated noise may be the texture of a clean image."""
    if estimate.sigma is None or estimate.luma is None or not estimate.correlated:
        return False
    is_little = estimate.sigma_of_255 < config.max_texture_sigma
    return estimate.texture or (is_little and estimate.luma.correlation[0] < config.max_texture_correlation)


def is_doubtful(estimate: NoiseEstimate) -> bool:
    """Whether a trial should tell correlated noise from texture. A camera's JPEG file has the former."""
    return noise_kind(estimate) == "camera" and estimate.sigma is not None and not estimate.jpeg_blocks
