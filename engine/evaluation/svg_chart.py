"""SVG charts: axes, marks, error bars and a legend.

The page sets the colours, by the classes series-0 to series-5.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import NamedTuple

# Size of the drawing, in its own units.
WIDTH = 720
HEIGHT = 400
# The area between the axes.
LEFT = 62
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
# Steps between ticks on each axis, about.
STEPS = 7
# Error bars may widen the axis by this many times the range of the points; beyond, they are cut.
MAX_BAR_SHARE = 1.0


class Point(NamedTuple):
    """low, high: ends of the error bar."""

    x: float
    y: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class Series:
    """marks: whether points have marks. line: x and y of a line in place of the one that joins the points."""

    name: str
    points: Sequence[Point]
    marks: bool = True
    line: Sequence[tuple[float, float]] | None = None
    dashed: bool = False

    @property
    def path(self) -> Sequence[tuple[float, float]]:
        """What the line goes through."""
        return [(point.x, point.y) for point in self.points] if self.line is None else self.line


@dataclass(frozen=True)
class Axes:
    """Maps values, left..right and low..high, to coordinates in the drawing. ticks: of both axes."""

    x_ticks: Sequence[float]
    y_ticks: Sequence[float]

    def x(self, value: float) -> float:
        left, right = self.x_ticks[0], self.x_ticks[-1]
        return LEFT + (RIGHT - LEFT) * (value - left) / (right - left)

    def y(self, value: float) -> float:
        low, high = self.y_ticks[0], self.y_ticks[-1]
        return BOTTOM - (BOTTOM - TOP) * (value - low) / (high - low)

    def y_inside(self, value: float) -> float:
        """The same, on the border for values beyond it."""
        return min(max(self.y(value), TOP), BOTTOM)


def ticks(low: float, high: float, steps: int = STEPS) -> list[float]:
    """Round values from low or below to high or above: multiples of 1, 2 or 5 times a power of ten."""
    span = high - low or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / steps))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power * steps >= span * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [step * number for number in range(first, max(last, first + 1) + 1)]


def draw_series(
    lines: Sequence[Series], x_title: str, y_title: str, label: str, band: tuple[float, float] | None = None
) -> str:
    """A chart and, below it, its legend, as HTML.

    label: what the chart shows, for those who do not see it. band: values of y that are shaded. Raises ValueError
    if there is nothing to draw.
    """
    points = [point for each in lines for point in (*each.points, *(Point(x, y) for x, y in each.path))]
    if not points:
        raise ValueError("there are no points to draw")
    axes = Axes(ticks(*_ends(point.x for point in points)), ticks(*_y_ends(points, band)))
    parts = [grid(axes, x_title, y_title)]
    if band:
        top, bottom = axes.y_inside(band[1]), axes.y_inside(band[0])
        box = f'x="{LEFT}" y="{top:.1f}" width="{RIGHT - LEFT}" height="{max(bottom - top, 1):.1f}"'
        parts.append(f'<rect class="band" {box}/>')
    parts += [_series(axes, number, line) for number, line in enumerate(lines)]
    return chart(label, "".join(parts), [line.name for line in lines])


def _ends(values: Iterable[float]) -> tuple[float, float]:
    found = list(values)
    return min(found), max(found)


def _y_ends(points: Sequence[Point], band: tuple[float, float] | None) -> tuple[float, float]:
    """The range of the points, and of their error bars as far as these do not dwarf it."""
    low, high = _ends([*(point.y for point in points), *(band or ())])
    room = MAX_BAR_SHARE * (high - low or abs(high) or 1.0)
    bars = [end for point in points for end in (point.low, point.high) if math.isfinite(end)]
    ends = _ends([*bars, low, high])
    return max(ends[0], low - room), min(ends[1], high + room)


def chart(label: str, content: str, names: Sequence[str]) -> str:
    """The drawing around its content, and a legend with these names."""
    legend = "".join(_legend_entry(number, name) for number, name in enumerate(names))
    head = f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
    return f'{head}{content}</svg><ul class="keys">{legend}</ul>'


def grid(axes: Axes, x_title: str, y_title: str) -> str:
    """Horizontal lines, the ticks of both axes, and their titles."""
    rows = [(axes.y(value), _text(value)) for value in axes.y_ticks]
    columns = [(axes.x(value), _text(value)) for value in axes.x_ticks]
    return "".join(
        [
            *(f'<path class="grid" d="M{LEFT} {y:.1f}H{RIGHT}"/>' for y, _ in rows),
            *(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value}</text>' for y, value in rows),
            *(f'<text x="{x:.1f}" y="{BOTTOM + 19}" text-anchor="middle">{value}</text>' for x, value in columns),
            f'<text x="{LEFT + 8}" y="{TOP - 8}">{escape(y_title)}</text>',
            f'<text x="{(LEFT + RIGHT) / 2:g}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_title)}</text>',
        ]
    )


def _text(value: float) -> str:
    # Multiples of a step are not exact: 3 * 0.1 is 0.30000000000000004.
    return f"{value:.6g}" if abs(value) > 1e-12 else "0"


def _series(axes: Axes, number: int, line: Series) -> str:
    bars = "".join(_bar(axes, point) for point in line.points if math.isfinite(point.low + point.high))
    at = [(axes.x(point.x), axes.y(point.y)) for point in line.points]
    through = [(axes.x(x), axes.y(y)) for x, y in line.path]
    path = curve(through, "line dashed" if line.dashed else "line") if len(through) > 1 else ""
    marks = "".join(mark(number, x, y) for x, y in at) if line.marks else ""
    return f'<g class="{series_class(number)}">{bars}{path}{marks}</g>'


def _bar(axes: Axes, point: Point) -> str:
    x, low, high = axes.x(point.x), axes.y_inside(point.low), axes.y_inside(point.high)
    return (
        f'<path class="bar" d="M{x:.1f} {low:.1f}V{high:.1f}M{x - 3:.1f} {low:.1f}h6M{x - 3:.1f} {high:.1f}h6"/>'
    )


def curve(points: Iterable[tuple[float, float]], name: str) -> str:
    """A path of that class through these coordinates."""
    return f'<path class="{name}" d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in points)}"/>'


def _legend_entry(number: int, name: str) -> str:
    drawn = f'<svg width="16" height="16" viewBox="-8 -8 16 16" aria-hidden="true">{mark(number, 0, 0)}</svg>'
    return f'<li class="{series_class(number)}">{drawn}{escape(name)}</li>'


def mark(number: int, x: float, y: float) -> str:
    """The mark of the series with that number."""
    shape = SHAPES[number % len(SHAPES)]
    return f'<path class="mark" d="{shape}" transform="translate({x:.1f} {y:.1f})"/>'


def series_class(number: int) -> str:
    """The class that has the colour of the series with that number."""
    return f"series-{number % len(SHAPES)}"
