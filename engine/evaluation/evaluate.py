"""Evaluation: denoises pairs of a noisy and a clean image and scores the results by PSNR and SSIM."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice

import torch
from torch import Tensor

from engine.defaults import MEMORY_BUDGET
from engine.evaluation.benchmarks import Trial
from engine.evaluation.measured import Measurement
from engine.evaluation.metrics import FIGURES, MeasuredImage, psnr_each, ssim_each
from engine.evaluation.samples import Pair, Sample
from engine.imageio.image import Image
from engine.inference.adapted_noise import AdaptedNoise
from engine.inference.denoise import denoise, denoise_image
from engine.inference.model_selection import NO_ADAPTED, NetworkSelector, auto_selector
from engine.inference.preparation import PreparationOptions, prepare
from engine.inference.tiling import GRID
from engine.layers import Arena, Module, parameters
from engine.models.receptive_field import bytes_per_pixel

# Images of up to this many pixels are denoised in batches.
SMALL_PIXELS = 128 * 128
# Largest number of pixels of a batch.
BATCH_PIXELS = 256 * 256


@dataclass(frozen=True)
class Score:
    """One image: PSNR in dB and SSIM, noisy and denoised, and the time it took.

    chosen: the name of the weights, if they were chosen by the image's noise. figures: further ones of a measured
    image, by the names of FIGURES.
    """

    noisy_psnr: float
    noisy_ssim: float
    psnr: float
    ssim: float
    pixels: int
    seconds: float
    chosen: str | None = None
    figures: Mapping[str, float] = field(default_factory=dict)

    @property
    def gain(self) -> float:
        """By how many dB denoising has improved the image."""
        return self.psnr - self.noisy_psnr


@dataclass(frozen=True)
class Result:
    """One image, float (H, W, 3), and its score. The denoised image is clipped, the noisy one is not."""

    noisy: Tensor
    clean: Tensor
    denoised: Tensor
    score: Score


@dataclass(frozen=True)
class Quality:
    """Means over images: PSNR in dB and SSIM, noisy and denoised.

    chosen: for how many images which weights were chosen by the noise; empty if there was no choice. figures: as
    in Score.
    """

    images: int
    noisy_psnr: float
    noisy_ssim: float
    psnr: float
    ssim: float
    megapixels_per_second: float
    chosen: Mapping[str, int]
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """The quality on a set, or a part of it, with one noise. level: as in Trial."""

    set: str
    noise: str
    level: float | None
    quality: Quality


def evaluate_pairs(net: Module, pairs: Iterable[Pair], memory_budget: int = MEMORY_BUDGET) -> Quality:
    """The mean quality of what denoise_pairs returns. Raises ValueError when there are no pairs."""
    return mean_quality([result.score for result in denoise_pairs(net, pairs, memory_budget)])


def denoise_pairs(net: Module, pairs: Iterable[Pair], memory_budget: int = MEMORY_BUDGET) -> Iterator[Result]:
    """The result of each pair, as soon as it is ready.

    pairs: (noisy, clean), float (H, W, 3) on [0, 1]. The output is clipped to [0, 1], as a file would be; the
    noisy image is scored without clipping.
    """
    arena = Arena()
    for noisy, clean in _batches(pairs, min(BATCH_PIXELS, memory_budget // bytes_per_pixel(net))):
        start = time.perf_counter()
        with arena.used():
            output = _denoise(net, noisy, memory_budget).clamp(0, 1)
        seconds = (time.perf_counter() - start) / len(noisy)
        pixels = noisy[0, ..., 0].numel()
        measured = [measure(each, clean) for each in (noisy, output) for measure in (psnr_each, ssim_each)]
        for index, (noisy_psnr, noisy_ssim, psnr, ssim) in enumerate(torch.stack(measured, 1).tolist()):
            score = Score(noisy_psnr, noisy_ssim, psnr, ssim, pixels, seconds)
            yield Result(noisy[index], clean[index], output[index], score)


def denoise_pairs_by(
    choice: str,
    nets: Mapping[str, Module],
    pairs: Iterable[Pair],
    memory_budget: int = MEMORY_BUDGET,
    adapted: Mapping[str, AdaptedNoise] = NO_ADAPTED,
) -> Iterator[Result]:
    """Like denoise_pairs, by all the steps that the service takes: selection, preparation, network.

    The score has the name of the weights that were chosen, and the time includes the choice.
    """
    select = auto_selector(nets, choice, adapted)
    for noisy, clean in pairs:
        start = time.perf_counter()
        selection = select([noisy])
        preparation = prepare(noisy, selection.estimate)
        denoised = denoise(selection.net, Image(noisy), memory_budget, preparation=preparation)
        output = denoised.samples.clamp(0, 1)
        seconds = time.perf_counter() - start
        noisy_psnr, noisy_ssim, psnr, ssim = (
            float(measure(each[None], clean[None]))
            for each in (noisy, output)
            for measure in (psnr_each, ssim_each)
        )
        pixels = noisy[..., 0].numel()
        score = Score(noisy_psnr, noisy_ssim, psnr, ssim, pixels, seconds, selection.name)
        yield Result(noisy, clean, output, score)


def denoise_measured(
    denoiser: Callable[[Tensor], tuple[Tensor, str | None]], measurements: Iterable[Measurement]
) -> Iterator[Result]:
    """The result of each measured image, as soon as it is ready.

    denoiser: from samples to samples, and the name of the weights, if they were chosen: denoise_samples. The
    images of a result are on the range of the span; PSNR and SSIM are measured there, without clipping.
    """
    for measurement in measurements:
        start = time.perf_counter()
        samples, chosen = denoiser(measurement.noisy)
        seconds = time.perf_counter() - start
        clean, noisy, output = (
            measurement.on_unit_range(part) for part in (measurement.truth, measurement.noisy, samples)
        )
        psnrs = [float(psnr_each(each[None], clean[None])) for each in (noisy, output)]
        ssims = [float(ssim_each(each[None], clean[None])) for each in (noisy, output)]
        before, after, truth = (each.double() for each in (measurement.noisy, samples, measurement.truth))
        image = MeasuredImage(before, after, truth, measurement.low, measurement.span)
        figures = {name: FIGURES[name](image) for name in measurement.figures}
        pixels = clean[..., 0].numel()
        score = Score(psnrs[0], ssims[0], psnrs[1], ssims[1], pixels, seconds, chosen, figures)
        yield Result(noisy, clean, output.clamp(0, 1), score)


def denoise_samples(select: NetworkSelector, memory_budget: int, samples: Tensor) -> tuple[Tensor, str | None]:
    """Samples (H, W) or (H, W, C) without their noise, by all the steps that the service and the commands take.

    Where whole counts are too coarse for the result, it is floats, as in a TIFF file. Also returns the name of
    the weights, if the selector chose.
    """
    image = Image(samples if samples.dim() == 3 else samples.unsqueeze(2))
    selection = select([image.samples])
    preparation = prepare(image.samples, selection.estimate, PreparationOptions(finer=True))
    output = denoise(selection.net, image, memory_budget, preparation=preparation).samples
    return output.view(samples.shape), selection.name or None


def largest_change(net: Module, other: Module, samples: Sequence[Sample]) -> float:
    """The largest difference in PSNR, in dB, between two networks on one image."""
    results = (denoise_pairs(each, (sample.open() for sample in samples)) for each in (net, other))
    psnrs = ((result.score.psnr for result in each) for each in results)
    return float(max(abs(a - b) for a, b in zip(*psnrs, strict=True)))


def rows_of(trial: Trial, scores: Sequence[Score]) -> list[Row]:
    """The rows of a trial, from the scores of all its images. Raises ValueError when there are none."""
    return [Row(name, trial.noise, trial.level, mean_quality(part)) for name, part in trial.parts(scores)]


def mean_quality(scores: Sequence[Score]) -> Quality:
    """The means over images. Raises ValueError when there are none."""
    if not scores:
        raise ValueError("there are no pairs to measure on")
    rows = [(score.noisy_psnr, score.noisy_ssim, score.psnr, score.ssim) for score in scores]
    noisy_psnr, noisy_ssim, psnr, ssim = (sum(column) / len(rows) for column in zip(*rows, strict=True))
    speed = sum(score.pixels for score in scores) / 1e6 / sum(score.seconds for score in scores)
    chosen = Counter(score.chosen for score in scores if score.chosen)
    figures = {name: sum(score.figures[name] for score in scores) / len(scores) for name in scores[0].figures}
    return Quality(len(rows), noisy_psnr, noisy_ssim, psnr, ssim, speed, dict(chosen.most_common()), figures)


def _batches(pairs: Iterable[Pair], max_pixels: int) -> Iterator[Pair]:
    """(N, H, W, 3) stacks: consecutive small images of one size together, up to max_pixels; others one by one."""
    for shape, group in groupby(pairs, lambda pair: pair[0].shape):
        pixels = shape[0] * shape[1]
        count = max(1, max_pixels // pixels) if pixels <= SMALL_PIXELS else 1
        while batch := list(islice(group, count)):
            noisy, clean = zip(*batch, strict=True)
            yield torch.stack(noisy), torch.stack(clean)


def _denoise(net: Module, noisy: Tensor, memory_budget: int) -> Tensor:
    """denoise_image of each image. Whole patches go through the network in one batch, with the same result."""
    is_whole = noisy.shape[1] % GRID == noisy.shape[2] % GRID == 0
    if is_whole and len(noisy) > 1:
        return net.forward(noisy.to(next(parameters(net)).value.device)).cpu()
    return torch.stack([denoise_image(net, image, memory_budget) for image in noisy])
