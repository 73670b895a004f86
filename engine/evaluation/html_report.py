"""The page that a network is judged by: what each image gained, the worst ones to look at, PSNR against noise.

One HTML file with everything in it: no scripts, nothing from elsewhere. It follows the reader's light or dark.
"""

import base64
import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from engine.evaluation.benchmarks import Trial
from engine.evaluation.evaluate import BEST_PSNR, Result, Score, mean_quality
from engine.evaluation.svg_chart import Dot, Line, draw
from engine.imageio.image import Image, to_samples
from engine.imageio.write import encode_png
from engine.system.atomic_file import write_atomically

# Images of a trial that are shown, the side of what is shown of them, and how hard that is compressed.
SHOWN, SIDE, PNG_LEVEL = 6, 96, 6
# Dots of one trial in the plot: more would hide each other.
DOTS = 200


class Crop(NamedTuple):
    """A part of one image, uint8 (H, W, 3) each. why: what it was chosen for."""

    why: str
    place: tuple[int, int]
    noisy: Tensor
    denoised: Tensor
    residual: Tensor
    clean: Tensor


@dataclass(frozen=True)
class Look:
    """An image that is shown. strength: by how much its residual is multiplied."""

    crops: Sequence[Crop]
    strength: float


class Section:
    """One trial on the page; of its images only the worst are kept, and of these only what is shown."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.scores: list[Score] = []
        self._worst: list[tuple[float, int, Look]] = []

    def add(self, result: Result) -> Score:
        """Take in the next of the trial's images."""
        place, worse = len(self.scores), -gain(result.score)
        self.scores.append(result.score)
        if len(self._worst) < SHOWN:
            heapq.heappush(self._worst, (worse, -place, look(result)))
        elif worse > self._worst[0][0]:
            heapq.heapreplace(self._worst, (worse, -place, look(result)))
        return result.score

    @property
    def title(self) -> str:
        """The set and its noise."""
        return f"{self.trial.set}, {self.trial.noise}"

    def rows(self) -> list[tuple[int, str, Score]]:
        """Every image, its place in the trial and its name, worst first."""
        names = (sample.name for sample in self.trial.samples)
        rows = [(place, *each) for place, each in enumerate(zip(names, self.scores, strict=False))]
        return sorted(rows, key=lambda row: (gain(row[2]), row[0]))

    def looks(self) -> dict[int, Look]:
        """What is shown, by the image's place in the trial, worst first."""
        return {-place: shown for _, place, shown in sorted(self._worst, reverse=True)}


def gain(score: Score) -> float:
    """By how many dB the image is better than it came."""
    return score.psnr - score.noisy_psnr


def look(result: Result) -> Look:
    """Where the error is largest, and where else the clean image has most detail, if there is an elsewhere."""
    high, wide = (min(SIDE, length) for length in result.clean.shape[:2])
    top, left = densest((result.denoised - result.clean).square().mean(2), (high, wide))
    detail = _detail(result.clean)
    detail[top : top + high, left : left + wide] = 0
    reasons = {(top, left): "largest error"}
    reasons.setdefault(densest(detail, (high, wide)), "most detail")
    removed = result.noisy - result.denoised
    # Three standard deviations reach from grey to black or white.
    strength = float(f"{min(16, 0.5 / (3 * float(removed.std(unbiased=False)) + 1e-6)):.2g}")
    parts = (result.noisy, result.denoised, 0.5 + strength * removed, result.clean)
    crops = []
    for (y, x), why in reasons.items():
        shown = (to_samples(part[y : y + high, x : x + wide], torch.uint8, 3) for part in parts)
        crops.append(Crop(why, (y, x), *shown))
    return Look(crops, strength)


def densest(weight: Tensor, side: tuple[int, int]) -> tuple[int, int]:
    """Top and left of the rectangle of that height and width with the largest sum of weight, (H, W)."""
    total = torch.zeros(weight.shape[0] + 1, weight.shape[1] + 1, dtype=torch.float64)
    total[1:, 1:] = weight.double().cumsum(0).cumsum(1)
    high, wide = side
    sums = total[high:, wide:] - total[:-high, wide:] - total[high:, :-wide] + total[:-high, :-wide]
    best = int(sums.argmax())
    return best // sums.shape[1], best % sums.shape[1]


def write_page(path: Path, title: str, about: str, sections: Sequence[Section]) -> None:
    """The page, whole or not at all. about: a sentence on what was measured and how."""
    shown = [section for section in sections if section.scores]
    parts = [
        f"<h1>{escape(title)}</h1><p>{escape(about)}</p>",
        _means(shown),
        *_plot(shown),
        *(_section(number, section) for number, section in enumerate(shown)),
    ]
    page = _PAGE.format(title=escape(title), style=_STYLE, body="\n".join(parts))
    write_atomically(path, page.encode())


def _detail(clean: Tensor) -> Tensor:
    """(H, W): squares of the differences between neighbours."""
    detail = torch.zeros(clean.shape[:2])
    detail[1:] += (clean[1:] - clean[:-1]).square().mean(2)
    detail[:, 1:] += (clean[:, 1:] - clean[:, :-1]).square().mean(2)
    return detail


def _means(sections: Sequence[Section]) -> str:
    rows = []
    for number, section in enumerate(sections):
        for name, scores in section.trial.parts(section.scores):
            mean = mean_quality(scores)
            numbers = (f"{mean.images}", *_decibels(mean.noisy_psnr, mean.psnr), f"{mean.ssim:.4f}")
            link = f'<a href="#trial-{number}">{escape(f"{name}, {section.trial.noise}")}</a>'
            rows.append(_row(link, *numbers))
    head = ("images", "noisy, dB", "denoised, dB", "gain, dB", "SSIM")
    return _table("Means over images", "images and their noise", head, rows)


def _section(number: int, section: Section) -> str:
    looks = section.looks()
    rows = []
    for place, name, score in section.rows():
        shown = escape(name)
        if place in looks:
            shown = f'<a href="#image-{number}-{place}">{shown}</a>'
        rows.append(_row(shown, *_decibels(score.noisy_psnr, score.psnr), f"{score.ssim:.4f}"))
    head = ("noisy, dB", "denoised, dB", "gain, dB", "SSIM")
    table = _table("Every image, the least gain first", "image", head, rows)
    names = [sample.name for sample in section.trial.samples]
    figures = (_figures(f"{number}-{place}", names[place], look) for place, look in looks.items())
    return f'<section id="trial-{number}"><h2>{escape(section.title)}</h2>{table}{"".join(figures)}</section>'


def _figures(anchor: str, name: str, shown: Look) -> str:
    parts = [f'<h3 id="image-{anchor}">{escape(name)}</h3>']
    for crop in shown.crops:
        row, col = crop.place
        figures = (
            _figure(crop.noisy, "noisy", name, crop.why),
            _figure(crop.denoised, "denoised", name, crop.why),
            _figure(crop.residual, f"noisy - denoised, x {shown.strength:g}", name, crop.why),
            _figure(crop.clean, "clean", name, crop.why),
        )
        parts.append(f'<p>{crop.why}: row {row}, column {col}</p><div class="crops">{"".join(figures)}</div>')
    return "".join(parts)


def _figure(samples: Tensor, caption: str, name: str, why: str) -> str:
    """At twice its size, or what makes it as wide as the others."""
    scale = max(2, 2 * SIDE // samples.shape[1])
    size = f'width="{scale * samples.shape[1]}" height="{scale * samples.shape[0]}"'
    alt = escape(f"{name}, {caption}, where there is the {why}")
    return f'<figure><img src="{_data(samples)}" {size} alt="{alt}"><figcaption>{caption}</figcaption></figure>'


def _data(samples: Tensor) -> str:
    png = encode_png(Image(samples.contiguous()), PNG_LEVEL)
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _decibels(noisy: float, denoised: float) -> tuple[str, str, str]:
    """What equal images get is no measurement, and neither is what they gain."""
    if noisy >= BEST_PSNR:
        return "-", f"{denoised:.2f}", "-"
    return f"{noisy:.2f}", f"{denoised:.2f}", f"{denoised - noisy:+.2f}"


def _row(first: str, *numbers: str) -> str:
    return f'<tr><th scope="row">{first}</th>{"".join(f"<td>{number}</td>" for number in numbers)}</tr>'


def _table(caption: str, first: str, head: Sequence[str], rows: Sequence[str]) -> str:
    columns = "".join(f'<th scope="col">{name}</th>' for name in (first, *head))
    body = "\n".join(rows)
    # To be reached, and so scrolled, by keyboard too.
    return (
        f'<div class="scroll" role="region" aria-label="{caption}" tabindex="0">'
        f"<table><caption>{caption}</caption><thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _plot(sections: Sequence[Section]) -> Iterator[str]:
    """PSNR against noise: by set, whose levels of white noise are one line. Clean images are left out."""

    def name(section: Section) -> str:
        return section.trial.set if section.trial.level is not None else section.title

    noisy = [each for each in sections if mean_quality(each.scores).noisy_psnr < BEST_PSNR]
    lines = []
    for title, group in groupby(sorted(noisy, key=name), name):
        images, means = list[Dot](), list[Dot]()
        for section in group:
            mean = mean_quality(section.scores)
            means.append(Dot.of(mean.noisy_psnr, mean.psnr))
            some = section.scores[:: -(-mean.images // DOTS)]
            images += [Dot.of(score.noisy_psnr, score.psnr) for score in some]
        lines.append(Line(title, images, sorted(means)))
    if lines:
        yield (
            f'<section><h2>PSNR against noise</h2><div class="wide">{draw(lines)}</div>'
            "<p>Small dots are images, large marks the means of a set. The dashed curve is the noisy image:"
            " what lies above it was gained.</p></section>"
        )


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body><main>
{body}
</main></body>
</html>
"""

# The series' colours are of like lightness, and dark or light enough against the ground.
_STYLE = """
:root { color-scheme: light dark;
  --ground: #fff; --text: #1c1e21; --dim: #5a6068; --edge: #d5d9de; --link: #0b57b0;
  --s0: #0b62b8; --s1: #b34700; --s2: #1d7a3a; --s3: #8a35b0; --s4: #a8174f; --s5: #6b6100 }
@media (prefers-color-scheme: dark) {
  :root { --ground: #15171a; --text: #e8eaed; --dim: #a3abb5; --edge: #3a3f46; --link: #8ab8ff;
    --s0: #6cb2ff; --s1: #ff9a52; --s2: #6bd18a; --s3: #d18cf0; --s4: #ff7fab; --s5: #d6c94a }
}
body { margin: 0; background: var(--ground); color: var(--text); font: 16px/1.5 system-ui, sans-serif }
main { max-width: 60rem; margin: 0 auto; padding: 1rem }
a { color: var(--link) }
h1 { font-size: 1.6rem } h2 { font-size: 1.25rem; margin-top: 2.5rem } h3 { font-size: 1rem; margin-bottom: 0 }
.scroll { max-height: 30rem; overflow: auto; border: 1px solid var(--edge); border-radius: 6px }
.scroll:focus-visible { outline: 2px solid var(--link) }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
caption { text-align: left; padding: .4rem .6rem; color: var(--dim) }
thead th { position: sticky; top: 0; background: var(--ground) }
th, td { padding: .2rem .6rem; border-top: 1px solid var(--edge); text-align: right }
th:first-child { text-align: left; min-width: 8rem } tbody th { font-weight: normal }
.crops { display: flex; flex-wrap: wrap; gap: .5rem }
.crops + p, h3 + p { margin: .5rem 0 .2rem }
figure { margin: 0 } figcaption, p, .keys { color: var(--dim); font-size: .9rem }
img { image-rendering: pixelated; display: block; max-width: 100%; height: auto }
.wide { overflow-x: auto }
.plot { width: 100%; min-width: 36rem; height: auto; font-size: 12px } .plot text { fill: var(--dim) }
.grid { stroke: var(--edge) } .noisy { stroke: var(--dim); stroke-dasharray: 5 4; fill: none }
.line { stroke: currentColor; stroke-width: 2; fill: none } circle { fill: currentColor; opacity: .35 }
.mark { fill: currentColor; stroke: var(--ground) }
.keys { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem }
.keys svg { vertical-align: -3px; margin-right: .3rem }
.series-0 { color: var(--s0) } .series-1 { color: var(--s1) } .series-2 { color: var(--s2) }
.series-3 { color: var(--s3) } .series-4 { color: var(--s4) } .series-5 { color: var(--s5) }
"""
