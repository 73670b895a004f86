"""Adapted noise: the noise that weights were adapted to, as their metadata carries it.

It is what the estimator of serving measures in the noisy shots, not what is known besides: texture misleads the
estimator in the same way in shots and in later images, so both are compared alike.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from engine.data.noise.anscombe import NoiseLaw
from engine.inference.noise_estimation import NoiseEstimate
from engine.inference.noise_estimation.noise_law import Interval, LawEstimate, LawPoint
from engine.inference.noise_estimation.words import figure

# Keys in the metadata of weights: the law of all scenes together, all about the noise, and the gate's verdict.
LAW_KEY = "noise law"
NOISE_KEY = "adapted noise"
GATE_KEY = "gate"
PASSED = "passed"
REFUSED = "refused"
# The types of samples, and what they are called.
SAMPLES: Mapping[str, str] = {"uint8": "8-bit", "uint16": "16-bit", "float32": "floating-point"}
CHANNELS: Mapping[int, str] = {1: "grey", 3: "colour"}
# Correlation of neighbouring pixels from which on it is told.
MIN_TOLD_CORRELATION = 0.05

# The law of each channel.
Laws = tuple[NoiseLaw, ...]


@dataclass(frozen=True)
class AdaptedNoise:
    """The noise of the shots that weights were adapted to, in the samples' units.

    channels: 1 for grey, 3 for colour. samples: their type, a key of SAMPLES.
    laws: of the scenes, each with a law for each channel. The first is that of all scenes together; others follow
    if files were stretched one by one. Empty if the noise has no law, and then training has used no transform.
    levels: brightness and standard deviation, from dark to bright; of noise without a law.
    correlation: of pixels 1, 2 and 3 apart; zeros for white noise.
    share: the least and the largest standard deviation of a shot, as a share of its range of brightness.
    brightness: between which values the shots lie. jpeg_blocks: share of the shots that were JPEG files.
    """

    channels: int
    samples: str
    laws: tuple[Laws, ...]
    levels: tuple[tuple[float, float], ...]
    correlation: tuple[float, float, float]
    share: tuple[float, float]
    brightness: tuple[float, float]
    jpeg_blocks: float = 0.0

    def sigma_at(self, brightness: float, channel: int | None, laws: Laws = ()) -> float:
        """Standard deviation of the noise at a brightness.

        channel: None for the root mean square over channels. laws: one of `self.laws`, if there are any.
        """
        if not laws:
            known, sigmas = zip(*self.levels, strict=True)
            return float(np.interp(brightness, known, sigmas))
        chosen = laws if channel is None else (laws[channel],)
        return math.sqrt(sum(_variance(law, brightness) for law in chosen) / len(chosen))

    @property
    def words(self) -> str:
        """For people: "Adapted to grey 16-bit images with noise of about 25 at 1000 to 1250"."""
        low, high = (figure(value) for value in self.brightness)
        kind = f"{CHANNELS[self.channels]} {SAMPLES[self.samples]} images"
        noise = _law_words(self.laws) if self.laws else f"noise of {_level_words(self.levels)}"
        parts = [f"Adapted to {kind} of brightness {low} to {high} with {noise}"]
        if abs(self.correlation[0]) >= MIN_TOLD_CORRELATION:
            parts.append(f"shared by neighbouring pixels (correlation {self.correlation[0]:.2f})")
        if self.jpeg_blocks:
            parts.append("compressed as JPEG")
        return ", ".join(parts)

    def to_metadata(self) -> dict[str, str]:
        """For weights."""
        values = {**asdict(self), "laws": [_numbers(each) for each in self.laws]}
        return {NOISE_KEY: json.dumps(values)}


def laws_to_metadata(laws: Laws) -> dict[str, str]:
    """For weights: the law of all scenes. {} without laws."""
    return {LAW_KEY: json.dumps(_numbers(laws))} if laws else {}


def noise_in(metadata: Mapping[str, str]) -> AdaptedNoise | None:
    """The noise that weights carry; None for weights that were not adapted.

    Raises ValueError for a noise that cannot be read.
    """
    if NOISE_KEY not in metadata:
        return None
    try:
        found = json.loads(metadata[NOISE_KEY])
        noise = AdaptedNoise(
            channels=int(found["channels"]),
            samples=str(found["samples"]),
            laws=tuple(_laws(each) for each in found["laws"]),
            levels=tuple((float(x), float(sigma)) for x, sigma in found["levels"]),
            correlation=_three(found["correlation"]),
            share=_two(found["share"]),
            brightness=_two(found["brightness"]),
            jpeg_blocks=float(found["jpeg_blocks"]),
        )
        _check(noise)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(
            f"the noise that the weights were adapted to cannot be read from {NOISE_KEY!r} in their metadata: "
            f"{error}. Adapt them again, or leave it out"
        ) from error
    return noise


def may_be_chosen(metadata: Mapping[str, str]) -> bool:
    """Whether `auto` may choose the weights: they carry their noise, and the gate has let them pass."""
    return NOISE_KEY in metadata and metadata.get(GATE_KEY) == PASSED


def choosable(metadata: Mapping[str, Mapping[str, str]]) -> dict[str, AdaptedNoise]:
    """The weights that `auto` may choose, with their noise. metadata: by the weights' names.

    Those whose noise cannot be read are left out.
    """
    found = {}
    for name, values in metadata.items():
        try:
            noise = noise_in(values) if may_be_chosen(values) else None
        except ValueError:
            continue
        if noise:
            found[name] = noise
    return found


def laws_in(metadata: Mapping[str, str]) -> Laws:
    """The noise law of all scenes that weights carry, one for each channel; () if they carry none.

    Raises ValueError for a law that cannot be read.
    """
    try:
        return _laws(json.loads(metadata.get(LAW_KEY, "[]")))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"The noise law in the weights cannot be read: {metadata[LAW_KEY]!r}. "
            "Expected a list of [gain, pedestal, variance of the read noise], one for each channel."
        ) from error


def noise_words(metadata: Mapping[str, str]) -> str:
    """The noise that weights were adapted to, for people. Empty if they carry none that can be read."""
    try:
        noise = noise_in(metadata)
        if noise:
            return f"{noise.words}."
        laws = laws_in(metadata)
    except ValueError:
        return ""
    return f"Adapted to {_law_words((laws,))}." if laws else ""


def known_law(law: NoiseLaw, brightness: Sequence[float]) -> LawEstimate:
    """A law that is known, as the estimator would give it. brightness: values of an image, darkest first."""
    sigmas = [math.sqrt(_variance(law, x)) for x in brightness]
    read_noise = math.sqrt(law.read_variance)
    return LawEstimate(
        law=law,
        gain=Interval(law.gain, law.gain),
        read_noise=Interval(read_noise, read_noise),
        pedestal=Interval(law.pedestal, law.pedestal),
        growth=sigmas[-1] / sigmas[0] if sigmas[0] > 0 else math.inf,
        clipped=(False, False),
        points=tuple(LawPoint(x, sigma, 0.0) for x, sigma in zip(brightness, sigmas, strict=True)),
        confident=True,
    )


def samples_type(samples: Tensor) -> str:
    """The type of samples, as a key of SAMPLES."""
    return str(samples.dtype).removeprefix("torch.")


def channels_of(estimate: NoiseEstimate) -> int:
    """1 for an image that is grey, also in three equal channels; 3 for colour."""
    return 1 if estimate.chroma is None else 3


def correlation_of(estimate: NoiseEstimate) -> tuple[float, float, float]:
    """Of the noise of neighbouring pixels: zeros where it is white, since texture looks correlated."""
    return estimate.luma.correlation if estimate.correlated and estimate.luma else (0.0, 0.0, 0.0)


def share_of(estimate: NoiseEstimate) -> float:
    """Standard deviation of the noise as a share of what the network sees as the range."""
    return estimate.sigma_of_255 / 255


def _check(noise: AdaptedNoise) -> None:
    """Raises ValueError for values that no weights have."""
    numbers = [*noise.correlation, *noise.share, *noise.brightness, noise.jpeg_blocks]
    numbers += [value for level in noise.levels for value in level]
    numbers += [value for laws in noise.laws for law in laws for value in asdict(law).values()]
    if not all(map(math.isfinite, numbers)):
        raise ValueError("a value is not finite")
    if noise.channels not in CHANNELS or noise.samples not in SAMPLES:
        raise ValueError(f"there are no images of {noise.channels} channels of {noise.samples}")
    if not noise.laws and not noise.levels:
        raise ValueError("it has neither a law nor levels")
    if any(len(laws) != noise.channels for laws in noise.laws):
        raise ValueError(f"a law is not for {noise.channels} channels")
    if any(law.gain <= 0 or law.read_variance < 0 for laws in noise.laws for law in laws):
        raise ValueError("a law has no gain, or a negative variance")
    if any(sigma <= 0 for _, sigma in noise.levels) or noise.share[0] <= 0:
        raise ValueError("a standard deviation is not positive")


def _variance(law: NoiseLaw, brightness: float) -> float:
    return float(law.variance(torch.tensor(brightness)))


def _numbers(laws: Laws) -> list[list[float]]:
    return [[law.gain, law.pedestal, law.read_variance] for law in laws]


def _laws(numbers: Sequence[Sequence[float]]) -> Laws:
    return tuple(NoiseLaw(*map(float, law)) for law in numbers)


def _two(values: Sequence[float]) -> tuple[float, float]:
    low, high = map(float, values)
    return low, high


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    first, second, third = map(float, values)
    return first, second, third


def _law_words(laws: tuple[Laws, ...]) -> str:
    gains, read_noises, pedestals = (
        " ".join(figure(value) for value in values)
        for values in zip(*((law.gain, law.read_variance**0.5, law.pedestal) for law in laws[0]), strict=True)
    )
    words = f"noise that grows with brightness as photons' does (gain {gains}, read noise {read_noises}, "
    words += f"black at {pedestals})"
    if len(laws) > 1:
        middle = [each[len(each) // 2].gain for each in laws]
        words += f", stretched file by file (gain {figure(min(middle))} to {figure(max(middle))})"
    return words


def _level_words(levels: Sequence[tuple[float, float]]) -> str:
    low, high = (figure(end(sigma for _, sigma in levels)) for end in (min, max))
    return f"about {low}" if low == high else f"about {low} to {high}"
