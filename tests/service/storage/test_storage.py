"""Storage: what the settings name, and what is missing."""

import sys

import pytest
from pydantic import ValidationError

from service.settings import Settings
from service.storage.storage import open_storage


@pytest.mark.parametrize(("name", "missing"), [("database", "BLOBS"), ("blobs", "DATABASE")])
def test_a_database_and_blobs_need_each_other(name, missing):
    value = {"database": "postgresql://host/name", "blobs": "s3://bucket"}[name]

    with pytest.raises(ValidationError, match=f"but DENOISE_{missing} is not set: set both, or neither"):
        Settings(**{name: value})


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("database", "mysql://host/name", "not a URL of PostgreSQL"),
        ("blobs", "bucket", "not the URL of a bucket or folder"),
        ("blobs", "s3://", "not the URL of a bucket or folder"),
    ],
)
def test_a_malformed_url_is_refused(name, value, reason):
    with pytest.raises(ValidationError, match=reason):
        Settings(**{name: value})


def test_without_settings_nothing_is_shared():
    assert open_storage(Settings()) is None


def test_the_url_of_the_database_is_not_shown(tmp_path):
    settings = Settings(database="postgresql://user:secret@host/name", blobs=tmp_path.as_uri())

    assert "secret" not in repr(settings)


def test_a_missing_package_is_named_with_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.delitem(sys.modules, "service.storage.database", raising=False)
    settings = Settings(database="postgresql://host/name", blobs=tmp_path.as_uri())

    with pytest.raises(ValueError, match=r"DENOISE_DATABASE needs the package psycopg: .*'\.\[cluster\]'"):
        open_storage(settings)


def test_the_storage_of_the_settings_is_opened(url, tmp_path):
    storage = open_storage(Settings(database=url, blobs=tmp_path.as_uri()))

    storage.blobs.put("a", b"1")
    assert storage.database.rows("SELECT 1") == [(1,)]
    storage.close()
