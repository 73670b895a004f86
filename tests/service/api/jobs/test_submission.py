"""Submitting jobs: accepted and refused requests, and results equal to those of POST /denoise."""

import asyncio
import io
from zipfile import ZipFile

import pytest
from fastapi.testclient import TestClient

from service.api import health
from service.api import jobs as routes
from service.app import create_app
from service.jobs.worker import Worker
from service.runtime.pipeline import Pipeline
from service.storage.away import DatabaseAway
from tests.service.api.jobs.job_client import IN_BOTH_STORES, SOON, ended, stored_files, submit
from tests.support.problems import assert_problem

pytestmark = IN_BOTH_STORES


def test_a_job_gives_the_answer_of_post_denoise(client, noisy):
    at_once = client.post("/denoise", params={"format": "tiff", "strength": 0.5}, content=noisy)

    accepted = client.post("/jobs", params={"format": "tiff", "strength": 0.5}, content=noisy)
    done = ended(client, accepted.headers["location"])
    result = client.get(f"{accepted.headers['location']}/result")

    assert accepted.status_code == 202
    assert accepted.json()["id"] == done["id"]
    assert accepted.headers["location"] == f"/jobs/{done['id']}"
    assert (done["state"], done["progress"], done["error"]) == ("done", 1, None)
    assert done["created"] <= done["started"] <= done["ended"]
    assert result.content == at_once.content
    assert result.headers["content-type"] == at_once.headers["content-type"] == "image/tiff"
    # The job finds the result that was kept from the request before it.
    differing = ("x-denoise-seconds", "x-denoise-cache")
    names = [name for name in at_once.headers if name.startswith("x-denoise") and name not in differing]
    assert {name: result.headers[name] for name in names} == {name: at_once.headers[name] for name in names}


def test_a_batch_job_gives_the_answer_of_denoise_batch(client, noisy, samples, file_of, settings):
    sent = [("image", (f"{number}.png", body)) for number, body in enumerate((noisy, b"no image", noisy))]
    at_once = client.post("/denoise/batch", params={"format": "webp"}, files=sent)

    accepted = client.post("/jobs", params={"format": "webp"}, files=sent)
    done = ended(client, accepted.headers["location"])
    result = client.get(f"{accepted.headers['location']}/result")

    assert (done["state"], done["progress"], done["name"]) == ("done", 1, "denoised.zip")
    assert result.headers["content-type"] == "application/zip"
    assert unzipped(result.content) == unzipped(at_once.content)
    assert list(unzipped(result.content)) == ["0.webp", "1.png.error.json", "2.webp"]
    assert len(stored_files(settings)) == 1


def test_a_zip_is_a_batch_and_a_broken_zip_is_refused(client, noisy, settings):
    packed = io.BytesIO()
    with ZipFile(packed, "w") as archive:
        archive.writestr("a.png", noisy)
    ways = ({"content": packed.getvalue()}, {"files": {"image": packed.getvalue()}})

    for way in ways:
        job = client.post("/jobs", **way).headers["location"]
        ended(client, job)
        assert list(unzipped(client.get(f"{job}/result").content)) == ["a.png"]
        client.delete(job)
    assert_problem(client.post("/jobs", content=packed.getvalue()[:-9]), 400, "zip is broken")
    assert stored_files(settings) == []


def unzipped(data):
    with ZipFile(io.BytesIO(data)) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def test_a_jobs_location_has_the_proxys_path(settings, noisy):
    with TestClient(create_app(settings), root_path="/images") as client:
        assert client.post("/images/jobs", content=noisy).headers["location"].startswith("/images/jobs/")


@pytest.mark.parametrize(
    ("params", "headers", "size", "status", "words"),
    [
        ({"model": "films"}, {}, 9, 404, "'films'"),
        ({"format": "bmp"}, {}, 9, 422, "BMP can be read but not written"),
        ({"strength": 2}, {}, 9, 422, "strength"),
        ({}, {}, 20_001, 413, "at most 20000 are allowed"),
        ({}, {}, 100_001, 413, "at most 100000 are allowed"),
        ({}, {"content-type": "multipart/form-data; boundary=cut"}, 9, 400, "form"),
    ],
)
def test_an_invalid_job_is_refused_and_not_kept(params, headers, size, status, words, client, settings):
    response = client.post("/jobs", content=b"x" * size, params=params, headers=headers)

    assert_problem(response, status, words)
    assert client.get("/jobs").json() == []
    assert stored_files(settings) == []


@pytest.mark.parametrize("body", [b"no image", b""])
def test_a_failed_job_has_the_problem_of_post_denoise(body, client, settings):
    at_once = client.post("/denoise", content=body)

    job = submit(client, body)
    failed = ended(client, job)

    assert failed["state"] == "failed"
    assert failed["error"] == at_once.json()
    assert client.get(f"{job}/result").status_code == at_once.status_code
    assert client.get(f"{job}/result").json() == at_once.json()
    assert stored_files(settings) == []


def test_a_bug_fails_one_job_and_is_logged(client, noisy, monkeypatch, caplog):
    async def buggy(*args, **how):
        raise RuntimeError("a secret of the house")

    with monkeypatch.context() as patch:
        patch.setattr(Pipeline, "denoise", buggy)
        failed = ended(client, submit(client, noisy))
    good = ended(client, submit(client, noisy))

    assert (failed["state"], failed["error"]["status"], good["state"]) == ("failed", 500, "done")
    counted = client.get("/metrics").text
    assert 'denoise_jobs_total{state="failed"} 1.0' in counted
    assert 'denoise_jobs_total{state="done"} 1.0' in counted
    assert "secret" not in failed["error"]["detail"]
    assert "a secret of the house" in caplog.text


def test_metrics_count_waiting_jobs_if_the_store_answers(client, noisy, monkeypatch):
    ended(client, submit(client, noisy))
    counted = client.get("/metrics").text

    async def away(self):
        raise DatabaseAway

    async def silent(self):
        await asyncio.sleep(SOON)

    monkeypatch.setattr(health, "COUNT_SECONDS", 0.1)
    unknown = []
    for waiting in (away, silent):
        monkeypatch.setattr(Worker, "waiting", waiting)
        unknown.append(client.get("/metrics").text)

    assert "denoise_jobs_waiting 0.0" in counted
    assert all("denoise_jobs_waiting NaN" in text for text in unknown)


def test_the_newest_jobs_are_listed_first(client, noisy, monkeypatch):
    monkeypatch.setattr(routes, "LISTED", 2)
    addresses = [submit(client, noisy) for _ in range(3)]

    assert [f"/jobs/{job['id']}" for job in client.get("/jobs").json()] == addresses[:0:-1]


def test_without_a_spool_there_are_no_jobs(settings, noisy):
    with TestClient(
        create_app(settings.model_copy(update={"spool": None, "database": None, "blobs": None}))
    ) as client:
        assert_problem(client.post("/jobs", content=noisy), 404, "runs no jobs", "without a spool")
        assert client.get("/jobs").status_code == 404
        assert client.get("/health").json()["jobs"] is False


def test_health_says_that_jobs_are_enabled(client):
    assert client.get("/health").json()["jobs"] is True


def test_a_wrong_method_is_answered_with_all_methods(client):
    allowed = {path: client.patch(path).headers["allow"] for path in ("/jobs", "/jobs/any", "/jobs/any/events")}

    assert allowed == {
        "/jobs": "GET, HEAD, POST",
        "/jobs/any": "DELETE, GET, HEAD",
        "/jobs/any/events": "GET, HEAD",
    }
    assert client.post("/page/page.js").status_code == 405
