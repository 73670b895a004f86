import sys

import pytest

from engine.training import plots
from engine.training.plots import plot_logs
from tests.support.pixels import count_colours


def test_curves_are_drawn_as_a_png_a_line_for_each_run(log, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_bytes(log.read_bytes().replace(b'"loss": 0', b'"loss": 1'))

    plot_logs([log], tmp_path / "one.png")
    plot_logs([log, other], tmp_path / "two.png")

    assert count_colours(tmp_path / "two.png") > count_colours(tmp_path / "one.png") > 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no lines yet"),
        ("step 1\n", "not a training log"),
        ('{"step": 1}\n', "line 1 is not a line of a training log"),
    ],
)
def test_what_is_no_log_is_refused_by_name(tmp_path, text, message):
    file = tmp_path / "odd.jsonl"
    file.write_text(text)

    with pytest.raises(ValueError, match=rf"odd\.jsonl: .*{message}"):
        plot_logs([file], tmp_path / "out.png")


def test_without_matplotlib_the_extra_that_has_it_is_named(log, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)

    with pytest.raises(plots.NoPlots, match=r"pip install 'denoise\[train\]'"):
        plot_logs([log], tmp_path / "out.png")
