"""Sources and outputs of tasks, in buckets."""

import numpy as np
import pytest
import tifffile

from engine.batch import files
from engine.batch.files import output_file, source_bytes, write_output
from engine.storage.locations import location


@pytest.fixture
def folder(bucket):
    return location(f"s3://{bucket}/in")


def test_an_output_that_fails_halfway_is_never_seen(folder, buckets, bucket):
    def fail():
        with output_file(folder / "a.tif") as file:
            file.write(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert buckets.keys(bucket) == []

    with output_file(folder / "a.tif") as file:
        file.write(b"whole")
    write_output(folder / "b.png", b"whole")
    assert [buckets.get(bucket, key) for key in ("in/a.tif", "in/b.png")] == [b"whole", b"whole"]


def test_large_stacks_are_read_from_a_copy_on_the_disk(folder, tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((2, 8, 8), np.uint8))
    (folder / "a.tif").write(tmp_path / "a.tif")
    monkeypatch.setattr(files, "MAPPED_BYTES", 0)

    with source_bytes(folder / "a.tif") as data:
        assert not isinstance(data, bytes)
        assert bytes(data) == (tmp_path / "a.tif").read_bytes()


def test_a_source_that_is_gone_is_named(folder):
    with pytest.raises(FileNotFoundError, match="no such object"), source_bytes(folder / "a.png"):
        pass
