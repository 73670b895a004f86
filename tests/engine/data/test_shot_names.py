"""Names of shots: which belong together, and how sure that is."""

from pathlib import Path

import pytest

from engine.data.shot_names import group_by_name


def grouped(names, own_folder=False):
    groups = group_by_name([Path(f"{name}.tif") for name in sorted(names)], own_folder)
    return [(each.name, [file.stem for file in each.files], each.belief) for each in groups]


@pytest.mark.parametrize(
    ("names", "own_folder", "expected"),
    [
        (
            ["a_1", "a_2", "b_1", "b_2"],
            False,
            [("a", ["a_1", "a_2"], "certain"), ("b", ["b_1", "b_2"], "certain")],
        ),
        (["frame-00", "frame-01"], True, [("", ["frame-00", "frame-01"], "likely")]),
        (["IMG_0001", "IMG_0002"], False, [("IMG", ["IMG_0001", "IMG_0002"], "open")]),
        (["a_1", "a_2"], False, [("a", ["a_1", "a_2"], "likely")]),
        (["a_7", "a_9", "b_1"], False, [("a", ["a_7", "a_9"], "open"), ("b", ["b_1"], "certain")]),
        (["tree", "house"], True, [("", ["house", "tree"], "open")]),
        (["tree", "house"], False, [("house", ["house"], "open"), ("tree", ["tree"], "open")]),
        (["1", "2", "x"], False, [("1", ["1", "2"], "likely"), ("x", ["x"], "open")]),
        (["spot1", "spot2", "x"], False, [("spot", ["spot1", "spot2"], "certain"), ("x", ["x"], "open")]),
    ],
)
def test_names_are_grouped(names, own_folder, expected):
    assert [(name, files) for name, files, _ in grouped(names, own_folder)] == [each[:2] for each in expected]
    several = [group for group in zip(grouped(names, own_folder), expected, strict=True) if len(group[1][1]) > 1]
    assert all(made[2] == wanted[2] for made, wanted in several)
