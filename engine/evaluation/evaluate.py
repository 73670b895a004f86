"""How good a network is: PSNR and SSIM over pairs of a noisy and a clean image, and the pairs to measure on."""

import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby, islice
from pathlib import Path

import torch
from torch import Tensor

from engine.data.readers import PAIR_FILES, read_pair_file
from engine.imageio.read import image_files, read_rgb
from engine.inference.denoise import MEMORY_BUDGET, PATCH, denoise_image
from engine.inference.model_selection import choose
from engine.layers import Arena, Layer, parameters
from engine.models.networks import bytes_per_pixel

Pair = tuple[Tensor, Tensor]

# How the two files of a pair are told apart, the noisy one first; the second is how PolyU names its own.
PAIR_ENDINGS = (("_noisy", "_clean"), ("_real", "_mean"))
# Images of up to this many pixels are denoised many at a time, together no more than BATCH_PIXELS.
SMALL_PIXELS, BATCH_PIXELS = 128 * 128, 256 * 256
# What equal images get, instead of infinity.
BEST_PSNR = 100.0


@dataclass(frozen=True)
class Sample:
    """A pair that is opened when it is its turn. name: that of its file, or its number in a file of many."""

    name: str
    open: Callable[[], Pair]


@dataclass(frozen=True)
class Score:
    """One image: PSNR in dB and SSIM, noisy and denoised, and how long it took.

    chosen: the name of the weights, where they were chosen by the image's noise.
    """

    noisy_psnr: float
    noisy_ssim: float
    psnr: float
    ssim: float
    pixels: int
    seconds: float
    chosen: str | None = None


@dataclass(frozen=True)
class Result:
    """One image, float (H, W, 3), and how it scores. The noisy one is as it came, the denoised one clipped."""

    noisy: Tensor
    clean: Tensor
    denoised: Tensor
    score: Score


@dataclass(frozen=True)
class Quality:
    """Means over images: PSNR in dB and SSIM, of the noisy images and of the denoised ones.

    chosen: for how many images which weights were chosen by the noise; empty where there was no choice.
    """

    images: int
    noisy_psnr: float
    noisy_ssim: float
    psnr: float
    ssim: float
    megapixels_per_second: float
    chosen: Mapping[str, int]


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio in dB, for images on the [0, 1] scale; 100 dB at most."""
    return float(_psnr_each(a.unsqueeze(0), b.unsqueeze(0)))


def ssim(a: Tensor, b: Tensor) -> float:
    """Structural similarity of two images (H, W, C) on the [0, 1] scale: mean over places and channels.

    Only places whose whole window of 11 x 11 lies within the image count; raises ValueError if there is none.
    Source: Wang et al., "Image quality assessment: from error visibility to structural similarity", 2004.
    """
    return float(_ssim_each(a.unsqueeze(0), b.unsqueeze(0)))


def evaluate_pairs(net: Layer, pairs: Iterable[Pair], memory_budget: int = MEMORY_BUDGET) -> Quality:
    """Denoise the noisy image of each pair and compare with the clean one.

    What denoise_pairs does, and takes; raises ValueError when there are no pairs.
    """
    return mean_quality([result.score for result in denoise_pairs(net, pairs, memory_budget)])


def denoise_pairs(net: Layer, pairs: Iterable[Pair], memory_budget: int = MEMORY_BUDGET) -> Iterator[Result]:
    """Each pair with its denoised image and its scores, as soon as they are there.

    pairs: (noisy, clean), float (H, W, 3) on [0, 1]. The output is clipped to [0, 1], as a file would be; the
    noisy image is compared as it comes.
    """
    arena = Arena()
    for noisy, clean in _batches(pairs, min(BATCH_PIXELS, memory_budget // bytes_per_pixel(net))):
        start = time.perf_counter()
        with arena.used():
            output = _denoise(net, noisy, memory_budget).clamp(0, 1)
        seconds = (time.perf_counter() - start) / len(noisy)
        pixels = noisy[0, ..., 0].numel()
        measured = [measure(each, clean) for each in (noisy, output) for measure in (_psnr_each, _ssim_each)]
        for place, (before, before_ssim, after, after_ssim) in enumerate(torch.stack(measured, 1).tolist()):
            score = Score(before, before_ssim, after, after_ssim, pixels, seconds)
            yield Result(noisy[place], clean[place], output[place], score)


def denoise_pairs_by(
    choice: str, nets: Mapping[str, Layer], pairs: Iterable[Pair], memory_budget: int = MEMORY_BUDGET
) -> Iterator[Result]:
    """As denoise_pairs, each noisy image by the network that a choice takes for it; its score has the name."""
    for pair in pairs:
        name, _ = choose(pair[0], choice)
        for result in denoise_pairs(nets[name], [pair], memory_budget):
            yield replace(result, score=replace(result.score, chosen=name))


def largest_change(net: Layer, other: Layer, samples: Sequence[Sample]) -> float:
    """By how many dB, at most, one image's PSNR differs between two networks."""
    results = (denoise_pairs(each, (sample.open() for sample in samples)) for each in (net, other))
    psnrs = ((result.score.psnr for result in each) for each in results)
    return float(max(abs(ours - theirs) for ours, theirs in zip(*psnrs, strict=True)))


def mean_quality(scores: Sequence[Score]) -> Quality:
    """The means of single images' scores. Raises ValueError when there are none."""
    if not scores:
        raise ValueError("there are no pairs to measure on")
    rows = [(score.noisy_psnr, score.noisy_ssim, score.psnr, score.ssim) for score in scores]
    before, before_ssim, after, after_ssim = (sum(column) / len(rows) for column in zip(*rows, strict=True))
    speed = sum(score.pixels for score in scores) / 1e6 / sum(score.seconds for score in scores)
    chosen = Counter(score.chosen for score in scores if score.chosen)
    return Quality(len(rows), before, before_ssim, after, after_ssim, speed, dict(chosen.most_common()))


def gaussian_pairs(folder: Path, sigma: float, limit: int | None = None) -> Iterator[Pair]:
    """The pairs of gaussian_samples, one after the other; limit: only the first so many."""
    return (sample.open() for sample in gaussian_samples(folder, sigma)[:limit])


def gaussian_samples(folder: Path, sigma: float) -> list[Sample]:
    """The folder's images with white noise: (noisy, clean), float32 (H, W, 3), the noisy one not clipped.

    sigma: standard deviation, 0-255 scale. Each image's noise is drawn from a seed that only its file's name
    decides, so it is the same in every run, whichever images there are beside it. Raises ValueError naming the
    folder if it has no images.
    """
    if sigma < 0:
        raise ValueError(f"sigma is at least 0; got {sigma:g}")
    return [Sample(file.stem, partial(_with_noise, file, sigma)) for file in image_files(folder)]


def read_pairs(path: Path) -> Iterator[Pair]:
    """The pairs of recorded_samples, one after the other."""
    return (sample.open() for sample in recorded_samples(path))


def recorded_samples(path: Path) -> list[Sample]:
    """(noisy, clean) pairs, float32 (H, W, 3), of a .pkl or .pt in the course's format, or of a folder.

    In a folder, pairs are NAME_noisy with NAME_clean, NAME_real with NAME_mean as in PolyU, or equal names in
    its folders noisy and clean. Raises ValueError saying what does not fit in which path.
    """
    if path.is_file() and path.suffix in PAIR_FILES:
        held = enumerate(read_pair_file(path), 1)
        return [Sample(str(number), partial(_as_floats, *pair)) for number, pair in held]
    if not path.is_dir():
        raise ValueError(f"{path}: neither a folder nor a file of pairs ({' or '.join(PAIR_FILES)})")
    named = _pairs_in_folders(path) if (path / "noisy").is_dir() else _pairs_by_ending(path)
    return [Sample(name, partial(_read_pair, *pair)) for name, pair in named.items()]


def with_noise(clean: Tensor, name: str, sigma: float, channels: int = 3) -> Tensor:
    """An image (H, W, 3) with white noise drawn from its name, not clipped. channels: 1 for one noise in all."""
    rng = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return clean + sigma / 255 * torch.randn(*clean.shape[:2], channels, generator=rng)


def _batches(pairs: Iterable[Pair], most: int) -> Iterator[Pair]:
    """(N, H, W, 3) stacks: neighbours of one small size together, at most `most` pixels; others one by one."""
    for shape, group in groupby(pairs, lambda pair: pair[0].shape):
        pixels = shape[0] * shape[1]
        count = max(1, most // pixels) if pixels <= SMALL_PIXELS else 1
        while batch := list(islice(group, count)):
            noisy, clean = zip(*batch, strict=True)
            yield torch.stack(noisy), torch.stack(clean)


def _denoise(net: Layer, noisy: Tensor, memory_budget: int) -> Tensor:
    """What denoise_image gives for each image, straight from the network where that is the same."""
    whole = noisy.shape[1] % PATCH == noisy.shape[2] % PATCH == 0
    if whole and len(noisy) > 1:
        return net.forward(noisy.to(next(parameters(net)).value.device)).cpu()
    return torch.stack([denoise_image(net, image, memory_budget) for image in noisy])


def _psnr_each(a: Tensor, b: Tensor) -> Tensor:
    """(N, H, W, C) twice -> (N,)."""
    if a.shape != b.shape:
        raise ValueError(f"images of one shape are compared; got {tuple(a.shape)} and {tuple(b.shape)}")
    # In double precision: means over millions of pixels.
    error = (a.double() - b.double()).square().mean((1, 2, 3))
    return (-10 * error.log10()).clamp(max=BEST_PSNR)


def _ssim_each(a: Tensor, b: Tensor) -> Tensor:
    """(N, H, W, C) twice -> (N,)."""
    if min(a.shape[1:3]) < 11:
        raise ValueError(f"SSIM needs images of at least 11 x 11 pixels; got {a.shape[2]} x {a.shape[1]}")
    # The paper's constants for a range of 1: (0.01)² and (0.03)².
    steady_mean, steady_spread = 0.01**2, 0.03**2
    a, b = a.double(), b.double()
    mean_a, mean_b = _blur(a), _blur(b)
    variances = _blur(a * a) + _blur(b * b) - mean_a.square() - mean_b.square()
    covariance = _blur(a * b) - mean_a * mean_b
    brightness = (2 * mean_a * mean_b + steady_mean) / (mean_a.square() + mean_b.square() + steady_mean)
    structure = (2 * covariance + steady_spread) / (variances + steady_spread)
    return (brightness * structure).mean((1, 2, 3))


def _blur(x: Tensor) -> Tensor:
    """The paper's window, a Gaussian of 11 x 11 and sigma 1.5, where it lies within the image."""
    place = torch.arange(-5, 6, dtype=x.dtype)
    weights = (-place.square() / (2 * 1.5**2)).exp()
    weights = weights / weights.sum()
    for axis in (1, 2):
        kept = x.shape[axis] - len(weights) + 1
        x = sum(
            (w * x.narrow(axis, i, kept) for i, w in enumerate(weights[1:], 1)),
            weights[0] * x.narrow(axis, 0, kept),
        )
    return x


def _with_noise(file: Path, sigma: float) -> Pair:
    clean = read_rgb(file).float() / 255
    return with_noise(clean, file.name, sigma), clean


def _as_floats(noisy: Tensor, clean: Tensor) -> Pair:
    return noisy.float() / 255, clean.float() / 255


def _read_pair(noisy: Path, clean: Path) -> Pair:
    pair = _as_floats(read_rgb(noisy), read_rgb(clean))
    if pair[0].shape != pair[1].shape:
        sizes = [f"{image.shape[1]} x {image.shape[0]}" for image in pair]
        raise ValueError(f"{noisy} and {clean.name} differ in size: {sizes[0]} and {sizes[1]}")
    return pair


def _pairs_in_folders(folder: Path) -> dict[str, tuple[Path, Path]]:
    if not (folder / "clean").is_dir():
        raise ValueError(f"{folder}: has a folder noisy, but no folder clean")
    noisy, clean = ({f.stem: f for f in image_files(folder / part)} for part in ("noisy", "clean"))
    if alone := sorted(noisy.keys() ^ clean.keys()):
        raise ValueError(f"{folder}: only in one of its folders noisy and clean: {', '.join(alone)}")
    return {stem: (noisy[stem], clean[stem]) for stem in noisy}


def _pairs_by_ending(folder: Path) -> dict[str, tuple[Path, Path]]:
    files = {file.stem: file for file in image_files(folder)}
    for noisy, clean in PAIR_ENDINGS:
        names = [stem.removesuffix(noisy) for stem in files if stem.endswith(noisy)]
        if alone := [name + noisy for name in names if name + clean not in files]:
            raise ValueError(f"{folder}: no {clean} image for {', '.join(alone)}")
        if names:
            return {name: (files[name + noisy], files[name + clean]) for name in names}
    endings = " or ".join(f"NAME{noisy} with NAME{clean}" for noisy, clean in PAIR_ENDINGS)
    raise ValueError(f"{folder}: no pairs; they are {endings}, or equal names in folders noisy and clean")
