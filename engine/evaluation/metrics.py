"""Image quality metrics: PSNR and SSIM."""

import torch
from torch import Tensor

# PSNR of equal images, in dB, instead of infinity.
MAX_PSNR = 100.0
# Side of SSIM's window, in pixels.
SSIM_WINDOW = 11
# Standard deviation of SSIM's window, in pixels.
SSIM_SIGMA = 1.5


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
