"""The plan of a training run in words."""

from pathlib import Path

import pytest

from engine.training.plan import plan_lines
from engine.training.recipe import read_recipe, shipped_recipes
from engine.training.training_job import TrainingJob


@pytest.mark.parametrize("recipe", shipped_recipes())
def test_every_recipe_has_a_plan(recipe):
    lines = plan_lines(TrainingJob(read_recipe(recipe), Path("my.safetensors")))

    assert [line.split(":")[0] for line in lines] == ["recipe", "network", "data", "writes", "expect"]
    assert lines[-1].startswith("expect:  estimate: ")


def test_pairs_are_told_from_images(tmp_path):
    for name in ("noisy", "clean"):
        (tmp_path / name).mkdir()
    job = TrainingJob(read_recipe("paper"), Path("my.safetensors"), (tmp_path, Path("val.pkl")))

    assert plan_lines(job)[2] == f"data:    pairs in the folders of {tmp_path}, pairs in val.pkl"
