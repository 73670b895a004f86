"""Requests with Content-Encoding: unpacked within the limits, or refused with what is supported."""

import gzip
import io
import zipfile
import zlib

import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from tests.support.problems import MAX_BYTES, assert_problem

FORM_HEAD = b'--cut\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
FORM_TYPE = {"content-type": "multipart/form-data; boundary=cut"}
ROUTES = ["/denoise", "/denoise/batch", "/jobs", "/estimate", "/preview"]


@pytest.fixture(scope="module")
def client(settings, tmp_path_factory):
    limits = {"spool": tmp_path_factory.mktemp("spool"), "max_batch_bytes": 2 * MAX_BYTES}
    with TestClient(create_app(settings.model_copy(update=limits))) as client:
        yield client


@pytest.mark.parametrize(("coding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_compressed_body_is_unpacked(coding, pack, client, noisy):
    plain = client.post("/denoise", content=noisy).content
    form = FORM_HEAD + noisy + b"\r\n--cut--"

    for body, headers in ((noisy, {}), (form, FORM_TYPE)):
        answer = client.post("/denoise", content=pack(body), headers=headers | {"content-encoding": coding})
        assert answer.content == plain
    batch = client.post("/denoise/batch", content=pack(form), headers=FORM_TYPE | {"content-encoding": coding})
    with zipfile.ZipFile(io.BytesIO(batch.content)) as made:
        assert made.read("a.png") == plain


@pytest.mark.parametrize("route", ROUTES)
def test_a_bomb_is_refused_at_the_limit(route, client):
    bomb = gzip.compress(bytes(1000 * MAX_BYTES))
    setting = "DENOISE_MAX_BATCH_BYTES" if route in ("/denoise/batch", "/jobs") else "DENOISE_MAX_BYTES"

    refused = client.post(route, content=bomb, headers={"content-encoding": "gzip"})

    assert len(bomb) < MAX_BYTES
    assert_problem(refused, 413, "The body has at least", "are allowed", setting)


@pytest.mark.parametrize("route", ROUTES)
def test_another_coding_is_refused_with_those_supported(route, client, noisy):
    refused = client.post(route, content=noisy, headers={"content-encoding": "br"})

    assert_problem(refused, 415, "Content-Encoding is 'br'", "Supported are gzip, deflate and none")
    assert refused.headers["accept-encoding"] == "gzip, deflate"


def test_a_body_that_is_not_compressed_is_refused(client, noisy):
    refused = client.post("/denoise", content=noisy, headers={"content-encoding": "gzip"})

    assert_problem(refused, 400, "cannot be unpacked as gzip")
