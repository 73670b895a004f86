"""Charts of the report: the noise law, the learning curve, and autocorrelations."""

from collections.abc import Sequence

import torch

from engine.adaptation.doctor.correlation import MAX_LAG_CORRELATION, LagCorrelation
from engine.adaptation.quality import Estimate
from engine.adaptation.report.residual import BAND, REACH, ResidualCorrelation
from engine.adaptation.result import CurvePoint
from engine.evaluation.svg_chart import Point, Series, draw_series
from engine.inference.noise_estimation.noise_law import LawEstimate

# Points of the law's line.
LINE_POINTS = 41
CHANNELS = ("red", "green", "blue")
# Side of a cell of the map, in units of its drawing.
CELL = 20
# The map starts here, right of and below its numbers.
MARGIN = 34
# Opacity of values inside the band, and of those just outside.
INSIDE = 0.06
LEAST_OUTSIDE = 0.3


def law_chart(laws: Sequence[LawEstimate]) -> str:
    """Variance by brightness: what was measured, and the law."""
    lines = []
    # In an order that gives each channel the page's colour that is closest.
    order = (2, 0, 1) if len(laws) == len(CHANNELS) else range(len(laws))
    for number in order:
        law = laws[number]
        points = [
            Point(each.brightness, each.sigma**2, *_ends(each.sigma**2, 2 * each.sigma * each.standard_error))
            for each in law.points
        ]
        name = f"{CHANNELS[number]}: " if len(laws) == len(CHANNELS) else ""
        lines.append(
            Series(f"{name}measured, with one standard error; the line is the law", points, line=_line(law))
        )
    label = "The variance of the noise by brightness, as measured and by the law."
    return draw_series(lines, "brightness, in the file's units", "variance of the noise", label)


def _ends(value: float, error: float) -> tuple[float, float]:
    return value - error, value + error


def _line(law: LawEstimate) -> list[tuple[float, float]]:
    brightness = [point.brightness for point in law.points]
    if not brightness:
        return []
    steps = torch.linspace(min(brightness), max(brightness), LINE_POINTS, dtype=torch.float64)
    return list(zip(steps.tolist(), law.law.variance(steps).tolist(), strict=True))


def curve_chart(curve: Sequence[CurvePoint], before: Estimate) -> str:
    """The gain by minutes of training."""
    points = [Point(each.minutes, *_of(each.gain)) for each in curve]
    minutes = [point.x for point in points]
    level = [(min(minutes), before.value), (max(minutes), before.value)]
    lines = [
        Series("adapted weights, with 95 % interval", points),
        Series("weights in service", [Point(*level[-1])], line=level, dashed=True),
    ]
    label = "The gain over the noisy shots by minutes of training."
    return draw_series(lines, "minutes of training", "gain over the noisy shots, dB", label)


def _of(estimate: Estimate) -> tuple[float, float, float]:
    return estimate.value, estimate.low, estimate.high


def lag_chart(lag: LagCorrelation) -> str:
    """Correlation by the distance of two shots in time."""
    points = [
        Point(distance, value, *_ends(value, lag.error)) for distance, value in enumerate(lag.values, start=1)
    ]
    label = "The correlation of the noise of two shots, by how many shots they are apart."
    limits = (-MAX_LAG_CORRELATION, MAX_LAG_CORRELATION)
    return draw_series([Series("correlation", points)], "shots apart", "correlation", label, limits)


def residual_chart(found: ResidualCorrelation) -> str:
    """The autocorrelation along rows and columns."""
    steps = range(1, REACH + 1)
    expected = [(step, found.expected_at(0, step)) for step in steps]
    lines = [
        Series("along rows", [Point(step, found.at(0, step)) for step in steps]),
        Series("along columns", [Point(step, found.at(step, 0)) for step in steps]),
        Series(
            "expected along rows, with its band",
            [Point(step, value, *_ends(value, BAND * found.error)) for step, value in expected],
            dashed=True,
        ),
    ]
    label = "The autocorrelation of the residual along rows and columns, and what is expected."
    return draw_series(lines, "pixels apart", "correlation", label)


def residual_map(found: ResidualCorrelation) -> str:
    """All distances up to REACH, as squares with their values. Those inside the band are pale."""
    side = 2 * REACH + 1
    scale = max(abs(found.excess(*found.largest)), BAND * found.error)
    cells = "".join(
        _cell(down, across, found, scale)
        for down in range(-REACH, REACH + 1)
        for across in range(-REACH, REACH + 1)
    )
    texts = []
    for step in range(-REACH, REACH + 1, REACH // 2):
        place = MARGIN + CELL * (step + REACH) + CELL / 2
        texts.append(f'<text x="{place:g}" y="{MARGIN - 8}" text-anchor="middle">{step}</text>')
        texts.append(f'<text x="{MARGIN - 8}" y="{place + 4:g}" text-anchor="end">{step}</text>')
    size = MARGIN + CELL * side + 2
    label = "The autocorrelation of the residual by distance down and across. Its numbers are in the JSON file."
    head = f'<svg class="map" viewBox="0 0 {size} {size}" role="img" aria-label="{label}">'
    return f"{head}{cells}{''.join(texts)}</svg>"


def _cell(down: int, across: int, found: ResidualCorrelation, scale: float) -> str:
    middle = down == across == 0
    value = found.at(down, across)
    share = min(abs(found.excess(down, across)) / scale, 1.0)
    opacity = LEAST_OUTSIDE + (1 - LEAST_OUTSIDE) * share if found.is_outside(down, across) else INSIDE
    name = "middle" if middle else "positive" if found.excess(down, across) > 0 else "negative"
    x, y = (MARGIN + CELL * (step + REACH) for step in (across, down))
    title = f"<title>{down} down, {across} across: {value:.4f}</title>"
    box = f'x="{x}" y="{y}" width="{CELL - 1}" height="{CELL - 1}"'
    return f'<rect class="{name}" {box} fill-opacity="{1 if middle else opacity:.2f}">{title}</rect>'
