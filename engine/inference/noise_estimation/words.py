"""A noise estimate in words."""

import torch

from engine.imageio.image import WHITE
from engine.inference.noise_estimation.config import DEFAULT_CONFIG, EstimatorConfig
from engine.inference.noise_estimation.estimate import NoiseEstimate, noise_kind, overall_sigma


def summary(estimate: NoiseEstimate) -> str:
    """One line of figures: "white; sigma 24.9 25.1 24.8; luma correlated 0.01 0.00 0.01".

    sigma: of 255 for 8 bits. Otherwise in the samples' units, and the share of the image's range.
    """
    if estimate.sigma is None or estimate.luma is None:
        return "unknown"
    parts = [noise_kind(estimate), f"sigma {_sigmas(estimate, estimate.sigma)}"]
    for name, component in (("luma", estimate.luma), ("chroma", estimate.chroma)):
        if component:
            parts.append(f"{name} correlated " + " ".join(f"{part:.2f}" for part in component.correlation))
    return "; ".join(parts + ["JPEG blocks"] * estimate.jpeg_blocks)


def _sigmas(estimate: NoiseEstimate, sigmas: tuple[float, ...]) -> str:
    if estimate.white == WHITE[torch.uint8]:
        return " ".join(f"{sigma:.1f}" for sigma in sigmas)
    in_units = " ".join(f"{sigma / 255 * estimate.white:.3g}" for sigma in sigmas)
    return f"{in_units} ({100 * estimate.sigma_of_range:.2g} % of the range)"


def sentence(estimate: NoiseEstimate, config: EstimatorConfig = DEFAULT_CONFIG) -> str:
    """For people: "Noise of about 12.2 of 255, in soft grains of several pixels; compressed as JPEG." """
    if estimate.sigma is None:
        return "The noise cannot be measured: the image is too small, or all constant, black or white."
    if not any(estimate.sigma):
        return "No noise: the image looks computer-drawn."
    grains = "in soft grains of several pixels" if estimate.correlated else "in fine grains of single pixels"
    if estimate.sigma_of_255 < config.min_visible_sigma:
        words = f"Hardly any noise, {_level(estimate)}"
    else:
        words = f"Noise of {_level(estimate)}, {grains}"
    if estimate.laws:
        gains, read_noise = (
            " ".join(f"{value:.3g}" for value in values)
            for values in zip(
                *((each.law.gain, each.law.read_variance**0.5) for each in estimate.laws), strict=True
            )
        )
        words += f"; it grows with brightness as photons' does (gain {gains}, read noise {read_noise})"
    return f"{words}; compressed as JPEG." if estimate.jpeg_blocks else f"{words}."


def _level(estimate: NoiseEstimate) -> str:
    """The level in the file's own units."""
    if estimate.white == WHITE[torch.uint8]:
        return f"about {overall_sigma(estimate.sigma or ()):.1f} of 255"
    counts = " counts" if estimate.white > 1 else ""
    return (
        f"about {estimate.sigma_in_units:.3g}{counts}, {100 * estimate.sigma_of_range:.2g} % of the image's range"
    )
