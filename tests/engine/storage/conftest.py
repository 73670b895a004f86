"""Fixtures of buckets."""

import secrets

import pytest

from engine.storage.bucket import Bucket
from tests.support.bucket_server import bucket_server


@pytest.fixture(scope="session")
def buckets():
    with bucket_server() as made:
        yield made


@pytest.fixture
def bucket(buckets):
    """An empty bucket."""
    return Bucket(f"s3://{buckets.create(f'test-{secrets.token_hex(4)}')}")


@pytest.fixture
def name(bucket):
    return bucket.url.removeprefix("s3://")
