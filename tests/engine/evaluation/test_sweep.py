from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from engine.evaluation import sweep as sweep_module
from engine.evaluation.sweep import Cell, cell_recipes, sweep, sweep_plot, sweep_table
from engine.training.log import read_log
from engine.training.loop import Diverged
from engine.training.recipe import read_recipe
from tests.support.pixels import count_colours


@pytest.fixture
def small(monkeypatch):
    """The base recipe of a sweep of four small cells, and their sizes in place of the report's."""
    monkeypatch.setattr(sweep_module, "BATCHES", (1, 2))
    monkeypatch.setattr(sweep_module, "RATES", (0.5,))
    monkeypatch.setattr(sweep_module, "WIDTHS", (4, 8, 12))
    values = {"batch": "2", "lr": "0.5", "hidden": "4", "patch": "8", "noise_range": "2,3", "steps": "2"}
    return read_recipe("paper", {**values, "precision": "float32", "synthetic": "0"})


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(256, size=(40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{seed}.png")
    return folder


def nothing(*_):
    """Takes what there is to report."""


def test_the_sweep_has_the_reports_cells_each_once():
    base = read_recipe("paper")

    recipes = cell_recipes(base)

    assert len(recipes) == len(set(recipes)) == 4 * 4 + 3
    assert {(recipe.batch, recipe.lr) for recipe in recipes[:16]} == {
        (batch, lr) for batch in (8, 16, 32, 64) for lr in (0.1, 0.2, 0.4, 0.8)
    }
    assert sorted(recipe.hidden for recipe in recipes[16:]) == [32, 64, 128]


def test_the_table_shows_what_is_missing_or_diverged(small):
    lines = [{"step": 25_000, "megapixels": 1.0, "loss": 0.1}]
    done = [
        Cell(small, lines, 24.5),
        Cell(replace(small, batch=1), [], None),
        Cell(replace(small, hidden=8), lines, 25.0),
    ]

    table = sweep_table(small, done)

    assert table.splitlines() == [
        "PSNR in dB after 2 steps a cell; in brackets, epochs of 50000 pairs.",
        "",
        "| batch, hidden 4 | lr 0.5 |",
        "| --- | --- |",
        "| 1 | diverged |",
        "| 2 | 24.50 (1) |",
        "",
        "| hidden, batch 2 | lr 0.5 |",
        "| --- | --- |",
        "| 4 | 24.50 (1) |",
        "| 8 | 25.00 (1) |",
        "| 12 |  |",
    ]


def test_the_plot_has_a_curve_for_each_width_that_is_done(small, log, tmp_path):
    lines = read_log(log)
    other = [{**line, "loss": 2 * line["loss"]} for line in lines]

    sweep_plot(small, [Cell(small, lines, 20)], tmp_path / "one.png")
    sweep_plot(small, [Cell(small, lines, 20), Cell(replace(small, hidden=8), other, 20)], tmp_path / "two.png")

    assert count_colours(tmp_path / "two.png") > count_colours(tmp_path / "one.png") > 2


def test_a_sweep_trains_every_cell_and_leaves_a_table_and_a_plot(small, photos, tmp_path):
    reported = []

    ended = sweep(small, [photos], tmp_path / "out", None, lambda *line: reported.append(line), nothing)

    assert ended
    names = ["batch1-lr0.5-hidden4", "batch2-lr0.5-hidden4", "batch2-lr0.5-hidden8", "batch2-lr0.5-hidden12"]
    assert all((tmp_path / "out" / f"{name}.safetensors").is_file() for name in names)
    assert {title for title, _ in reported} == {f"{n}/4 {name}" for n, name in enumerate(names, 1)}
    assert (tmp_path / "out" / "sweep.md").read_text().count("(8e-05)") == 4
    assert count_colours(tmp_path / "out" / "sweep.png") > 2


def test_a_sweep_that_is_run_again_trains_nothing_anew(small, photos, tmp_path):
    sweep(small, [photos], tmp_path, None, nothing, nothing)
    reported = []

    sweep(small, [photos], tmp_path, lambda weights: 12.25, lambda *line: reported.append(line), nothing)

    assert not reported
    assert (tmp_path / "sweep.md").read_text().count("12.25") == 5


def test_a_cell_that_diverges_is_noted_and_the_others_go_on(small, photos, tmp_path, monkeypatch):
    real, warnings = sweep_module.trainer.run, []

    def run(job, *callbacks):
        if job.recipe.hidden == 8:
            job.log.write_text("")
            raise Diverged("the loss at step 1 is nan")
        return real(job, *callbacks)

    monkeypatch.setattr(sweep_module.trainer, "run", run)

    assert sweep(small, [photos], tmp_path, None, nothing, warnings.append)
    assert "| 8 | diverged |" in (tmp_path / "sweep.md").read_text()
    assert warnings == ["3/4 batch2-lr0.5-hidden8: the loss at step 1 is nan"]


def test_a_sweep_that_is_stopped_says_so(small, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep_module.trainer, "run", lambda *_: False)

    assert not sweep(small, [photos], tmp_path, None, nothing, nothing)
