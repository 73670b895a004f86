"""Preparation: what is done to an image before the network, and undone after it, as the noise in it asks for.

- An image that is certainly clean, such as a drawing, is not changed at all.
- Impulses are replaced, and a sensor's row and column offsets are removed.
- Measured samples are normalised: see `normalisation`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.data.noise.anscombe import NoiseLaw
from engine.defaults import Output, Switch
from engine.imageio.formats import Format
from engine.imageio.image import WHITE
from engine.inference.noise_estimation import NoiseEstimate
from engine.inference.normalisation import Normalisation, normalisation_for

# Standard deviation of the noise where it is least, in counts, below which whole numbers are too coarse for what
# denoising leaves of it. Rounding adds 0.29 counts.
MIN_COUNTS = 4.0


@dataclass(frozen=True)
class PreparationOptions:
    """Which steps may run. force: also denoise an image that is certainly clean.

    finer: the result may be floats where whole counts are too coarse for it.
    """

    normalise: bool = True
    impulses: bool = True
    banding: bool = True
    force: bool = False
    finer: bool = False

    @classmethod
    def of(cls, normalise: Switch, impulses: Switch, banding: Switch, force: bool) -> "PreparationOptions":
        """From the options of a request."""
        return cls(normalise == "auto", impulses == "auto", banding == "auto", force)


DEFAULT_PREPARATION = PreparationOptions()


@dataclass(frozen=True)
class Preparation:
    """The steps for one image, or for all pages of one file.

    unchanged: why the image comes back as it is, in words; empty if it is denoised.
    keep_mean: whether the mean of each channel stays exactly; the network's is biased at low counts.
    as_float: whether the result is float32, in the same units.
    """

    unchanged: str = ""
    normalisation: Normalisation | None = None
    keep_mean: bool = False
    as_float: bool = False

    def before_network(self, samples: Tensor) -> Tensor:
        """The samples without impulses and banding."""
        return samples

    def as_samples(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        """Floats in the samples' units -> samples of this type; integers are clipped and rounded."""
        if self.as_float or dtype == torch.float32:
            return values
        return values.clamp_(0, WHITE[dtype]).round_().to(dtype)

    @property
    def words(self) -> tuple[str, ...]:
        """What is done, for people."""
        if self.unchanged:
            return (f"unchanged: {self.unchanged}",)
        words = []
        if self.normalisation:
            words.append(self.normalisation.words)
        if self.as_float:
            words.append("32-bit floats, since whole counts are too coarse")
        return tuple(words)


NO_PREPARATION = Preparation()


def prepare(
    samples: Tensor, estimate: NoiseEstimate, options: PreparationOptions = DEFAULT_PREPARATION
) -> Preparation:
    """The steps for an image, and for all other pages of its file, which come from one camera.

    samples: (H, W, C), as an Image has them. estimate: of these samples.
    """
    if not options.normalise:
        return NO_PREPARATION
    laws = channel_laws(estimate, samples.shape[2])
    normalisation = normalisation_for(samples, laws)
    if normalisation is None or not laws:
        return Preparation(normalisation=normalisation)
    least = min(point.sigma for each in estimate.laws for point in each.points)
    as_float = options.finer and samples.dtype == torch.uint16 and least < MIN_COUNTS
    return Preparation(normalisation=normalisation, keep_mean=True, as_float=as_float)


def channel_laws(estimate: NoiseEstimate, channels: int) -> list[NoiseLaw]:
    """The law of each channel, if the noise has any. Grey in three equal channels was measured as one."""
    return [each.law for each in estimate.laws for _ in range(channels // len(estimate.laws))]


def finer_allowed(kind: Format, output: Output) -> bool:
    """Whether a result may be floats: the format must hold them, and show the denoised image."""
    return kind.writes is not None and "float" in kind.writes.depths and output == "clean"
