import math
import re

import pytest

from engine.evaluation.svg_chart import BOTTOM, LEFT, RIGHT, TOP, Point, Series, draw_series, ticks


def drawn(*series, band=None):
    return draw_series(series, "x <axis>", "y", "a label", band)


def marks(chart):
    return [tuple(map(float, each)) for each in re.findall(r"translate\(([\d.]+) ([\d.]+)\)", chart)]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.2, 17), (98.7, 99.1), (1e-7, 4e-7), (5, 5), (0, 0)])
def test_ticks_are_few_and_hold_the_range(low, high):
    found = ticks(low, high)

    assert found[0] <= low + 1e-9 * abs(low)
    assert found[-1] >= high - 1e-9 * abs(high)
    assert 2 <= len(found) <= 10
    assert found == sorted(set(found))


def test_marks_and_bars_lie_inside_the_axes():
    chart = drawn(Series("a", [Point(0, 1, 0.5, 1.5), Point(2, 3, -1000, 1000), Point(4, 2, math.nan, math.nan)]))

    for x, y in marks(chart)[:3]:
        assert LEFT <= x <= RIGHT
        assert TOP <= y <= BOTTOM
    bars = re.findall(r'class="bar" d="M([\d.]+) ([\d.]+)V([\d.]+)', chart)
    assert len(bars) == 2
    assert all(TOP <= float(end) <= BOTTOM for bar in bars for end in bar[1:])


def test_an_interval_without_ends_has_no_bar():
    chart = drawn(Series("a", [Point(0, 1, -math.inf, math.inf), Point(1, 2)]))

    assert "inf" not in chart
    assert 'class="bar"' not in chart


def test_a_line_may_differ_from_the_points():
    joined = drawn(Series("a", [Point(0, 0), Point(1, 1)]))
    apart = drawn(Series("a", [Point(0, 0), Point(1, 1)], line=()))
    other = drawn(Series("a", [Point(0, 0)], line=[(0, 0), (2, 4)], dashed=True))

    assert joined.count('class="line"') == 1
    assert apart.count('class="line"') == 0
    assert other.count('class="line dashed"') == 1


def test_names_in_a_chart_are_text():
    chart = drawn(Series("a & <b>", [Point(0, 0), Point(1, 1)]), band=(-0.5, 0.5))

    assert "a &amp; &lt;b&gt;" in chart
    assert "x &lt;axis&gt;" in chart
    assert 'class="band"' in chart


def test_a_chart_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no points"):
        drawn(Series("a", []))
