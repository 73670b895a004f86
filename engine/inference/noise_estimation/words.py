"""A noise estimate in words."""

import torch

from engine.imageio.image import WHITE
from engine.inference.noise_estimation.config import DEFAULT_CONFIG, EstimatorConfig
from engine.inference.noise_estimation.estimate import NoiseEstimate, noise_kind, overall_sigma


def figure(value: float, digits: int = 3) -> str:
    """A number for people, of so many significant digits. Exponents begin at a million: 3060, not 3.06e+03."""
    return f"{float(f'{value:.{digits}g}'):g}"


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
    in_units = " ".join(figure(sigma / 255 * estimate.white) for sigma in sigmas)
    return f"{in_units} ({figure(100 * estimate.sigma_of_range, 2)} % of the range)"


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
            " ".join(figure(value) for value in values)
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
    level, share = figure(estimate.sigma_in_units), figure(100 * estimate.sigma_of_range, 2)
    return f"about {level}{counts}, {share} % of the image's range"
