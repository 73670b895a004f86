"""Correlation of noise: whether it is white, and how much of it neighbouring pixels share."""

from engine.inference.noise_estimation.blocks import Blocks, luma_and_chroma
from engine.inference.noise_estimation.config import EstimatorConfig
from engine.inference.noise_estimation.variance import correlated_variance, cosine_basis, variogram


def whiteness_of(small: Blocks, config: EstimatorConfig) -> tuple[list[float], bool, float]:
    """The whiteness of luma, and of chroma for colour; whether the noise is correlated; and its fine variance.

    The fine variance is that at high frequencies, mean over channels.
    """
    # Not only flat blocks: JPEG may have left noise in few of them.
    which, _ = small.flattest(config.whiteness_share)
    x, _ = small.planes(which.flatten())
    bands = ((x.flatten(2) @ cosine_basis(*band)).square() for band in (config.middle_band, config.high_band))
    variances = [band.mean((0, 2)) for band in bands]
    middle, high = (luma_and_chroma(variance) for variance in variances)
    whiteness = (high / middle.clamp(min=config.min_variance)).tolist()
    # Chroma decides if there is any: an image's texture is mostly in luma.
    has_chroma = len(middle) > 1 and middle[1] > config.min_chroma_ratio * middle[0]
    fine = float(variances[1][:3].mean())
    return whiteness, whiteness[1 if has_chroma else 0] < config.min_whiteness, fine


def correlation_of(large: Blocks, config: EstimatorConfig) -> list[tuple[float, float, float]]:
    """Of luma, and of chroma for colour, at distances of 1, 2 and 3 pixels."""
    which, flat = large.flattest(config.correlated_share)
    x, _ = large.planes(which[flat])
    variance = luma_and_chroma(correlated_variance(x, config).mean(0))
    shared = [variance - luma_and_chroma(variogram(x, distance).mean(0)) for distance in (1, 2, 3)]
    # A texture that repeats every 8 pixels has no variance between distant pixels.
    one, two, three = ((each / variance.clamp(min=config.min_variance)).clamp(-1, 1) for each in shared)
    return list(zip(one.tolist(), two.tolist(), three.tolist(), strict=True))
