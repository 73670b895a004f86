"""Preparation: what is done to an image before the network, and undone after it, as the noise in it asks for.

- An image that is certainly clean, such as a drawing, is not changed at all.
- Impulses are replaced, and a sensor's row and column offsets are removed.
- Measured samples are normalised: see `normalisation`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from engine.data.noise.anscombe import NoiseLaw
from engine.defaults import Output, Switch
from engine.imageio.formats import Format
from engine.imageio.image import WHITE, Image
from engine.inference.noise_estimation import NoiseEstimate, estimate_noise, may_be_clean, overall_sigma
from engine.inference.noise_estimation.banding import NO_BANDING, Banding, remove_banding
from engine.inference.noise_estimation.graphics import GraphicsKind, graphics_kind
from engine.inference.noise_estimation.impulses import NO_IMPULSES, Impulses, replace_impulses
from engine.inference.noise_estimation.pages import typical_page
from engine.inference.noise_estimation.value_range import only_channel
from engine.inference.normalisation import Normalisation, normalisation_for

# Ceiling of the noise up to which the change is bounded by it: a share of white, or of the range of an image that
# has an offset.
MAX_BOUNDED = 4 / 255
# Of an image that may be clean, the share of what differs from pixel to pixel that counts as noise.
CLEAN_SHARE = 0.5
# Standard deviation of the noise where it is least, in counts, below which whole numbers are too coarse for what
# denoising leaves of it. Rounding adds 0.29 counts. Bytes become floats, four times as large, only where rounding
# would change the total: with 2 photons at the brightest it took 45 % of it.
MIN_COUNTS = 4.0
MIN_COUNTS_OF_TOTAL = 1.0


@dataclass(frozen=True)
class PreparationOptions:
    """Which steps may run. force: also denoise an image that is certainly clean.

    finer: the result may be floats where whole counts are too coarse for it.
    counts: the samples are whole counts, though they may be held as floats.
    """

    normalise: bool = True
    impulses: bool = True
    banding: bool = True
    force: bool = False
    finer: bool = False
    counts: bool = False

    @classmethod
    def of(cls, normalise: Switch, impulses: Switch, banding: Switch, force: bool) -> "PreparationOptions":
        """From the options of a request."""
        return cls(normalise == "auto", impulses == "auto", banding == "auto", force)


_DRAWN: Mapping[GraphicsKind, str] = {
    "two-valued": "an image of two values",
    "palette": "a drawing in few colours",
    "computer-drawn": "a computer drawing",
}

DEFAULT_PREPARATION = PreparationOptions()


@dataclass(frozen=True)
class Preparation:
    """The steps for one image.

    unchanged: why the image comes back as it is, in words; empty if it is denoised.
    impulses, banding: what is taken away before the network, if there is any.
    max_change: in samples, the largest root mean square of the change in any region; infinite without a bound.
    keep_mean: whether the mean of each channel stays exactly; the network's is biased at low counts.
    as_float: whether the result is float32, in the same units. coarse: whether it is rounded to whole counts that
    are too coarse for its total. channel: the only one that holds an image, if the others are the same
    everywhere; the network sees it alone, as grey.
    """

    unchanged: str = ""
    impulses: Impulses = NO_IMPULSES
    banding: Banding = NO_BANDING
    max_change: float = math.inf
    normalisation: Normalisation | None = None
    keep_mean: bool = False
    as_float: bool = False
    coarse: bool = False
    channel: int | None = None

    def before_network(self, samples: Tensor) -> Tensor:
        """The samples without impulses and banding."""
        seen = self.seen(samples)
        without = remove_banding(replace_impulses(seen, self.impulses)[0], self.banding)
        return without if self.channel is None else self.with_seen(samples, without)

    def seen(self, samples: Tensor) -> Tensor:
        """The channels (H, W, 1 or C) of the samples (H, W, C) that the network sees. A view."""
        return samples if self.channel is None else samples[..., self.channel : self.channel + 1]

    def with_seen(self, samples: Tensor, seen: Tensor) -> Tensor:
        """The samples (H, W, C) with these channels in place of those that the network sees.

        The result has the type of `seen`.
        """
        if self.channel is None:
            return seen
        whole = samples.to(seen.dtype, copy=True)
        whole[..., self.channel] = seen[..., 0]
        return whole

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
        if self.impulses.confident:
            words.append(f"impulses replaced ({100 * self.impulses.share:.2g} % of the samples)")
        if self.banding.confident:
            words.append("row and column offsets removed")
        if self.normalisation:
            words.append(self.normalisation.words)
        if self.as_float:
            words.append("32-bit floats, since whole counts are too coarse")
        if self.coarse:
            words.append("rounded to whole counts, which changes the total of so few; format=tiff gives floats")
        return tuple(words)


NO_PREPARATION = Preparation()


def prepare(
    samples: Tensor, estimate: NoiseEstimate, options: PreparationOptions = DEFAULT_PREPARATION
) -> Preparation:
    """The steps for an image.

    samples: (H, W, C), as an Image has them. estimate: of these samples.
    """
    if estimate.drawn and not options.force:
        return _unchanged(estimate.drawn)
    first = Preparation(
        impulses=estimate.impulses if options.impulses else NO_IMPULSES,
        banding=estimate.banding if options.banding else NO_BANDING,
        channel=only_channel(samples),
    )
    laws = channel_laws(estimate, first.seen(samples).shape[2]) if options.normalise else []
    # Without impulses, which would count as the ends of the image's range.
    seen = first.seen(first.before_network(samples))
    normalisation = normalisation_for(seen, laws) if options.normalise else None
    keep_mean = bool(laws and normalisation)
    span = normalisation.span if normalisation and not laws else estimate.white
    least = min((point.sigma for each in estimate.laws for point in each.points), default=math.inf)
    in_counts = keep_mean and (options.counts or samples.dtype != torch.float32)
    too_coarse = MIN_COUNTS_OF_TOTAL if samples.dtype == torch.uint8 else MIN_COUNTS
    return replace(
        first,
        max_change=_max_change(estimate, span) if not options.force else math.inf,
        normalisation=normalisation,
        keep_mean=keep_mean,
        as_float=in_counts and options.finer and least < too_coarse,
        coarse=in_counts and not options.finer and least < MIN_COUNTS_OF_TOTAL,
    )


def prepare_pages(
    pages: Sequence[Tensor], estimate: NoiseEstimate, options: PreparationOptions
) -> list[Preparation]:
    """The steps for each page of a file. Pages come from one camera, so they share those of the typical page.

    pages: samples (H, W, C), as an Image has them. estimate: of all pages. A page that is drawn or blank stays as
    it is. A page of another depth, or with other channels, has steps of its own.
    """
    return [*map(page_preparer(pages, estimate, options), pages)]


def page_preparer(
    pages: Sequence[Tensor], estimate: NoiseEstimate, options: PreparationOptions
) -> Callable[[Tensor], Preparation]:
    """Gives the steps for each page of a file; see `prepare_pages`.

    pages: those that the noise was measured in, which need not be all.
    """
    typical = typical_page(pages)
    shared = prepare(typical, estimate, options)

    def steps(page: Tensor) -> Preparation:
        if page is typical:
            return shared
        if not options.force and (drawn := graphics_kind(page)):
            return _unchanged(drawn, shared.as_float)
        alike = not shared.unchanged and (page.dtype, page.shape[2]) == (typical.dtype, typical.shape[2])
        alike = alike and only_channel(page) == shared.channel
        return shared if alike else prepare(page, estimate_noise(page), options)

    return steps


def words_of(preparations: Sequence[Preparation]) -> tuple[str, ...]:
    """What is done with a file, for people: with the first page that is not left unchanged, if there is one."""
    return next((each.words for each in preparations if not each.unchanged), preparations[0].words)


def _unchanged(drawn: GraphicsKind, as_float: bool = False) -> Preparation:
    return Preparation(unchanged=f"{_DRAWN[drawn]} is certainly clean", as_float=as_float)


def _max_change(estimate: NoiseEstimate, span: float) -> float:
    """The most that the image may change, in samples. Noise is little here; what is more would be detail.

    Infinite where noise is not little, and where it differs with brightness.
    span: of the image, in samples.
    """
    if estimate.laws:
        return math.inf
    white = overall_sigma(estimate.sigma) if estimate.sigma and not estimate.correlated else math.inf
    clean = CLEAN_SHARE * estimate.fine_sigma if may_be_clean(estimate) else math.inf
    most = min(estimate.ceiling, white, clean)
    in_samples = most / 255 * estimate.white
    return in_samples if in_samples < MAX_BOUNDED * span else math.inf


def channel_laws(estimate: NoiseEstimate, channels: int) -> list[NoiseLaw]:
    """The law of each channel, if the noise has any. Grey in three equal channels was measured as one."""
    return [each.law for each in estimate.laws for _ in range(channels // len(estimate.laws))]


def steps_for(
    options: PreparationOptions, kind: Format, output: Output, pages: Sequence[Image]
) -> PreparationOptions:
    """The options for a file of these pages. kind: the format that it is written in.

    A result may be floats if the format holds them and it shows the denoised image. All pages must have one type,
    and none transparency, which would have another scale than the floats.
    """
    may = holds_floats(kind) and output == "clean"
    types = {(page.samples.dtype, page.stored) for page in pages}
    alike = len(types) == 1 and all(page.alpha is None for page in pages)
    return replace(options, finer=may and alike, counts=all(page.in_counts for page in pages))


def holds_floats(kind: Format) -> bool:
    """Whether files of this format may have samples in floating point."""
    return kind.writes is not None and "float" in kind.writes.depths
