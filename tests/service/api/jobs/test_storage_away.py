"""Jobs while the database or the bucket that replicas share is away: stated answers, and nothing is lost."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta

import httpx2 as httpx
import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from service.jobs import worker
from service.storage import blobs, database
from tests.service.api.jobs.job_client import SOON, ended, events, submit, wait_until
from tests.support.problems import assert_problem
from tests.support.relay import relaying, to_unix

pytestmark = pytest.mark.parametrize("settings", ["shared"], indirect=True)


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    """Clients of the bucket give up soon, and the worker tries again soon."""
    monkeypatch.setattr(worker, "RETRY", 0.2)
    monkeypatch.setattr(blobs, "REQUEST", timedelta(seconds=2))
    monkeypatch.setattr(blobs, "REPEAT", timedelta(seconds=1))


@contextmanager
def stopped(server):
    server.stop()
    try:
        yield
    finally:
        server.start()


@contextmanager
def frozen(server):
    server.freeze()
    try:
        yield
    finally:
        server.thaw()


def assert_away(response, what):
    assert_problem(response, 503, f"cannot reach its {what}", "Try again later")
    assert response.headers["retry-after"] == "5"


def test_a_stopped_database_is_answered_503_and_loses_no_job(client, noisy, held, postgres):
    running, waiting = submit(client, noisy), submit(client, noisy)
    held.wait()
    with stopped(postgres):
        answers = [
            client.get(running),
            client.get("/jobs"),
            client.get(f"{running}/result"),
            client.post("/jobs", content=noisy),
            client.delete(waiting),
        ]
        held.go.set()
        still = client.post("/denoise", content=noisy)
        # The job ends while nothing can be recorded.
        time.sleep(1)

    for answer in answers:
        assert_away(answer, "database")
    assert still.status_code == 200
    wait_until(lambda: client.get(running).status_code == 200)
    for job in (running, waiting):
        assert ended(client, job)["state"] == "done"
        assert client.get(f"{job}/result").content == still.content


def test_events_continue_once_the_database_is_back(server, noisy, held, postgres):
    with httpx.Client(base_url=server) as client:
        job = submit(client, noisy)
    held.wait()
    with httpx.stream("GET", f"{server}{job}/events", timeout=SOON) as response:
        heard = events(response.iter_lines())
        first = next(heard)
        with stopped(postgres):
            time.sleep(0.1)
        held.go.set()
        rest = [data["state"] for _, data in heard]

    assert first[1]["state"] == "running"
    assert rest[-1] == "done"


def test_a_stopped_database_refuses_keys_that_have_limits(settings, noisy, postgres):
    given = f"ann:{'a' * 40}"
    limited = settings.model_copy(update={"keys": given, "key_rate": 100})
    with TestClient(create_app(limited)) as client, stopped(postgres):
        refused = client.post("/denoise", content=noisy, headers={"x-api-key": "a" * 40})
        healthy = client.get("/health/live")

    assert_away(refused, "database")
    assert healthy.status_code == 200


def test_a_bucket_that_is_away_is_answered_503_and_loses_no_job(settings, noisy, held, s3):
    with TestClient(create_app(settings.model_copy(update={"blobs": s3.new_bucket()}))) as client:
        job = submit(client, noisy)
        held.wait()
        with frozen(s3):
            refused = client.post("/jobs", content=noisy)
            held.go.set()
            # The result cannot be stored, so the job waits again.
            wait_until(lambda: client.get(job).json()["state"] == "waiting")
        done = ended(client, job)
        with frozen(s3):
            unread = client.get(f"{job}/result")
        wait_until(lambda: client.get(f"{job}/result").status_code == 200)
        result = client.get(f"{job}/result")
        at_once = client.post("/denoise", content=noisy)

    assert_away(refused, "file store")
    assert_away(unread, "file store")
    assert done["state"] == "done"
    assert result.content == at_once.content


def test_clients_wait_no_longer_than_stated_when_the_network_is_cut(settings, noisy, postgres):
    with relaying(to_unix(postgres.socket)) as relay:
        url = postgres.url_by_port(settings.database, relay.port)
        with TestClient(create_app(settings.model_copy(update={"database": url}))) as client:
            job = submit(client, noisy)
            ended(client, job)
            relay.cut()
            with ThreadPoolExecutor(20) as pool:
                waits = list(pool.map(lambda _: timed(client, job), range(20)))
            relay.mend()
            wait_until(lambda: client.get(job).status_code == 200)

    assert max(waits) < database.MOST_SECONDS


def timed(client, job):
    began = time.monotonic()
    assert_away(client.get(job), "database")
    return time.monotonic() - began
