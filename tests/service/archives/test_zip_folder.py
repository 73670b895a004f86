"""Zips that are unpacked into a folder: only what is safe, and under its own name."""

import io
import struct
import zipfile

import pytest

from service.archives.zip_folder import check_zip, unpack_zip
from service.archives.zip_reader import BadName, BatchTooLarge, BrokenBatch, BrokenEntry, NotOpened
from service.runtime.scheduler import Cancelled

MOST = 2**20


def zipped(*files, compression=zipfile.ZIP_DEFLATED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in files:
            archive.writestr(name, data)
    return file.getvalue()


def unpack(data, folder, most=MOST, check=lambda: None):
    unpack_zip(io.BytesIO(data), folder, 10, most, "adapt_bytes", check)


def test_files_are_written_into_their_folders(tmp_path):
    data = zipped(
        ("a/b/one.tif", b"1"), ("./a//two.tif", b"2"), ("a\\three.tif", b"3"), ("a/", b""), (".DS_Store", b"")
    )

    unpack(data, tmp_path)

    files = {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in tmp_path.rglob("*.tif")}
    assert files == {"a/b/one.tif": b"1", "a/two.tif": b"2", "a/three.tif": b"3"}


@pytest.mark.parametrize(
    "name", ["../a", "a/../../b", "/a", "C:/a", "a\1b", "x" * 256, "x/" * 20 + "x", "/".join(["x" * 99] * 21)]
)
def test_names_that_are_not_safe_are_refused(name, tmp_path):
    with pytest.raises(BadName):
        unpack(zipped((name, b"1")), tmp_path)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("names", "twice"), [(["a", "./a"], "a"), (["a", "a/b"], "a"), (["a/b", "a"], "a"), (["a/b/c", "a/b"], "a/b")]
)
def test_two_files_that_need_one_name_are_refused(names, twice):
    data = zipped(*((name, b"1") for name in names))

    with pytest.raises(BrokenBatch, match=f"The zip has '{twice}' twice"):
        check_zip(io.BytesIO(data), 10, MOST, "adapt_bytes")


def test_a_zip_in_the_zip_is_refused_by_its_beginning():
    data = zipped(("a.tif", b"1"), ("b.tif", zipped(("c", b"1"))))

    with pytest.raises(NotOpened, match=r"b\.tif: This is a zip inside a zip"):
        check_zip(io.BytesIO(data), 10, MOST, "adapt_bytes")


def test_more_bytes_than_allowed_are_refused_before_any_is_written(tmp_path):
    with pytest.raises(BatchTooLarge, match=r"2000 bytes, unpacked; at most 1999 .*DENOISE_ADAPT_BYTES"):
        unpack(zipped(("a", bytes(2000))), tmp_path, most=1999)

    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_larger_than_the_zip_says_is_cut_off(tmp_path):
    data = zipped(("a.tif", bytes(5000)))
    size = struct.pack("<I", 5000)
    assert data.count(size) == 2

    with pytest.raises(BrokenEntry, match=r"a\.tif: The file cannot be unpacked"):
        unpack(data.replace(size, struct.pack("<I", 50)), tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_unpacking_ends_between_two_files(tmp_path):
    asked = []

    def check():
        asked.append(1)
        if len(asked) == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        unpack(zipped(("a", b"1"), ("b", b"2")), tmp_path, check=check)

    assert [path.name for path in tmp_path.iterdir()] == ["a"]
