"""The bounds of the packages that the project needs."""

import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
NEEDED = {each.name: each for each in map(Requirement, PROJECT["dependencies"])}


@pytest.mark.parametrize("name", NEEDED)
def test_the_tests_run_with_a_version_within_the_bounds(name):
    assert metadata.version(name) in NEEDED[name].specifier


@pytest.mark.parametrize("name", NEEDED)
def test_each_package_has_a_lowest_and_a_highest_version(name):
    operators = {each.operator for each in NEEDED[name].specifier}

    assert operators in ({"~="}, {">=", "<"})


def test_uvicorn_whose_internals_are_used_is_pinned_to_what_was_tested():
    tested = ".".join(metadata.version("uvicorn").split(".")[:2])

    assert str(NEEDED["uvicorn"].specifier) == f"~={tested}.0"
