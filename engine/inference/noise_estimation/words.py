"""A noise estimate in words."""

from engine.inference.noise_estimation.config import DEFAULT_CONFIG, EstimatorConfig
from engine.inference.noise_estimation.estimate import NoiseEstimate, noise_kind, overall_sigma


def summary(estimate: NoiseEstimate) -> str:
    """One line of figures: "white; sigma 24.9 25.1 24.8; luma correlated 0.01 0.00 0.01"."""
    if estimate.sigma is None or estimate.luma is None:
        return "unknown"
    parts = [noise_kind(estimate), "sigma " + " ".join(f"{sigma:.1f}" for sigma in estimate.sigma)]
    for name, component in (("luma", estimate.luma), ("chroma", estimate.chroma)):
        if component:
            parts.append(f"{name} correlated " + " ".join(f"{part:.2f}" for part in component.correlation))
    return "; ".join(parts + ["JPEG blocks"] * estimate.jpeg_blocks)


def sentence(estimate: NoiseEstimate, config: EstimatorConfig = DEFAULT_CONFIG) -> str:
    """For people: "Noise of about 12.2 of 255, in soft grains of several pixels; compressed as JPEG." """
    if estimate.sigma is None:
        return "The noise cannot be measured: the image is too small, or all constant, black or white."
    if not any(estimate.sigma):
        return "No noise: the image looks computer-drawn."
    sigma = overall_sigma(estimate.sigma)
    grains = "soft grains of several pixels" if estimate.correlated else "fine grains of single pixels"
    words = f"Noise of about {sigma:.1f} of 255, in {grains}"
    if sigma < config.min_visible_sigma:
        words = f"Hardly any noise, about {sigma:.1f} of 255"
    return f"{words}; compressed as JPEG." if estimate.jpeg_blocks else f"{words}."
