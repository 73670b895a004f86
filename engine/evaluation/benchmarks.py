"""What weights are judged by: the standard sets, each with its noise, from one folder that holds them by name."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from engine.data.patterns import patterns
from engine.data.rng import seeded_generator
from engine.evaluation.evaluate import (
    Pair,
    Sample,
    Score,
    gaussian_samples,
    recorded_samples,
    with_noise,
)
from engine.imageio.image import LUMA
from engine.imageio.read import image_files, read_rgb

# The noise of the first image of PolyU in order of name, and of every fifth after it, was measured when noise
# models were made: the others are reported apart.
MEASURED_EVERY = 5
# How many images of patterns are drawn.
PATTERNS = 24
# Their side in pixels.
PATTERN_SIDE = 256
# Their seed, which no training uses.
PATTERNS_SEED = 2**50


@dataclass(frozen=True)
class Trial:
    """One set with one noise. level: sigma of its white noise, 0-255 scale, None for other noise.

    apart: which of the images, by their place, are reported in a row of their own too, and its name.
    """

    set: str
    noise: str
    samples: Sequence[Sample]
    level: float | None = None
    apart: tuple[str, Callable[[int], bool]] | None = None

    def first(self, limit: int | None) -> "Trial":
        """The trial with only the first so many images."""
        return replace(self, samples=self.samples[:limit])

    def pairs(self) -> Iterator[Pair]:
        """The images, each opened when it is its turn."""
        return (sample.open() for sample in self.samples)

    def parts(self, scores: Sequence[Score]) -> Iterator[tuple[str, list[Score]]]:
        """The rows, each with the set's name in it, of the scores of all images."""
        yield self.set, list(scores)
        if self.apart:
            name, wanted = self.apart
            if some := [score for place, score in enumerate(scores) if wanted(place)]:
                yield name, some


def trials(folder: Path) -> tuple[list[Trial], list[str]]:
    """The trials that the folder has the images for, and those on patterns; the names of the sets that it lacks.

    Raises ValueError naming the folder if it has none of the sets.
    """
    there = {name: folder / name for name in ("cbsd68", "kodak24", "polyu", "paper/val.pkl")}
    missing = [name for name, path in there.items() if not path.exists()]
    if len(missing) == len(there):
        raise ValueError(f"{folder}: has none of the sets {', '.join(there)}")
    rows: list[tuple[str, Callable[[Path], Trial]]] = [
        *((name, partial(white, sigma=sigma)) for name in ("cbsd68", "kodak24") for sigma in (15, 25, 50)),
        ("polyu", _real),
        ("kodak24", partial(_in_bytes, sigma=25)),
        ("cbsd68", partial(_grey, sigma=25)),
        ("kodak24", _noiseless),
        ("paper/val.pkl", recorded),
    ]
    found = [replace(make(there[name]), set=name) for name, make in rows if name not in missing]
    return [*found, _patterned(25), replace(_patterned(0), noise="none", level=None)], missing


def white(folder: Path, sigma: float) -> Trial:
    """White noise on the folder's clean images."""
    return Trial(folder.resolve().name, f"white {sigma:g}", gaussian_samples(folder, sigma), sigma)


def recorded(path: Path) -> Trial:
    """Pairs as they come."""
    return Trial(path.resolve().name, "recorded", recorded_samples(path))


def _real(folder: Path) -> Trial:
    apart = "polyu apart", lambda place: place % MEASURED_EVERY != 0
    return replace(recorded(folder), noise="camera", apart=apart)


def _in_bytes(folder: Path, sigma: float) -> Trial:
    """White noise in a file of 8 bits, which clips it: what is sent over HTTP."""
    samples = [replace(each, open=partial(_clipped, each)) for each in gaussian_samples(folder, sigma)]
    return Trial(folder.name, f"8-bit {sigma:g}", samples)


def _grey(folder: Path, sigma: float) -> Trial:
    """The images' luma in three equal channels, and one noise in all of them."""
    samples = [Sample(file.stem, partial(_luma, file, sigma)) for file in image_files(folder)]
    return Trial(folder.name, f"grey {sigma:g}", samples)


def _noiseless(folder: Path) -> Trial:
    return replace(white(folder, 0), noise="none", level=None)


def _patterned(sigma: float) -> Trial:
    """White noise on stripes, checks, dots and text."""
    samples = [Sample(f"pattern {number}", partial(_pattern, number, sigma)) for number in range(1, PATTERNS + 1)]
    return Trial("patterns", f"white {sigma:g}", samples, sigma)


def _pattern(number: int, sigma: float) -> Pair:
    clean = patterns(PATTERN_SIDE, PATTERN_SIDE, seeded_generator(PATTERNS_SEED, number)).float() / 255
    # The noise is drawn from this name: another would change the figures measured so far.
    return with_noise(clean, f"print {number}", sigma), clean


def _clipped(sample: Sample) -> Pair:
    noisy, clean = sample.open()
    return _as_bytes(noisy), clean


def _luma(file: Path, sigma: float) -> Pair:
    colour = read_rgb(file).float() / 255
    clean = _as_bytes(colour @ torch.tensor(LUMA)).unsqueeze(2).expand(-1, -1, 3).contiguous()
    return with_noise(clean, file.name, sigma, channels=1), clean


def _as_bytes(x: Tensor) -> Tensor:
    """What is left of numbers on [0, 1] in 8 bits."""
    return (x.clamp(0, 1) * 255).round() / 255
