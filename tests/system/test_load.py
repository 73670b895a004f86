"""The service as a process under load and after a kill, where CI is set for longer; and what the checks see."""

import asyncio
import math
import os
import sys
from dataclasses import replace

import pytest

from engine.imageio.formats import FORMATS
from engine.imageio.read import read
from engine.imageio.write import encode
from tests.load.clients import Ledger, Town
from tests.load.course import Plan, run
from tests.load.rows import Row, none_of, percentile, table
from tests.load.samples import Folder, samples
from tests.load.wire import Answer

SHORT = Plan(seconds=12, clients=16, alone=1, largest=200_000, posts=3, jobs=6)
LONG = Plan(seconds=60, clients=64, alone=5, largest=1_000_000)


@pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux tells of processes")
def test_under_load_and_after_a_kill_all_is_as_it_was_asked_for():
    rows = asyncio.run(run(LONG if os.environ.get("CI") else SHORT))

    # Shown where it fails. Times are only told: the clients, and who knows what else, have the same cores.
    print("\n".join(table(rows)))
    assert [row for row in rows if row.good is False and not row.timed] == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return Folder(tmp_path_factory.mktemp("load") / "weights")


@pytest.fixture(scope="module")
def sample(folder):
    return next(samples(folder.models, 32 * 32))


def changed(file, steps):
    """The same image, but for one sample that is so many steps away."""
    found = read(file)
    pixels = found.pages[0].samples.clone()
    pixels[3, 5, 1] = pixels[3, 5, 1] + steps if pixels[3, 5, 1] < 128 else pixels[3, 5, 1] - steps
    return encode(replace(found, pages=(replace(found.pages[0], samples=pixels),)), FORMATS["png"]).data


def test_an_image_one_step_away_is_the_engines_and_one_two_steps_away_is_not(folder, sample):
    made = sample.made[folder.first]

    assert sample.fault(folder.first, made) is None
    assert sample.fault(folder.first, changed(made, 1)) is None
    assert sample.fault(folder.first, changed(made, 2)) == "differs by 2.00 steps of 8 bits"


def test_an_image_of_other_weights_or_cut_short_is_not_the_engines(folder, sample):
    assert "differs by" in sample.fault(folder.first, sample.made[folder.second])
    assert "made by other weights" in sample.fault("0" * 64, sample.made[folder.first])
    assert "no image" in sample.fault(folder.first, sample.made[folder.first][:-100])


def test_the_file_of_the_weights_is_swapped_for_the_other_and_back(folder):
    assert [folder.swap(), folder.swap()] == [folder.second, folder.first]


@pytest.mark.parametrize(
    ("status", "headers", "faults"),
    [(200, {}, 0), (503, {"retry-after": "3"}, 0), (504, {}, 0), (503, {}, 1), (500, {}, 1), (404, {}, 1)],
)
def test_an_answer_is_a_fault_unless_it_is_meant(status, headers, faults):
    town = Town(0, (), ("", ""), set(), None)

    town.expect("image", Answer(status, headers, b""), 200)

    assert len(town.ledger.faults) == faults
    assert town.ledger.statuses == {f"image {status}": 1}


def test_an_image_of_weights_that_serve_no_more_is_wrong(folder, sample):
    town = Town(0, (sample,), (folder.first, folder.second), {folder.second}, None, Ledger())

    asyncio.run(town.check("image", sample, folder.first, sample.made[folder.first], {folder.second}))
    asyncio.run(town.check("image", sample, folder.first, sample.made[folder.first], {folder.first}))

    assert len(town.ledger.wrong) == 1
    assert (town.ledger.right, town.ledger.pixels) == (1, 32 * 32)


def test_what_serves_at_any_time_between_question_and_answer_may_have_made_the_image():
    town = Town(0, (), ("a", "b"), {"a"}, None)
    early = town.asking()

    town.serve("b")
    town.serving.intersection_update({"b"})
    between = town.asking()
    town.serve("a")
    town.serving.intersection_update({"a"})

    assert (early, between, town.asking()) == ({"a", "b"}, {"a", "b"}, {"a"})


def test_the_table_says_what_is_not_as_asked():
    rows = [none_of("wrong images", ["one"]), none_of("errors", []), Row("start", "", "2 s")]

    assert list(table(rows))[2:] == [
        "| wrong images | 0 | 1 | NO |",
        "| errors | 0 | 0 | yes |",
        "| start |  | 2 s |  |",
    ]


def test_the_99th_percentile_of_a_hundred_is_the_last_but_one():
    assert percentile(list(range(1, 101)), 0.99) == 99
    assert math.isnan(percentile([], 0.99))
