"""Idempotency-Key: a request that is repeated gives one job."""

import pytest

from tests.service.api.jobs.job_client import IN_BOTH_STORES, ended, stored_files
from tests.support.problems import assert_problem

pytestmark = IN_BOTH_STORES


def post(client, key, body, **how):
    return client.post("/jobs", headers={"Idempotency-Key": key}, **{"content": body, **how})


def test_a_repeated_request_gives_the_same_job(client, noisy, held, settings):
    first = post(client, '"order 1"', noisy)
    again = post(client, '"order 1"', noisy)
    files = stored_files(settings)
    held.go.set()
    ended(client, first.headers["location"])
    late = post(client, '"order 1"', noisy)

    assert [answer.status_code for answer in (first, again, late)] == [202] * 3
    assert first.headers["location"] == again.headers["location"] == late.headers["location"]
    assert late.json()["state"] == "done"
    assert len(client.get("/jobs").json()) == len(files) == 1


def test_a_form_that_is_written_anew_is_the_same_request(client, noisy):
    # Each form has a boundary of its own.
    answers = [post(client, "a", None, files={"image": ("scan.png", noisy)}) for _ in range(2)]

    assert answers[0].headers["location"] == answers[1].headers["location"]


@pytest.mark.parametrize("change", ["image", "params", "name"])
def test_another_request_with_the_same_key_is_refused(change, client, noisy, samples, file_of, settings):
    files = {"image": ("scan.png", noisy)}
    first = post(client, "a", None, files=files)
    changed = {
        "image": {"files": {"image": ("scan.png", file_of(samples(8, 9)))}},
        "params": {"files": files, "params": {"strength": 0.5}},
        "name": {"files": {"image": ("other.png", noisy)}},
    }[change]

    refused = post(client, "a", None, **changed)

    assert_problem(refused, 422, "its image or parameters were different", "Send a new key")
    assert len(client.get("/jobs").json()) == 1
    ended(client, first.headers["location"])
    assert len(stored_files(settings)) == 1


def test_quotation_marks_and_escapes_are_no_part_of_a_key(client, noisy):
    keys = ["plain", '"plain"', '"a \\"b\\" \\\\"', '"a \\"b\\" \\\\"']
    answers = [post(client, key, noisy).headers["location"] for key in keys]

    assert answers[0] == answers[1] != answers[2] == answers[3]


@pytest.mark.parametrize("key", ["", '""', "two words", '"open', "ü", "x" * 256, '"a\\b"'])
def test_an_invalid_key_is_refused(key, client, noisy):
    refused = post(client, key.encode(), noisy)

    assert_problem(refused, 422, "is not 1 to 255 ASCII characters in quotation marks")


def test_requests_without_a_key_are_jobs_of_their_own(client, noisy):
    locations = {client.post("/jobs", content=noisy).headers["location"] for _ in range(2)}

    assert len(locations) == 2
