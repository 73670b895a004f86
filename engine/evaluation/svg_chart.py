"""SVG chart of PSNR against noise. The page sets its colours, by the classes series-0 to series-5."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import NamedTuple

# Size of the drawing, in its own units.
WIDTH = 720
HEIGHT = 400
# The area between the axes.
LEFT = 50
RIGHT = 700
TOP = 20
BOTTOM = 355
# Each colour has its own shape of mark, for readers who cannot tell the colours apart.
SHAPES = (
    "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0 -10 0z",
    "M-5 -5h10v10h-10z",
    "M0 -6l6 10h-12z",
    "M0 -7l7 7l-7 7l-7 -7z",
    "M0 6l6 -10h-12z",
    "M-2 -6h4v4h4v4h-4v4h-4v-4h-4v-4h4z",
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


@dataclass(frozen=True)
class _Axes:
    """Maps sigma 0..right and PSNR low..high to coordinates in the drawing."""

    right: int
    low: int
    high: int

    def x(self, sigma: float) -> float:
        return LEFT + (RIGHT - LEFT) * sigma / self.right

    def y(self, psnr: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * (psnr - self.low) / (self.high - self.low)


def draw_chart(lines: Sequence[Line]) -> str:
    """The chart and, below it, its legend, as HTML. Raises ValueError if there is nothing to draw."""
    dots = [dot for line in lines for dot in (*line.images, *line.means)]
    if not dots:
        raise ValueError("there are no dots to draw")
    psnrs = [dot.psnr for dot in dots]
    right = 5 * (1 + int(max(dot.sigma for dot in dots) // 5))
    axes = _Axes(right, 2 * math.floor(min(psnrs) / 2), 2 * math.floor(max(psnrs) / 2) + 2)
    curves = "".join(_line(axes, number, line) for number, line in enumerate(lines))
    legend = "".join(_legend_entry(number, line.name) for number, line in enumerate(lines))
    return (
        f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="PSNR of the denoised images'
        ' against the standard deviation of their noise; the means are in the table above.">'
        f'{_grid(axes)}{_noisy_curve(axes)}{curves}</svg><ul class="keys">{legend}</ul>'
    )


def _grid(axes: _Axes) -> str:
    step = max(1, round((axes.high - axes.low) / 8))
    rows = [(axes.y(value), value) for value in range(axes.low, axes.high + 1, step)]
    cols = [(axes.x(value), value) for value in range(0, axes.right + 1, 5 * math.ceil(axes.right / 60))]
    return "".join(
        [
            *(f'<path class="grid" d="M{LEFT} {y:.1f}H{RIGHT}"/>' for y, _ in rows),
            *(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value}</text>' for y, value in rows),
            *(f'<text x="{x:.1f}" y="{BOTTOM + 19}" text-anchor="middle">{value}</text>' for x, value in cols),
            f'<text x="{LEFT + 8}" y="{TOP - 8}">PSNR, dB</text>',
            f'<text x="{(LEFT + RIGHT) / 2:g}" y="{HEIGHT - 6}" text-anchor="middle">'
            "standard deviation of the noise, 0-255 scale</text>",
        ]
    )


def _noisy_curve(axes: _Axes) -> str:
    """The PSNR of the noisy images."""
    steps = (axes.right * part / 100 for part in range(1, 101))
    curve = ((sigma, 20 * math.log10(255 / sigma)) for sigma in steps)
    inside = [f"{axes.x(sigma):.1f} {axes.y(psnr):.1f}" for sigma, psnr in curve if axes.low <= psnr <= axes.high]
    return f'<path class="noisy" d="M{"L".join(inside)}"/>' if inside else ""


def _line(axes: _Axes, number: int, line: Line) -> str:
    dots = (f'<circle cx="{axes.x(dot.sigma):.1f}" cy="{axes.y(dot.psnr):.1f}" r="2"/>' for dot in line.images)
    means = [(axes.x(dot.sigma), axes.y(dot.psnr)) for dot in line.means]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in means)
    marks = "".join(_mark(number, x, y) for x, y in means)
    return f'<g class="{_series(number)}">{"".join(dots)}<path class="line" d="M{path}"/>{marks}</g>'


def _legend_entry(number: int, name: str) -> str:
    mark = f'<svg width="16" height="16" viewBox="-8 -8 16 16" aria-hidden="true">{_mark(number, 0, 0)}</svg>'
    return f'<li class="{_series(number)}">{mark}{escape(name)}</li>'


def _mark(number: int, x: float, y: float) -> str:
    shape = SHAPES[number % len(SHAPES)]
    return f'<path class="mark" d="{shape}" transform="translate({x:.1f} {y:.1f})"/>'


def _series(number: int) -> str:
    return f"series-{number % len(SHAPES)}"
