"""Blob store: in a bucket and in a folder; and a bucket that is away."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from tempfile import TemporaryFile

import obstore
import pytest
from obstore.exceptions import BaseError

from service.storage.away import BlobsAway
from service.storage.blobs import MOST_SECONDS, PART, PROBE, Blobs


def refusal(work):
    """The seconds until a call is refused."""
    began = time.monotonic()
    with pytest.raises(BlobsAway) as caught:
        work()
    assert caught.value.status == 503
    assert caught.value.headers == {"Retry-After": "5"}
    return time.monotonic() - began


def test_a_blob_is_written_read_and_removed(blobs):
    blobs.put("jobs/a/upload", b"12345")

    assert blobs.size("jobs/a/upload") == 5
    assert blobs.read("jobs/a/upload") == b"12345"
    assert blobs.read("jobs/a/upload", 1, 3) == b"234"
    assert list(blobs.list("jobs")) == ["jobs/a/upload"]
    blobs.delete("jobs/a/upload", "jobs/none")
    assert list(blobs.list("jobs")) == []


def test_an_empty_blob_is_a_blob(blobs):
    blobs.put("empty", b"")

    assert (blobs.size("empty"), blobs.read("empty")) == (0, b"")


def test_a_large_file_comes_back_as_it_was(blobs):
    content = os.urandom(2 * PART + 17)
    with TemporaryFile() as file:
        file.write(content)
        file.seek(0)
        blobs.put("large", file)

    with TemporaryFile() as file:
        blobs.fetch("large", file)
        file.seek(0)
        assert file.read() == content


def test_a_missing_blob_is_a_missing_file(blobs):
    with TemporaryFile() as file:
        for ask in (blobs.size, blobs.read, lambda name: blobs.fetch(name, file)):
            with pytest.raises(FileNotFoundError):
                ask("none")


def test_a_blob_is_also_missing_if_somebody_has_emptied_the_store(blobs):
    blobs.delete(PROBE)

    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            blobs.read("none")


def test_of_many_that_create_a_blob_one_succeeds(blobs):
    with ThreadPoolExecutor(8) as pool:
        created = list(pool.map(lambda number: blobs.create("name", b"%d" % number), range(8)))

    assert created.count(True) == 1
    assert blobs.read("name") == b"%d" % created.index(True)


def test_a_bucket_that_does_not_exist_is_refused_with_why(s3):
    with pytest.raises(ValueError, match=r"blobs: s3://nobodys/x: there is no such bucket"):
        Blobs("s3://nobodys/x")


def test_missing_credentials_are_named(monkeypatch):
    def put(*args):
        raise BaseError("Error performing PUT http://169.254.169.254/latest/api/token - 403 Forbidden")

    monkeypatch.setattr(obstore, "put", put)

    with pytest.raises(ValueError, match=r"no credentials .* set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY$"):
        Blobs("s3://bucket/x")


def test_a_bucket_that_is_away_is_no_missing_blob(s3):
    blobs = Blobs(s3.new_bucket())
    s3.stop()
    try:
        waits = [
            refusal(lambda: blobs.read("a")),
            refusal(lambda: blobs.put("a", b"")),
            refusal(lambda: blobs.delete("a")),
        ]
    finally:
        # Without its buckets, so the bucket does not exist any more.
        s3.start()

    refusal(lambda: blobs.read("a"))
    refusal(lambda: list(blobs.list("jobs")))
    assert max(waits) < MOST_SECONDS


def test_a_frozen_bucket_is_refused_within_the_bound(s3):
    blobs = Blobs(s3.new_bucket())
    s3.freeze()
    try:
        wait = refusal(lambda: blobs.read("a"))
    finally:
        s3.thaw()

    assert wait < MOST_SECONDS
