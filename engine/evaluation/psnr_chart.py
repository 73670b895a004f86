"""Chart of PSNR against noise: a line for each set of images."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from engine.evaluation.svg_chart import Axes, chart, curve, grid, mark, series_class

LABEL = (
    "PSNR of the denoised images against the standard deviation of their noise; the means are in the table above."
)


class Dot(NamedTuple):
    """An image or a mean of images. sigma: of its noise, 0-255 scale; psnr: denoised, in dB."""

    sigma: float
    psnr: float

    @classmethod
    def of(cls, noisy_psnr: float, psnr: float) -> "Dot":
        """From the noisy image's PSNR, which gives the root mean square of its noise."""
        return cls(255 * 10 ** (-noisy_psnr / 20), psnr)


@dataclass(frozen=True)
class Line:
    """A set with one kind of noise: a dot for each image, and the means, joined by a line in this order."""

    name: str
    images: Sequence[Dot]
    means: Sequence[Dot]


def draw_chart(lines: Sequence[Line]) -> str:
    """The chart and, below it, its legend, as HTML. Raises ValueError if there is nothing to draw."""
    dots = [dot for line in lines for dot in (*line.images, *line.means)]
    if not dots:
        raise ValueError("there are no dots to draw")
    axes = _axes(dots)
    curves = "".join(_line(axes, number, line) for number, line in enumerate(lines))
    titles = ("standard deviation of the noise, 0-255 scale", "PSNR, dB")
    return chart(LABEL, f"{grid(axes, *titles)}{_noisy_curve(axes)}{curves}", [line.name for line in lines])


def _axes(dots: Sequence[Dot]) -> Axes:
    """From sigma 0, and from one even PSNR to another."""
    psnrs = [dot.psnr for dot in dots]
    low, high = 2 * math.floor(min(psnrs) / 2), 2 * math.floor(max(psnrs) / 2) + 2
    step = 2 * max(1, round((high - low) / 16))
    right = max(dot.sigma for dot in dots)
    x_step = 5 * max(1, math.ceil(right / 60))
    return Axes(
        range(0, x_step * (int(right // x_step) + 1) + 1, x_step),
        range(low, low + step * math.ceil((high - low) / step) + 1, step),
    )


def _noisy_curve(axes: Axes) -> str:
    """The PSNR of the noisy images."""
    sigmas = (axes.x_ticks[-1] * part / 100 for part in range(1, 101))
    points = ((sigma, 20 * math.log10(255 / sigma)) for sigma in sigmas)
    low, high = axes.y_ticks[0], axes.y_ticks[-1]
    inside = [(axes.x(sigma), axes.y(psnr)) for sigma, psnr in points if low <= psnr <= high]
    return curve(inside, "noisy") if inside else ""


def _line(axes: Axes, number: int, line: Line) -> str:
    dots = (f'<circle cx="{axes.x(dot.sigma):.1f}" cy="{axes.y(dot.psnr):.1f}" r="2"/>' for dot in line.images)
    means = [(axes.x(dot.sigma), axes.y(dot.psnr)) for dot in line.means]
    marks = "".join(mark(number, x, y) for x, y in means)
    return f'<g class="{series_class(number)}">{"".join(dots)}{curve(means, "line")}{marks}</g>'
