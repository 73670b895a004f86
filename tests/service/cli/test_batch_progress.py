"""Progress of commands, in a terminal and elsewhere."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from engine.batch.planning import Task
from engine.batch.progress import TaskProgress
from engine.batch.tasks import Outcome
from service.cli import batch_progress, console
from service.cli.batch_progress import BatchProgress, duration
from service.cli.console import tracked

pty = pytest.importorskip("pty", reason="only Unix has pseudo-terminals")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.04, "0.0 s"), (4.23, "4.2 s"), (200, "3 min 20 s"), (3599.9, "1 h 0 min"), (3900, "1 h 5 min")],
)
def test_times_are_told_in_words(seconds, words):
    assert duration(seconds) == words


def test_items_are_counted_where_there_is_no_terminal(monkeypatch, capsys):
    monkeypatch.setattr(console, "LINE_INTERVAL", 0.0)

    assert list(tracked("ab", "measuring", 2)) == ["a", "b"]
    assert capsys.readouterr().err == "measuring: 0 of 2\nmeasuring: 1 of 2\n"


@pytest.mark.parametrize("verbose", [False, True])
def test_images_that_are_done_at_once_are_counted(monkeypatch, capsys, verbose):
    monkeypatch.setattr(batch_progress, "LINE_INTERVAL", 0.0)
    progress = BatchProgress(3, verbose=verbose, at_once=True)

    progress.finish(Outcome(Task(Path("a.png"), Path("o/a.png")), pixels=10**6, changed=("told",)))
    progress.finish(Outcome(Task(Path("b.png"), Path("o/b.png")), "is broken"))
    progress.summarise()

    told = capsys.readouterr().err.splitlines()
    rate = r"[\d.]+ images and [\d.]+ megapixels a second"
    lines = ["a.png: o/a.png; told"] if verbose else []
    assert told[: len(lines)] == lines
    assert re.fullmatch(rf"1 of 3 images, {rate}, [\d.]+ s left", told[len(lines)])
    assert told[len(lines) + 1] == "b.png: is broken"
    assert re.fullmatch(rf"1 image denoised in [\d.]+ s, {rate}", told[-2])


def test_a_terminal_shows_a_bar_with_the_file(model, photos, tmp_path):
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "service.cli", "run", photos, "-o", tmp_path / "o", "--model", model]
    environment = os.environ | {"COLUMNS": "150", "TERM": "xterm"}
    process = subprocess.Popen(list(map(str, command)), stderr=theirs, env=environment)
    os.close(theirs)
    shown = io.BytesIO()
    while True:
        try:
            part = os.read(ours, 65536)
        # Linux ends a terminal with an error.
        except OSError:
            break
        if not part:
            break
        shown.write(part)
    os.close(ours)

    text = shown.getvalue().decode()
    assert process.wait() == 0
    assert "2.png" in text
    assert "model plain" in text
    assert "3 images denoised in " in text
    assert f"{photos / '0.png'}: " not in text, "only --verbose has a line for each file"


@pytest.mark.parametrize("width", [60, 80, 150])
def test_pages_and_time_left_are_shown_in_a_narrow_terminal(width, monkeypatch):
    terminal = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    monkeypatch.setattr(batch_progress, "err", terminal)
    progress, task = batch_progress.BatchProgress(4), Task(Path("a_long_name.tif"), Path("b.tif"))

    with progress.shown():
        progress.update(TaskProgress(task, "Noise of about 2970 counts, 7 % of the image's range", 3, 100))

    last = terminal.file.getvalue().split("a_long_name.tif")[-1]
    assert "page 3 of 100 " in last
    assert ":" in last
