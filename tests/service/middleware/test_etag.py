"""Entity tags and 304 answers."""

import os

import pytest
from fastapi import FastAPI, Request, Response
from fastapi.testclient import TestClient

from service.middleware.etag import ETagFiles, with_etag

HEADERS = {"Content-Security-Policy": "default-src 'none'"}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "page.js").write_text("one();")
    return tmp_path


@pytest.fixture
def client(folder):
    app = FastAPI()
    app.mount("/files", ETagFiles(directory=folder))

    @app.get("/text")
    def get_text(request: Request, text: str = "as ever") -> Response:
        return with_etag(request, Response(text, headers=HEADERS))

    with TestClient(app) as client:
        yield client


def test_the_tag_depends_on_the_body(client):
    first, second, other = (client.get("/text", params={"text": text}) for text in ("a", "a", "b"))

    assert first.headers["etag"] == second.headers["etag"] != other.headers["etag"]


@pytest.mark.parametrize("given", ["{}", "W/{}", '"other", {}', '"other",W/{}', "*"])
def test_a_known_tag_is_answered_304_without_a_body(given, client):
    tag = client.get("/text").headers["etag"]

    answer = client.get("/text", headers={"If-None-Match": given.format(tag)})

    assert (answer.status_code, answer.content) == (304, b"")
    assert answer.headers["etag"] == tag
    assert answer.headers["content-security-policy"] == "default-src 'none'"
    assert "content-type" not in answer.headers


@pytest.mark.parametrize("given", ['"other"', "", "{}x", '"'])
def test_an_unknown_tag_is_answered_in_full(given, client):
    tag = client.get("/text").headers["etag"]

    answer = client.get("/text", headers={"If-None-Match": given.format(tag)})

    assert (answer.status_code, answer.text) == (200, "as ever")


def test_a_files_type_follows_from_its_name(client):
    answer = client.get("/files/page.js")

    assert answer.text == "one();"
    assert answer.headers["content-type"].startswith("text/javascript")
    assert client.get("/files/none.js").status_code == 404


def test_tags_differ_for_files_of_equal_size_and_time(client, folder):
    file = folder / "page.js"
    before, times = client.get("/files/page.js"), (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    held = {"If-None-Match": before.headers["etag"]}
    assert client.get("/files/page.js", headers=held).status_code == 304

    file.write_text("two();")
    os.utime(file, ns=times)

    assert client.get("/files/page.js", headers=held).text == "two();"
