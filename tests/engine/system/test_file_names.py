"""Names that some system takes for one."""

import pytest

from engine.system.file_names import earlier_results, name_key


@pytest.mark.parametrize(
    ("one", "other"),
    [("A.png", "a.PNG"), ("\u00e9", "e\u0301"), ("\u00c9", "e\u0301"), ("stra\u00dfe", "STRASSE")],
)
def test_names_that_a_system_takes_for_one_have_one_key(one, other):
    assert name_key(one) == name_key(other)


def test_other_names_have_other_keys():
    assert len({name_key(name) for name in ("a", "b", "\u00e9", "e")}) == 4


def test_results_beside_their_sources_are_known(tmp_path):
    names = [
        "a.jpg",
        "a.denoised.jpg",
        "b.denoised.png",
        "c.tif",
        "c.denoised.png",
        "x/a.png",
        "x/c.denoised.tif",
    ]
    images = [tmp_path / name for name in names]

    found = earlier_results(images)

    assert found == {tmp_path / "a.denoised.jpg", tmp_path / "c.denoised.png"}
