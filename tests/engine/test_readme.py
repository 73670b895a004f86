"""engine/README.md: its code runs, its links lead to files, its tables fit the recipes."""

import re
from pathlib import Path

import pytest

from engine.training.recipe import read_recipe

FOLDER = Path(__file__).parents[2] / "engine"
README = (FOLDER / "README.md").read_text("utf-8")
RECIPES = {"S": "photo-small", "M": "photo", "L": "photo-gaussian-large"}


def test_the_python_code_runs():
    [code] = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)

    exec(compile(code, "engine/README.md", "exec"), {})


def test_every_link_leads_to_a_file():
    links = re.findall(r"\]\(([^#)]+)[^)]*\)", README)

    assert [link for link in links if not (FOLDER / link).exists()] == []


def test_links_inside_the_readme_lead_to_its_sections():
    titles = re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}

    assert set(re.findall(r"\]\(#([^)]*)\)", README)) <= anchors


@pytest.mark.parametrize("size", RECIPES)
def test_the_table_of_sizes_has_the_recipes_numbers(size):
    channels, blocks = re.search(rf"^\| {size} \| ([\d, ]+) \| ([\d, ]+) \|$", README, re.MULTILINE).groups()

    config = read_recipe(RECIPES[size]).network_config()
    assert tuple(map(int, channels.split(", "))) == config.channels
    assert tuple(map(int, blocks.split(", "))) == config.blocks
