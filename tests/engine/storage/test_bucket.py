"""Buckets, in a store on this machine."""

import pickle

import pytest

from engine.storage.bucket import Bucket, BucketNotFound


def test_a_folder_lists_its_objects_and_subfolders(bucket, buckets, name):
    for key in ("in/b.png", "in/a.png", "in/deep/c.png", "inner.png", "in/ü ñ#.png"):
        buckets.put(name, key, b"x")

    assert bucket.listed_folder("in/") == (["in/a.png", "in/b.png", "in/ü ñ#.png"], ["in/deep/"])
    assert bucket.listed("in/") == ["in/a.png", "in/b.png", "in/deep/c.png", "in/ü ñ#.png"]
    assert bucket.listed_folder("none/") == ([], [])


def test_empty_objects_that_stand_for_folders_are_left_out(bucket, buckets, name):
    buckets.put_odd(name, "in/deep/", b"")
    buckets.put(name, "in/empty.png", b"")

    assert bucket.listed("in/") == ["in/empty.png"]


def test_an_object_is_read_as_it_was_written(bucket, tmp_path):
    (tmp_path / "file").write_bytes(b"from a file")

    bucket.write("a", b"bytes")
    bucket.write("b", tmp_path / "file")
    bucket.download("b", tmp_path / "copy")

    assert bucket.read("a") == b"bytes"
    assert bucket.read_head("a", 2) == b"by"
    assert (tmp_path / "copy").read_bytes() == b"from a file"


def test_a_stamp_tells_when_an_object_changed(bucket, buckets, name):
    written = bucket.write("a", b"first")

    assert bucket.stamp("a") == written == Bucket(bucket.url).stamp("a")
    buckets.put(name, "a", b"other")
    assert bucket.stamp("a") == written, "no request for what is known"
    assert bucket.read("a") == b"other"
    assert bucket.stamp("a") != written, "a read tells the stamp of what was read"
    assert bucket.stamp("none") is None


def test_a_listed_folder_is_seen_as_it_was(bucket, buckets, name):
    bucket.listed("out/")
    buckets.put(name, "out/a.png", b"x")

    assert bucket.stamp("out/a.png") is None
    assert pickle.loads(pickle.dumps(bucket)).stamp("out/a.png"), "a copy remembers nothing"
    assert pickle.loads(pickle.dumps(bucket)) == bucket


def test_an_object_that_is_read_ahead_is_read_once(bucket, buckets, name):
    buckets.put(name, "a", b"first")
    bucket.read_ahead("a")
    first = bucket.read("a")
    buckets.put(name, "a", b"other")

    assert (first, bucket.read("a")) == (b"first", b"other")
    bucket.read_ahead("none")
    with pytest.raises(FileNotFoundError):
        bucket.read("none")


def test_removed_objects_are_gone(bucket):
    bucket.write("a", b"x")

    bucket.remove(["a", "none"])
    bucket.remove([])

    assert bucket.stamp("a") is None


@pytest.mark.parametrize(
    "use",
    [
        lambda bucket: bucket.listed("in/"),
        lambda bucket: bucket.listed_folder("in/"),
        lambda bucket: bucket.write("a", b"x"),
    ],
    ids=["listed", "listed_folder", "write"],
)
def test_a_missing_bucket_is_named(buckets, use):
    with pytest.raises(BucketNotFound, match="s3://none-such: there is no such bucket; create it, or check"):
        use(Bucket("s3://none-such"))


def test_a_missing_object_is_named(bucket):
    with pytest.raises(FileNotFoundError, match="there is no such object") as raised:
        bucket.read("in/a.png")

    assert raised.value.filename == f"{bucket.url}/in/a.png"


def test_what_the_store_says_is_told(bucket, buckets, name):
    buckets.put_odd(name, "in/./a.png", b"x")

    with pytest.raises(OSError, match="the object store answers: Encountered object with invalid path"):
        bucket.listed("in/")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ("PermissionDeniedError", "the object store denies access; check the rights"),
        ("UnauthenticatedError", "the object store denies access; check the rights"),
        ("GenericError", r"found no credentials in the environment; set AWS_ACCESS_KEY_ID and AWS_SECRET"),
    ],
)
def test_missing_rights_and_credentials_are_told(bucket, monkeypatch, error, told):
    class Refusing:
        def get(self, key):
            raise getattr(exceptions, error)("PUT http://169.254.169.254/latest/api/token: 403")

    exceptions = pytest.importorskip("obstore.exceptions", reason="needs the extra buckets")
    monkeypatch.setattr("engine.storage.bucket._store", lambda url: Refusing())

    with pytest.raises(PermissionError, match=told):
        bucket.read("a")
