"""The plan of a training run in words."""

from dataclasses import replace
from pathlib import Path

import pytest

from engine.training.plan import plan_lines
from engine.training.recipe import read_recipe, shipped_recipes
from engine.training.training_job import TrainingJob

OUT = Path("my.safetensors")


@pytest.mark.parametrize("recipe", shipped_recipes())
def test_every_recipe_has_a_plan(recipe):
    lines = plan_lines(TrainingJob(read_recipe(recipe), OUT))

    assert [line.split(":")[0] for line in lines] == ["recipe", "network", "data", "writes", "expect"]
    assert lines[-1].startswith("expect:  estimate: ")


def test_pairs_are_told_from_images(tmp_path):
    for name in ("a.png", "b.png", "notes.txt"):
        (tmp_path / name).touch()
    job = TrainingJob(read_recipe("paper"), OUT, (tmp_path, Path("val.pkl")))

    assert plan_lines(job)[2] == f"data:    2 images in {tmp_path}, pairs in val.pkl"


def test_the_plan_has_the_size_of_weights_that_cannot_grow():
    start = Path(__file__).parents[3] / "weights" / "photo-gaussian.safetensors"
    small, large = (TrainingJob(read_recipe(name), OUT) for name in ("photo-small", "photo-gaussian"))

    line = plan_lines(replace(small, start=start))[1]

    assert line == f"{plan_lines(large)[1]}, from {start}, whose size it has"
    assert plan_lines(small)[1] != plan_lines(large)[1]
