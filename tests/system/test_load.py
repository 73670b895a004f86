"""The load test, for seconds, or for a minute if CI is set; and the checks that it is made of."""

import asyncio
import math
import os
import sys
from dataclasses import replace

import pytest

from engine.imageio.formats import FORMATS
from engine.imageio.read import read
from engine.imageio.write import encode
from tests.load.clients import LoadRun, Results
from tests.load.rows import Row, none_of, percentile, table
from tests.load.samples import WeightsFolder, samples
from tests.load.scenario import Plan, run
from tests.load.wire import Answer

SHORT = Plan(seconds=12, clients=16, alone=1, largest=200_000, posts=3, jobs=6)
LONG = Plan(seconds=60, clients=64, alone=5, largest=1_000_000)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_load_and_a_kill_lose_nothing_and_break_nothing():
    rows = asyncio.run(run(LONG if os.environ.get("CI") else SHORT))

    # pytest shows the table if the test fails. Times are not judged: the clients and other work share the cores.
    print("\n".join(table(rows)))
    assert [row for row in rows if row.met is False and not row.timed] == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return WeightsFolder(tmp_path_factory.mktemp("load") / "weights")


@pytest.fixture(scope="module")
def sample(folder):
    return next(samples(folder.models, 32 * 32))


def changed(file, steps):
    """The same image, with one sample changed by this many steps."""
    found = read(file)
    pixels = found.pages[0].samples.clone()
    pixels[3, 5, 1] = pixels[3, 5, 1] + steps if pixels[3, 5, 1] < 128 else pixels[3, 5, 1] - steps
    return encode(replace(found, pages=(replace(found.pages[0], samples=pixels),)), FORMATS["png"]).data


def test_a_result_may_differ_by_one_step_but_not_by_two(folder, sample):
    expected = sample.expected[folder.first]

    assert sample.fault(folder.first, expected) is None
    assert sample.fault(folder.first, changed(expected, 1)) is None
    assert sample.fault(folder.first, changed(expected, 2)) == "differs by 2.00 steps of 8 bits"


def test_a_result_of_other_weights_or_cut_short_is_wrong(folder, sample):
    assert "differs by" in sample.fault(folder.first, sample.expected[folder.second])
    assert "made by unexpected weights" in sample.fault("0" * 64, sample.expected[folder.first])
    assert "not an image" in sample.fault(folder.first, sample.expected[folder.first][:-100])


def test_the_weights_file_is_swapped_and_swapped_back(folder):
    assert [folder.swap(), folder.swap()] == [folder.second, folder.first]


@pytest.mark.parametrize(
    ("status", "headers", "faults"),
    [(200, {}, 0), (503, {"retry-after": "3"}, 0), (504, {}, 0), (503, {}, 1), (500, {}, 1), (404, {}, 1)],
)
def test_an_unexpected_status_is_a_fault(status, headers, faults):
    state = LoadRun(0, (), ("", ""), set(), None)

    state.expect("image", Answer(status, headers, b""), 200)

    assert len(state.results.faults) == faults
    assert state.results.statuses == {f"image {status}": 1}


def test_a_result_of_weights_that_no_longer_serve_is_wrong(folder, sample):
    state = LoadRun(0, (sample,), (folder.first, folder.second), {folder.second}, None, Results())
    body = sample.expected[folder.first]

    asyncio.run(state.check("image", sample, folder.first, body, {folder.second}))
    asyncio.run(state.check("image", sample, folder.first, body, {folder.first}))

    assert len(state.results.wrong) == 1
    assert (state.results.correct, state.results.pixels) == (1, 32 * 32)


def test_weights_that_serve_during_a_request_may_answer_it():
    state = LoadRun(0, (), ("a", "b"), {"a"}, None)
    early = state.begin_request()

    state.start_serving("b")
    state.serving.intersection_update({"b"})
    between = state.begin_request()
    state.start_serving("a")
    state.serving.intersection_update({"a"})

    assert (early, between, state.begin_request()) == ({"a", "b"}, {"a", "b"}, {"a"})


def test_the_table_marks_requirements_that_are_not_met():
    rows = [none_of("wrong images", ["one"]), none_of("errors", []), Row("start", "", "2 s")]

    assert list(table(rows))[2:] == [
        "| wrong images | 0 | 1 | NO |",
        "| errors | 0 | 0 | yes |",
        "| start |  | 2 s |  |",
    ]


def test_the_99th_percentile_of_a_hundred_is_the_second_largest():
    assert percentile(list(range(1, 101)), 0.99) == 99
    assert math.isnan(percentile([], 0.99))
