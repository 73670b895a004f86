"""Adaptations that are refused at once, before they become jobs."""

import io
import stat
from zipfile import ZipFile, ZipInfo

import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from tests.service.api.jobs.adapting.adapt_client import query
from tests.service.api.jobs.job_client import IN_BOTH_STORES, stored_files
from tests.support.problems import assert_problem


def zipped(*files, mode=0o644 | stat.S_IFREG):
    packed = io.BytesIO()
    with ZipFile(packed, "w") as archive:
        for name, data in files:
            info = ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, data)
    return packed.getvalue()


GOOD = zipped(("a.tif", b"a"))


def test_a_service_adapts_only_if_it_is_set_to(settings):
    with TestClient(create_app(settings.model_copy(update={"adapt": False}))) as client:
        in_query = client.post("/jobs?task=adapt", content=GOOD)
        in_form = client.post("/jobs", files={"image": ("shots.zip", GOOD)}, data={"task": "adapt"})

    assert_problem(in_query, 403, "DENOISE_ADAPT is not set", "`denoise adapt`")
    assert in_form.json() == in_query.json()


def test_only_admin_keys_may_adapt(settings):
    keys = settings.model_copy(update={"keys": f"ann:{'a' * 40}"})
    with TestClient(create_app(keys)) as client:
        answer = client.post("/jobs?task=adapt", content=GOOD, headers={"x-api-key": "a" * 40})
    with TestClient(create_app(settings.model_copy(update={"open": True}))) as client:
        to_anyone = client.post("/jobs?task=adapt", content=GOOD)

    assert_problem(answer, 403, "'ann' is not an admin key", "task=adapt needs an admin key")
    assert_problem(to_anyone, 403, "no API keys", "task=adapt needs an admin key")


@pytest.mark.parametrize(
    ("params", "status", "words"),
    [
        ("task=train", 422, "query.task: Input should be 'denoise' or 'adapt'"),
        ("task=adapt&minutes=0", 422, "query.minutes: Input should be greater than or equal to 0.01"),
        ("task=adapt&minutes=nan", 422, "query.minutes"),
        ("task=adapt&minutes=61", 422, "minutes is 61; at most 60 are allowed. The limit is the setting DENOISE"),
        ("task=adapt&kind=movie", 422, "query.kind"),
        ("task=adapt&seed=-1", 422, "query.seed"),
        ("task=adapt&name=../x", 422, "query.name"),
        ("task=adapt&name=.x", 422, "query.name"),
        ("task=adapt&start=/etc/x.safetensors", 404, "no weights '/etc/x.safetensors' to start from"),
        ("task=adapt&start=none", 404, "Available: auto, other, photo."),
        ("task=adapt&strength=0.5", 422, "'strength' is not one of task=adapt"),
        ("minutes=5", 422, "'minutes' is not one of task=denoise"),
        ("task=adapt&steps=5", 422, "There is no parameter 'steps'"),
    ],
)
def test_a_wrong_parameter_is_refused_at_once(params, status, words, client, settings):
    assert_problem(client.post(f"/jobs?{params}", content=GOOD), status, words)
    assert stored_files(settings) == []


@IN_BOTH_STORES
@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"no zip", 400, "The upload is not a zip. Send the noisy shots as one zip."),
        (GOOD[:-5], 400, "The zip is broken, cut short or not a zip"),
        (zipped(), 400, "There is no image in the zip"),
        (zipped(("../a.tif", b"a")), 400, "'../a.tif' points outside its folder"),
        (zipped(("/etc/a.tif", b"a")), 400, "points outside its folder"),
        (
            zipped(("b.tif", b"b"), ("a/b.tif", b"/etc/passwd"), mode=0o777 | stat.S_IFLNK),
            415,
            "b.tif: This is a ",
        ),
        (zipped(("a/inner.zip", GOOD)), 415, "a/inner.zip: This is a zip inside a zip"),
        (zipped(("x" * 256 + ".tif", b"a")), 400, "empty or too long"),
        (zipped(("a", b"a"), ("a/b.tif", b"b")), 400, "The zip has 'a' twice"),
        (zipped(*((f"{number}.tif", b"a") for number in range(51))), 413, "51 files; at most 50 are allowed"),
    ],
)
def test_a_zip_that_is_not_safe_is_refused_at_once(body, status, words, client, settings):
    assert_problem(client.post(query(), content=body), status, words)
    assert stored_files(settings) == []


def test_a_zip_that_unpacks_to_too_much_is_refused(client):
    bomb = io.BytesIO()
    with ZipFile(bomb, "w", 8) as archive:
        archive.writestr("a.tif", bytes(2**25 + 1))

    answer = client.post(query(), content=bomb.getvalue())

    assert_problem(answer, 413, "33554433 bytes, unpacked; at most 33554432", "setting DENOISE_ADAPT_BYTES")


def test_several_files_in_a_form_are_refused(client):
    files = [("image", (f"{number}.tif", b"a")) for number in range(2)]

    assert_problem(
        client.post(query(), files=files), 400, "The form has 2 files. Send the noisy shots as one zip."
    )


def test_an_adaptation_has_an_idempotency_key(client, learnable):
    def post(**how):
        return client.post(query(**how), content=learnable, headers={"Idempotency-Key": "a"})

    first, again, other = post(), post(), post(minutes=29)
    client.delete(first.headers["location"])

    assert [first.status_code, again.status_code] == [202, 202]
    assert first.headers["location"] == again.headers["location"]
    assert_problem(other, 422, "its image or parameters were different")
