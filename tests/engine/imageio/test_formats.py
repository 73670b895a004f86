"""The table of formats, and what is made from it."""

import re
from pathlib import Path

import pytest

from engine.imageio.formats import (
    FORMATS,
    SAME,
    SUPPORTED_FORMATS,
    WRITABLE_FORMATS,
    CannotWrite,
    detect_format,
    format_name,
    output_format,
    table_rows,
)

README = Path(__file__).parents[3] / "service" / "README.md"


def test_the_readme_has_the_table():
    assert "\n".join(table_rows()) in README.read_text()


def test_the_readme_names_every_output_format():
    [row] = [line for line in README.read_text().splitlines() if line.startswith("| `format` |")]

    assert re.findall("`([a-z]+)`", row)[1 : len(WRITABLE_FORMATS) + 2] == [*WRITABLE_FORMATS, SAME]


def test_no_suffix_belongs_to_two_formats():
    suffixes = [suffix for kind in FORMATS.values() for suffix in kind.suffixes]

    assert len(suffixes) == len(set(suffixes))
    assert all(kind.title in SUPPORTED_FORMATS for kind in FORMATS.values())


def test_same_stands_for_the_format_of_the_input():
    assert output_format(SAME, FORMATS["tiff"]).name == "tiff"
    assert output_format("webp", FORMATS["tiff"]).name == "webp"


@pytest.mark.parametrize(
    ("name", "came", "message"),
    [
        ("bmp", "png", "BMP can be read but not written. Output formats: jpeg, png, webp, tiff and avif."),
        (SAME, "heic", "HEIC can be read but not written. Output formats: jpeg"),
        ("JPEG", "png", "There is no format 'JPEG'. Did you mean 'jpeg'[?] Output"),
        ("tif", "png", "There is no format 'tif'. Did you mean 'tiff'[?] Output"),
        ("pgn", "png", "There is no format 'pgn'. Did you mean 'png'[?] Output"),
        ("xcf", "png", "There is no format 'xcf'. Output formats: jpeg.*, or same to keep the input's format."),
    ],
)
def test_a_format_that_is_not_written_is_refused(name, came, message):
    with pytest.raises(CannotWrite, match=message):
        output_format(name, FORMATS[came])


def test_a_video_is_refused_by_name():
    with pytest.raises(ValueError, match=r"a video or other ISO media file\. Supported formats: JPEG, PNG"):
        detect_format(b"\0\0\0\x20ftypisom\0\0\0\0")


@pytest.mark.parametrize(
    ("text", "name"),
    [("JPEG", "jpeg"), ("jpg", "jpeg"), (".TIF", "tiff"), (" png ", "png"), ("SAME", "same"), ("xcf", "xcf")],
)
def test_a_format_is_known_by_its_suffixes_in_any_case(text, name):
    assert format_name(text) == name
