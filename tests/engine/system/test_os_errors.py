"""Errors of the operating system in words."""

import errno

import pytest

from engine.system.os_errors import describe, reason


def test_a_folder_in_place_of_a_file_is_described(tmp_path):
    with pytest.raises(IsADirectoryError) as caught:
        tmp_path.read_bytes()

    assert describe(caught.value) == f"{tmp_path}: this is a folder, not a file"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "a.png"),
            "a.png: No such file or directory",
        ),
        (
            NotADirectoryError(errno.ENOTDIR, "Not a directory", b"a/b"),
            "a/b: a part of this path is a file, not a folder",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (OSError("the disk was removed"), "the disk was removed"),
        (OSError(), "OSError"),
    ],
)
def test_an_error_is_described_without_its_number(error, words):
    assert describe(error) == words
    assert words.endswith(reason(error))
