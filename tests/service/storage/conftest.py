"""A new database and a new bucket for each test."""

import pytest

from service.storage.blobs import Blobs
from service.storage.database import Database


@pytest.fixture
def url(postgres):
    return postgres.new_database()


@pytest.fixture
def database(url):
    database = Database(url)
    yield database
    database.close()


@pytest.fixture(params=["s3", "file"])
def blobs(request, tmp_path):
    if request.param == "s3":
        return Blobs(request.getfixturevalue("s3").new_bucket())
    return Blobs((tmp_path / "blobs").as_uri())
