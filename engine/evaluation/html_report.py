"""HTML report of an evaluation: the gain on each image, the worst images, and PSNR against noise."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from engine.evaluation.benchmarks import Trial
from engine.evaluation.evaluate import Result, Score, mean_quality, rows_of
from engine.evaluation.metrics import MAX_PSNR
from engine.evaluation.page import data_url, densest, detail, render
from engine.evaluation.psnr_chart import Dot, Line, draw_chart
from engine.imageio.image import to_samples
from engine.system.atomic_file import write_atomically

# How many images of a trial are shown.
EXAMPLES = 6
# Side of the crops that are shown of an image, in pixels.
CROP_SIDE = 96
# Dots of one trial in the chart: more would hide each other.
MAX_DOTS = 200
# Largest factor by which a residual is amplified.
MAX_AMPLIFICATION = 16.0


class Crop(NamedTuple):
    """A part of one image, uint8 (H, W, 3) each. reason: why it was chosen; top, left: its corner, in pixels."""

    reason: str
    top: int
    left: int
    noisy: Tensor
    denoised: Tensor
    residual: Tensor
    clean: Tensor


@dataclass(frozen=True)
class Example:
    """An image that is shown. amplification: the factor of its residual."""

    crops: Sequence[Crop]
    amplification: float


class Section:
    """One trial of the report. Of its images only the worst are kept, and of these only the crops."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.scores: list[Score] = []
        # Loss, minus the image's index, and its crops: a heap with the best image first.
        self._worst: list[tuple[float, int, Example]] = []

    def add(self, result: Result) -> Score:
        """Take in the result of the trial's next image."""
        index, loss = len(self.scores), -result.score.gain
        self.scores.append(result.score)
        if len(self._worst) < EXAMPLES:
            heapq.heappush(self._worst, (loss, -index, new_example(result)))
        elif loss > self._worst[0][0]:
            heapq.heapreplace(self._worst, (loss, -index, new_example(result)))
        return result.score

    @property
    def title(self) -> str:
        """The set and its noise."""
        return f"{self.trial.set}, {self.trial.noise}"

    def images(self) -> list[tuple[int, str, Score]]:
        """The index, name and score of each image, the least gain first."""
        names = (sample.name for sample in self.trial.samples)
        images = [(index, *each) for index, each in enumerate(zip(names, self.scores, strict=False))]
        return sorted(images, key=lambda image: (image[2].gain, image[0]))

    def examples(self) -> dict[int, Example]:
        """The images that are shown, by their index, the least gain first."""
        return {-index: example for _, index, example in sorted(self._worst, reverse=True)}


def new_example(result: Result) -> Example:
    """Crops where the error is largest, and where else, if anywhere, the clean image has most detail."""
    high, wide = (min(CROP_SIDE, length) for length in result.clean.shape[:2])
    top, left = densest((result.denoised - result.clean).square().mean(2), (high, wide))
    elsewhere = detail(result.clean)
    elsewhere[top : top + high, left : left + wide] = 0
    reasons = {(top, left): "largest error"}
    reasons.setdefault(densest(elsewhere, (high, wide)), "most detail")
    removed = result.noisy - result.denoised
    # Three standard deviations reach from grey to black or white.
    full_range = 0.5 / (3 * float(removed.std(unbiased=False)) + 1e-6)
    amplification = float(f"{min(MAX_AMPLIFICATION, full_range):.2g}")
    parts = (result.noisy, result.denoised, 0.5 + amplification * removed, result.clean)
    crops = []
    for (y, x), reason in reasons.items():
        pixels = (to_samples(part[y : y + high, x : x + wide], torch.uint8, 3) for part in parts)
        crops.append(Crop(reason, y, x, *pixels))
    return Example(crops, amplification)


def write_report(path: Path, title: str, about: str, sections: Sequence[Section]) -> None:
    """Write the page, whole or not at all. about: a sentence on what was measured and how.

    Sections without images are left out.
    """
    shown = [section for section in sections if section.scores]
    values = {
        "title": title,
        "about": about,
        "chart": _chart(shown),
        "sections": [_section_values(number, section) for number, section in enumerate(shown)],
    }
    write_atomically(path, render("engine.evaluation", "report.html", values).encode())


def _section_values(number: int, section: Section) -> dict[str, Any]:
    """The template's values for a section."""
    examples = section.examples()
    names = [sample.name for sample in section.trial.samples]
    anchors = {index: f"image-{number}-{index}" for index in examples}
    rows = [(f"{row.set}, {row.noise}", row.quality) for row in rows_of(section.trial, section.scores)]
    figures = list(section.scores[0].figures)
    return {
        "number": number,
        "title": section.title,
        "figures": [name.replace("_", " ") for name in figures],
        "means": [
            {
                "label": label,
                "numbers": (mean.images, *_decibels(mean.noisy_psnr, mean.psnr), f"{mean.ssim:.4f}"),
                "figures": [f"{name.replace('_', ' ')} {number:.4g}" for name, number in mean.figures.items()],
            }
            for label, mean in rows
        ],
        "images": [
            {
                "label": name,
                "link": anchors.get(index),
                "numbers": (
                    *_decibels(score.noisy_psnr, score.psnr),
                    f"{score.ssim:.4f}",
                    *(f"{score.figures[name]:.4g}" for name in figures),
                ),
            }
            for index, name, score in section.images()
        ],
        "examples": [
            {"anchor": anchors[index], "name": names[index], "crops": _crop_values(example)}
            for index, example in examples.items()
        ],
    }


def _crop_values(example: Example) -> list[dict[str, Any]]:
    """The template's values for the crops of an example."""
    return [
        {
            "reason": crop.reason,
            "top": crop.top,
            "left": crop.left,
            "images": [
                ("noisy", _image_values(crop.noisy)),
                ("denoised", _image_values(crop.denoised)),
                (f"noisy - denoised, x {example.amplification:g}", _image_values(crop.residual)),
                ("clean", _image_values(crop.clean)),
            ],
        }
        for crop in example.crops
    ]


def _image_values(samples: Tensor) -> dict[str, Any]:
    """An image's data URL, and its size: twice its pixels, or more, so that it is as wide as the others."""
    scale = max(2, 2 * CROP_SIDE // samples.shape[1])
    return {"url": data_url(samples), "width": scale * samples.shape[1], "height": scale * samples.shape[0]}


def _decibels(noisy: float, denoised: float) -> tuple[str, str, str]:
    """PSNR noisy, PSNR denoised and the gain. An image without noise has only the second."""
    if noisy >= MAX_PSNR:
        return "-", f"{denoised:.2f}", "-"
    return f"{noisy:.2f}", f"{denoised:.2f}", f"{denoised - noisy:+.2f}"


def _chart(sections: Sequence[Section]) -> str | None:
    """PSNR against noise, with a line for each set with white noise.

    Images without noise are left out, and measured images, which would be too many lines.
    """

    def name(section: Section) -> str:
        return section.trial.set if section.trial.level is not None else section.title

    qualities = ((each, mean_quality(each.scores)) for each in sections)
    noisy = [each for each, mean in qualities if mean.noisy_psnr < MAX_PSNR and not mean.figures]
    lines = []
    for title, group in groupby(sorted(noisy, key=name), name):
        images, means = list[Dot](), list[Dot]()
        for section in group:
            mean = mean_quality(section.scores)
            means.append(Dot.of(mean.noisy_psnr, mean.psnr))
            some = section.scores[:: -(-mean.images // MAX_DOTS)]
            images += [Dot.of(score.noisy_psnr, score.psnr) for score in some]
        lines.append(Line(title, images, sorted(means)))
    return draw_chart(lines) if lines else None
