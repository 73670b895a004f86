"""The table of formats, and what is made from it."""

import re
from pathlib import Path

import pytest

from engine.imageio.formats import (
    FORMATS,
    KINDS_TAKEN,
    SAME,
    WRITTEN,
    CannotWrite,
    chosen,
    kind_of,
    rows,
)

README = Path(__file__).parents[3] / "service" / "README.md"


def test_the_readme_s_table_is_the_code_s():
    assert "\n".join(rows()) in README.read_text()


def test_the_readme_names_every_format_that_is_written():
    [row] = [line for line in README.read_text().splitlines() if line.startswith("| `format` |")]

    assert re.findall("`([a-z]+)`", row)[1 : len(WRITTEN) + 2] == [*WRITTEN, SAME]


def test_no_suffix_belongs_to_two_formats():
    suffixes = [suffix for kind in FORMATS.values() for suffix in kind.suffixes]

    assert len(suffixes) == len(set(suffixes))
    assert all(kind.title in KINDS_TAKEN for kind in FORMATS.values())


def test_the_format_that_came_is_chosen_by_the_word_same():
    assert chosen(SAME, FORMATS["tiff"]).name == "tiff"
    assert chosen("webp", FORMATS["tiff"]).name == "webp"


@pytest.mark.parametrize(
    ("name", "came", "message"),
    [
        ("bmp", "png", "BMP is read and not written; written are jpeg, png, webp, tiff and avif"),
        (SAME, "heic", "HEIC is read and not written; written are jpeg"),
        ("xcf", "png", "There is no format 'xcf'; written are jpeg.* and same for what came"),
    ],
)
def test_what_cannot_be_written_is_refused_with_what_can(name, came, message):
    with pytest.raises(CannotWrite, match=message):
        chosen(name, FORMATS[came])


def test_a_camera_s_film_is_no_image():
    with pytest.raises(ValueError, match="film or other ISO media; taken are JPEG, PNG"):
        kind_of(b"\0\0\0\x20ftypisom\0\0\0\0")
