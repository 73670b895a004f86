"""Mapped files."""

import pytest

from engine.imageio.formats import NotAnImage, detect_format
from engine.imageio.mapped_file import map_file, open_stream


@pytest.fixture
def mapped(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(range(100)))
    with map_file(path) as data:
        yield data


def test_a_stream_is_never_asked_for_more_bytes_than_there_are(mapped):
    with open_stream(mapped) as stream:
        stream.seek(90)

        assert stream.read(2**60) == bytes(range(90, 100))
        stream.seek(95)
        assert stream.read() == stream.read(-1) + bytes(range(95, 100))
        stream.seek(5)
        assert stream.read(3) == bytes((5, 6, 7))


def test_a_mapped_file_that_is_no_image_is_refused_by_its_beginning(mapped):
    with pytest.raises(NotAnImage, match="100 bytes that begin with 00 01 02"):
        detect_format(mapped)
