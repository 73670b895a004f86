"""Locations: paths of files and of objects."""

import sys
from pathlib import Path, PurePosixPath

import pytest

from engine.storage.bucket import Bucket, ObstoreMissing, _store
from engine.storage.locations import ObjectPath, file_stamp, is_url, location

FOLDER = ObjectPath(Bucket("s3://archive"), "scans/2024")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("s3://archive/scans/2024", "scans/2024"),
        ("s3://archive/scans/2024/", "scans/2024"),
        ("s3:/archive/scans/2024", "scans/2024"),
        ("s3://archive", ""),
        ("s3://archive/", ""),
    ],
)
def test_urls_mean_objects_and_folders(text, key):
    found = location(text)

    assert found == ObjectPath(Bucket("s3://archive"), key)
    assert found.means_folder == text.endswith("4/")
    assert is_url(text)


@pytest.mark.parametrize("text", ["scans", "/scans/a.png", "-", "s3", "http://host/a.png", "a.s3://b"])
def test_other_texts_mean_files(text):
    assert location(text) == Path(text)
    assert not is_url(text)


def test_a_url_without_a_bucket_is_refused():
    with pytest.raises(ValueError, match="gs://: the name of the bucket is missing; write gs://BUCKET/FOLDER"):
        location("gs://")


def test_objects_have_the_parts_of_paths():
    file = FOLDER / "a.tar.gz"

    assert str(file) == "s3://archive/scans/2024/a.tar.gz"
    assert (file.name, file.stem, file.suffix) == ("a.tar.gz", "a.tar", ".gz")
    assert file.parent == FOLDER
    assert file.with_name("b") == FOLDER / "b"
    assert file.relative_to(FOLDER.parent) == PurePosixPath("2024/a.tar.gz")
    assert FOLDER / FOLDER.relative_to(FOLDER) == FOLDER
    assert FOLDER.absolute() == location(str(FOLDER)) == location(FOLDER)
    assert ObjectPath(FOLDER.bucket, "") / "a" == location("s3://archive/a")
    with pytest.raises(ValueError, match="is not in"):
        file.relative_to(FOLDER / "a")


def test_stamps_of_files_and_objects_tell_their_sizes(bucket, tmp_path):
    (tmp_path / "a").write_bytes(b"four")
    bucket.write("in/a", b"four")

    assert file_stamp(tmp_path / "a")[0] == file_stamp(ObjectPath(bucket, "in/a"))[0] == 4
    assert file_stamp(tmp_path / "b") is file_stamp(ObjectPath(bucket, "in/b")) is None


def test_what_is_no_object_is_taken_for_a_folder(bucket):
    bucket.write("in/a.png", b"x")

    assert ObjectPath(bucket, "in").is_dir()
    assert ObjectPath(bucket, "").is_dir()
    assert ObjectPath(bucket, "in/a.png").is_file()
    assert not ObjectPath(bucket, "in/a.png").is_dir()


def test_a_bucket_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    _store.cache_clear()

    with pytest.raises(ObstoreMissing, match=r"pip install 'denoise\[buckets\]'"):
        FOLDER.bucket.listed("")
