"""Results of jobs over HTTP: names, ranges, ETags, and missing results."""

import time
from urllib.parse import unquote

import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from tests.service.api.jobs.job_client import IN_BOTH_STORES, ended, submit
from tests.support.problems import assert_problem
from tests.support.served import SOON

pytestmark = IN_BOTH_STORES


@pytest.mark.parametrize(
    ("sent", "params", "name"),
    [
        ("C:\\scans\\film 1.tif", {}, "film 1.png"),
        ("film.PNG", {}, "film.PNG"),
        ("film.tif", {"format": "jpeg"}, "film.jpg"),
        ("film.tif", {"format": "same"}, "film.png"),
        (".png", {"format": "webp"}, ".png.webp"),
        ("Größe\u202e.png", {}, "Größe_.png"),
    ],
)
def test_a_result_has_the_images_name_with_its_new_suffix(sent, params, name, client, noisy):
    accepted = client.post("/jobs", files={"image": (sent, noisy)}, params=params)

    done = ended(client, accepted.headers["location"])
    disposition = client.get(f"{accepted.headers['location']}/result").headers["content-disposition"]

    assert done["name"] == name
    assert name in unquote(disposition)


def test_a_result_before_the_end_is_answered_409(client, noisy, held):
    job = submit(client, noisy)
    held.wait()

    assert_problem(client.get(f"{job}/result"), 409, "The job is running")


def test_a_result_with_a_known_etag_is_answered_304(client, noisy):
    job = submit(client, noisy)
    ended(client, job)
    tag = client.get(f"{job}/result").headers["etag"]

    for held_tags in (tag, f'"other", W/{tag}', "*"):
        again = client.get(f"{job}/result", headers={"if-none-match": held_tags})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert client.get(f"{job}/result", headers={"if-none-match": '"other"'}).status_code == 200


def test_a_range_of_a_result_can_be_requested(client, noisy):
    job = submit(client, noisy)
    ended(client, job)
    whole = client.get(f"{job}/result")

    rest = client.get(f"{job}/result", headers={"range": "bytes=100-", "if-range": whole.headers["etag"]})

    assert rest.status_code == 206
    assert rest.content == whole.content[100:]


@pytest.mark.parametrize(
    ("wanted", "part"),
    [
        ("bytes=-10", slice(-10, None)),
        ("bytes=0-0", slice(0, 1)),
        ("bytes=5-99999999", slice(5, None)),
        ("bytes=-99999999", slice(None)),
    ],
)
def test_every_kind_of_range_is_answered(wanted, part, client, noisy):
    job = submit(client, noisy)
    ended(client, job)
    whole = client.get(f"{job}/result")

    answer = client.get(f"{job}/result", headers={"range": wanted})

    start, stop, _ = part.indices(len(whole.content))
    assert answer.status_code == 206
    assert answer.content == whole.content[part]
    assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(whole.content)}"


def test_a_range_beyond_the_end_and_one_of_another_result(client, noisy):
    job = submit(client, noisy)
    ended(client, job)
    whole = client.get(f"{job}/result")

    beyond = client.get(f"{job}/result", headers={"range": "bytes=99999999-"})
    other = client.get(f"{job}/result", headers={"range": "bytes=1-", "if-range": '"other"'})

    assert beyond.status_code == 416
    assert beyond.headers["content-range"] == f"bytes */{len(whole.content)}"
    assert (other.status_code, other.content) == (200, whole.content)


def test_the_head_of_a_result_has_its_headers(client, noisy):
    job = submit(client, noisy)
    ended(client, job)
    whole = client.get(f"{job}/result")

    head = client.head(f"{job}/result")

    names = ("content-length", "content-type", "content-disposition", "etag", "accept-ranges")
    assert (head.status_code, head.content) == (200, b"")
    assert [head.headers[name] for name in names] == [whole.headers[name] for name in names]


def test_a_result_removed_for_newer_ones_is_answered_410(settings, samples, file_of):
    body = file_of(samples(40, 50))
    # There is room for two results of 6 kB, but not for a third.
    with TestClient(create_app(settings.model_copy(update={"spool_bytes": 32_000, "png_level": 0}))) as client:
        addresses = [submit(client, body) for _ in range(3)]
        states = [ended(client, job)["state"] for job in addresses]
        # Room is made a moment after the third job is done.
        end = time.monotonic() + SOON
        while client.get(f"{addresses[0]}/result").status_code == 200 and time.monotonic() < end:
            time.sleep(0.05)
        answers = [client.get(f"{job}/result") for job in addresses]

    assert states == ["done"] * 3
    assert [answer.status_code for answer in answers] == [410, 200, 200]
    assert "make room" in answers[0].json()["detail"]
