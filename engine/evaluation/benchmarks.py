"""Benchmarks: the standard sets, each with its noise, from one folder that holds them by name."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from engine.data.patterns import patterns
from engine.data.registration import measure_shift, move
from engine.data.rng import seeded_generator
from engine.evaluation.samples import Pair, Sample, gaussian_samples, recorded_samples, with_noise
from engine.imageio.image import LUMA
from engine.imageio.read import image_files, read_rgb

# The noise models were made from measurements of every fifth image of PolyU, in order of name, from the first on.
# The other images are also reported in a row of their own.
MEASURED_EVERY = 5
# How many images of patterns are drawn.
PATTERNS = 24
# Their side in pixels.
PATTERN_SIDE = 256
# Their seed, which no training uses.
PATTERNS_SEED = 2**50

T = TypeVar("T")


@dataclass(frozen=True)
class Trial:
    """One set with one noise. level: sigma of its white noise, 0-255 scale, None for other noise.

    subset: the name of a further row, and whether the image at an index belongs to it.
    """

    set: str
    noise: str
    samples: Sequence[Sample]
    level: float | None = None
    subset: tuple[str, Callable[[int], bool]] | None = None

    def first(self, limit: int | None) -> "Trial":
        """The trial with only its first `limit` images."""
        return replace(self, samples=self.samples[:limit])

    def pairs(self) -> Iterator[Pair]:
        """The images, opened one by one."""
        return (sample.open() for sample in self.samples)

    def parts(self, values: Sequence[T]) -> Iterator[tuple[str, list[T]]]:
        """The set's name with all values, one an image, and the subset's name with its values, if it has any."""
        yield self.set, list(values)
        if self.subset:
            name, belongs = self.subset
            if some := [value for index, value in enumerate(values) if belongs(index)]:
                yield name, some


def trials(folder: Path) -> tuple[list[Trial], list[str]]:
    """The trials on the folder's sets and on patterns, and the names of the sets that the folder lacks.

    Raises ValueError naming the folder if it has none of the sets.
    """
    paths = {name: folder / name for name in ("cbsd68", "kodak24", "polyu", "paper/val.pkl")}
    missing = [name for name, path in paths.items() if not path.exists()]
    if len(missing) == len(paths):
        raise ValueError(f"{folder}: has none of the sets {', '.join(paths)}")
    rows: list[tuple[str, Callable[[Path], Trial]]] = [
        *((name, partial(white, sigma=sigma)) for name in ("cbsd68", "kodak24") for sigma in (15, 25, 50)),
        ("polyu", _polyu),
        ("polyu", _polyu_in_place),
        ("kodak24", partial(_rounded, sigma=25)),
        ("cbsd68", partial(_grey, sigma=25)),
        ("kodak24", _noiseless),
        ("paper/val.pkl", recorded),
    ]
    found = [replace(make(paths[name]), set=name) for name, make in rows if name not in missing]
    return [*found, _patterns(25), replace(_patterns(0), noise="none", level=None)], missing


def white(folder: Path, sigma: float) -> Trial:
    """White noise on the folder's clean images."""
    return Trial(folder.resolve().name, f"white {sigma:g}", gaussian_samples(folder, sigma), sigma)


def recorded(path: Path) -> Trial:
    """Recorded pairs."""
    return Trial(path.resolve().name, "recorded", recorded_samples(path))


def _polyu(folder: Path) -> Trial:
    subset = "polyu apart", lambda index: index % MEASURED_EVERY != 0
    return replace(recorded(folder), noise="camera", subset=subset)


def _polyu_in_place(folder: Path) -> Trial:
    """PolyU with each mean image moved onto its noisy shot.

    84 of the 100 mean images lie more than 0.1 pixels off. A network is blamed for that in the rows as they are.
    """
    samples = [replace(each, open=partial(_open_in_place, each)) for each in recorded_samples(folder)]
    return replace(_polyu(folder), noise="camera in place", samples=samples)


def _rounded(folder: Path, sigma: float) -> Trial:
    """White noise in an 8-bit file, which clips it, as in an upload."""
    samples = [replace(each, open=partial(_open_rounded, each)) for each in gaussian_samples(folder, sigma)]
    return Trial(folder.name, f"8-bit {sigma:g}", samples)


def _grey(folder: Path, sigma: float) -> Trial:
    """The images' luma in three equal channels, with the same noise in all of them."""
    samples = [Sample(file.stem, partial(_open_grey, file, sigma)) for file in image_files(folder)]
    return Trial(folder.name, f"grey {sigma:g}", samples)


def _noiseless(folder: Path) -> Trial:
    return replace(white(folder, 0), noise="none", level=None)


def _patterns(sigma: float) -> Trial:
    """White noise on stripes, checks, dots and text."""
    samples = [Sample(f"pattern {n}", partial(_open_pattern, n, sigma)) for n in range(1, PATTERNS + 1)]
    return Trial("patterns", f"white {sigma:g}", samples, sigma)


def _open_pattern(number: int, sigma: float) -> Pair:
    clean = patterns(PATTERN_SIDE, PATTERN_SIDE, seeded_generator(PATTERNS_SEED, number)).float() / 255
    # The name seeds the noise. Another name would change all figures measured so far.
    return with_noise(clean, f"print {number}", sigma), clean


def _open_in_place(sample: Sample) -> Pair:
    noisy, clean = sample.open()
    shift = measure_shift(noisy, clean, search=False)
    return noisy, move(clean, shift.rows, shift.columns).clamp(0, 1) if shift else clean


def _open_rounded(sample: Sample) -> Pair:
    noisy, clean = sample.open()
    return _to_8_bits(noisy), clean


def _open_grey(file: Path, sigma: float) -> Pair:
    colour = read_rgb(file).float() / 255
    clean = _to_8_bits(colour @ torch.tensor(LUMA)).unsqueeze(2).expand(-1, -1, 3).contiguous()
    return with_noise(clean, file.name, sigma, channels=1), clean


def _to_8_bits(x: Tensor) -> Tensor:
    """Clipped to [0, 1] and rounded to 8 bits."""
    return (x.clamp(0, 1) * 255).round() / 255
