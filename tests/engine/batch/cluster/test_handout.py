"""Portions of the tasks of a batch."""

from pathlib import Path

import pytest

from engine.batch.cluster.handout import MAX_PORTION, HandOut
from engine.batch.planning import Task


def tasks(count, suffix=".png"):
    return [Task(Path(f"{number}{suffix}"), Path("out")) for number in range(count)]


def handed_out(waiting):
    portions = []
    while portion := waiting.next():
        portions.append(len(portion))
    return portions


def test_portions_have_about_so_many_megapixels():
    waiting = HandOut(tasks(100), 10, 1, lambda task: 3_000_000)

    assert handed_out(waiting)[:3] == [3, 3, 3]


def test_a_large_image_is_a_portion():
    assert handed_out(HandOut(tasks(3), 1, 1, lambda task: 9_000_000)) == [1, 1, 1]


def test_portions_get_smaller_at_the_end():
    portions = handed_out(HandOut(tasks(100), 1e9, 4, lambda task: 1))

    assert portions[0] == 13
    assert portions == sorted(portions, reverse=True)
    assert portions[-4:] == [1, 1, 1, 1]
    assert sum(portions) == 100


def test_small_images_do_not_make_endless_portions():
    assert handed_out(HandOut(tasks(10_000), 64, 1, lambda task: 1))[0] == MAX_PORTION


def test_pixels_are_guessed_from_files_of_the_same_kind():
    waiting = HandOut(tasks(50), 10, 1, lambda task: 1_000_000)
    waiting.learn(Task(Path("x.png"), Path("out")), 5_000_000)
    waiting.learn(Task(Path("x.jpg"), Path("out")), 50_000_000)
    waiting.learn(Task(Path("broken.png"), Path("out")), 0)

    assert len(waiting.next()) == 2


def test_what_was_lost_goes_first_and_a_suspect_last():
    first, *others = tasks(4)
    waiting = HandOut(others, 1000, 1, lambda task: 1)
    waiting.put_last(first)
    portion = waiting.next()
    waiting.put_back(portion)

    order = []
    while portion := waiting.next():
        order += portion
    assert order == [*others, first]
    assert len(waiting) == 0


@pytest.mark.parametrize("count", [0, 1])
def test_few_tasks_are_handed_out(count):
    assert handed_out(HandOut(tasks(count), 64, 8, lambda task: 1)) == [1] * count
