"""Image quality metrics: PSNR and SSIM; and of measured images, errors in the units of their samples."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

# PSNR of equal images, in dB, instead of infinity.
MAX_PSNR = 100.0
# Side of SSIM's window, in pixels.
SSIM_WINDOW = 11
# Standard deviation of SSIM's window, in pixels.
SSIM_SIGMA = 1.5
# Into how many equal ranges of the true brightness the bias is divided, and the fewest pixels of one that counts.
BIAS_RANGES = 20
BIAS_PIXELS = 100
# Parts of the span: the ground is up to this much brighter than the darkest pixel.
GROUND_PART = 2.5e-4
# The flux is that of pixels which are this much brighter than no light.
FLUX_PART = 0.065


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio in dB, for images on the [0, 1] scale; MAX_PSNR at most."""
    return float(psnr_each(a.unsqueeze(0), b.unsqueeze(0)))


def ssim(a: Tensor, b: Tensor) -> float:
    """Structural similarity of two images (H, W, C) on the [0, 1] scale: mean over pixels and channels.

    Only pixels whose whole window lies within the image count; raises ValueError if there are none.
    Source: Wang et al., "Image quality assessment: from error visibility to structural similarity", 2004.
    """
    return float(ssim_each(a.unsqueeze(0), b.unsqueeze(0)))


def psnr_each(a: Tensor, b: Tensor) -> Tensor:
    """PSNR of each pair of images: (N, H, W, C) twice -> (N,)."""
    if a.shape != b.shape:
        raise ValueError(f"images must have the same shape; got {tuple(a.shape)} and {tuple(b.shape)}")
    # In double precision, as these are means over millions of pixels.
    error = (a.double() - b.double()).square().mean((1, 2, 3))
    return (-10 * error.log10()).clamp(max=MAX_PSNR)


def ssim_each(a: Tensor, b: Tensor) -> Tensor:
    """SSIM of each pair of images: (N, H, W, C) twice -> (N,)."""
    if min(a.shape[1:3]) < SSIM_WINDOW:
        raise ValueError(
            f"SSIM needs images of at least {SSIM_WINDOW} x {SSIM_WINDOW} pixels; got {a.shape[2]} x {a.shape[1]}"
        )
    # The paper's constants C1 and C2 for a range of 1.
    c1, c2 = 0.01**2, 0.03**2
    a, b = a.double(), b.double()
    mean_a, mean_b = _blur(a), _blur(b)
    variances = _blur(a * a) + _blur(b * b) - mean_a.square() - mean_b.square()
    covariance = _blur(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + c1) / (mean_a.square() + mean_b.square() + c1)
    structure = (2 * covariance + c2) / (variances + c2)
    return (luminance * structure).mean((1, 2, 3))


def _blur(x: Tensor) -> Tensor:
    """The paper's Gaussian window, wherever it lies within the image."""
    half = SSIM_WINDOW // 2
    offset = torch.arange(-half, half + 1, dtype=x.dtype)
    weights = (-offset.square() / (2 * SSIM_SIGMA**2)).exp()
    weights = weights / weights.sum()
    for axis in (1, 2):
        length = x.shape[axis] - len(weights) + 1
        x = sum(
            (w * x.narrow(axis, i, length) for i, w in enumerate(weights[1:], 1)),
            weights[0] * x.narrow(axis, 0, length),
        )
    return x


# Measured images


class MeasuredImage(NamedTuple):
    """A measured image, float64 (H, W) or (H, W, 3) each, in the units of its samples.

    low: the value of no light. span: the range that errors are parts of.
    """

    noisy: Tensor
    output: Tensor
    truth: Tensor
    low: float
    span: float


def _rmse(image: MeasuredImage) -> float:
    return float((image.output - image.truth).square().mean().sqrt()) / image.span


def _total(image: MeasuredImage) -> float:
    """The sum of light after denoising, over the true one."""
    return float((image.output - image.low).sum() / (image.truth - image.low).sum())


def _flux(image: MeasuredImage) -> float:
    """Likewise, of the bright pixels alone."""
    bright = image.truth - image.low > FLUX_PART * image.span
    return float((image.output - image.low)[bright].sum() / (image.truth - image.low)[bright].sum())


def _ground(image: MeasuredImage) -> float:
    """The standard deviation of the error on the ground, in the units of the samples."""
    dark = image.truth < image.truth.min() + GROUND_PART * image.span
    return float((image.output - image.truth)[dark].std())


def _bias(image: MeasuredImage) -> float:
    """The largest mean error, in parts of the span, over ranges of the true brightness."""
    truth = image.truth.flatten()
    part = (truth - truth.min()) / (truth.max() - truth.min()).clamp(min=1e-12)
    index = (part * BIAS_RANGES).long().clamp(max=BIAS_RANGES - 1)
    pixels = torch.bincount(index, minlength=BIAS_RANGES)
    error = torch.bincount(index, image.output.flatten() - truth, BIAS_RANGES)
    counted = pixels >= min(BIAS_PIXELS, len(index) // BIAS_RANGES)
    return float((error / pixels.clamp(min=1))[counted].abs().max()) / image.span


def _changed(image: MeasuredImage) -> float:
    """The share of pixels that differ from the noisy image's in any channel."""
    differs = image.output != image.noisy
    return float((differs.any(2) if differs.dim() == 3 else differs).double().mean())


def _fitted_gain(image: MeasuredImage) -> float:
    """How many dB closer the output is to the truth, once the truth's gain and offset fit the noisy image."""
    x, y = image.truth - image.truth.mean(), image.noisy - image.noisy.mean()
    truth = image.noisy.mean() + (x * y).mean() / x.square().mean().clamp(min=1e-12) * x
    before, after = ((each - truth).square().mean() for each in (image.noisy, image.output))
    return float(10 * (before / after.clamp(min=1e-12)).log10())


# Further figures of measured images, by name.
FIGURES: Mapping[str, Callable[[MeasuredImage], float]] = {
    "rmse": _rmse,
    "total": _total,
    "flux": _flux,
    "ground": _ground,
    "bias": _bias,
    "changed": _changed,
    "fitted_gain": _fitted_gain,
}
