"""Names that some system takes for one."""

import pytest

from engine.system.file_names import name_key


@pytest.mark.parametrize(
    ("one", "other"),
    [("A.png", "a.PNG"), ("\u00e9", "e\u0301"), ("\u00c9", "e\u0301"), ("stra\u00dfe", "STRASSE")],
)
def test_names_that_a_system_takes_for_one_have_one_key(one, other):
    assert name_key(one) == name_key(other)


def test_other_names_have_other_keys():
    assert len({name_key(name) for name in ("a", "b", "\u00e9", "e")}) == 4
