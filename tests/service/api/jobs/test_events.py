"""Progress of jobs: their state, and events to those who listen."""

import asyncio
import gc
from contextlib import contextmanager

import httpx2 as httpx
from fastapi.testclient import TestClient
from PIL import Image

from service.app import create_app
from tests.service.api.jobs.job_client import IN_BOTH_STORES, SOON, ended, events, submit, wait_until

pytestmark = IN_BOTH_STORES


@contextmanager
def listening(server, job):
    """The events of a job as they arrive: (id, data)."""
    with httpx.stream("GET", f"{server}{job}/events", timeout=SOON) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        yield events(response.iter_lines())


def test_one_job_runs_at_a_time(client, noisy, held):
    first, second = submit(client, noisy), submit(client, noisy)
    held.wait()

    assert [client.get(job).json()["state"] for job in (first, second)] == ["running", "waiting"]
    held.go.set()
    assert [ended(client, job)["state"] for job in (first, second)] == ["done", "done"]


def test_a_running_job_has_progress_and_seconds_left(client, noisy, held):
    job = submit(client, noisy)
    held.wait()

    running = wait_until(lambda: (now := client.get(job).json())["progress"] and now)

    assert running["progress"] == 0.25
    assert running["seconds_left"] >= 0
    assert (running["ended"], running["error"]) == (None, None)


def test_a_job_has_no_deadline(settings, noisy):
    with TestClient(create_app(settings.model_copy(update={"deadline": 1e-6}))) as client:
        assert client.post("/denoise", content=noisy).status_code == 504
        assert ended(client, submit(client, noisy))["state"] == "done"


def test_all_listeners_get_a_jobs_events_in_order(server, noisy, held):
    with httpx.Client(base_url=server) as client:
        first, second = submit(client, noisy), submit(client, noisy)
    held.wait()

    with listening(server, second) as one, listening(server, second) as other:
        begins = next(one), next(other)
        held.go.set()
        heard = [[job["state"] for _, job in each] for each in (one, other)]
    with listening(server, first) as late:
        ids, last = zip(*late, strict=True)

    assert [job["state"] for _, job in begins] == ["waiting", "waiting"]
    for states in heard:
        assert states == sorted(states, key=["waiting", "running", "done"].index)
        assert states[-1] == "done"
        assert states.count("done") == 1
    assert ids == ("done 1.0",)
    assert [job["state"] for job in last] == ["done"]


def test_progress_grows_and_event_ids_are_unique(server, file_of, held):
    frames = [Image.new("RGB", (9, 7), colour) for colour in ("red", "white", "blue", "black")]
    body = file_of(frames[0], "GIF", save_all=True, append_images=frames[1:])
    with httpx.Client(base_url=server) as client:
        job = submit(client, body)
    held.wait()
    with listening(server, job) as heard:
        received = [next(heard)]
        held.go.set()
        received += heard

    ids, seen = zip(*received, strict=True)
    shares = [each["progress"] for each in seen]
    assert shares == sorted(shares)
    assert len(set(ids)) == len(ids)


def test_a_silent_stream_sends_pings(server, noisy, held, monkeypatch):
    monkeypatch.setattr("fastapi.routing._PING_INTERVAL", 0.01)
    with httpx.Client(base_url=server) as client:
        job = submit(client, noisy)
    with httpx.stream("GET", f"{server}{job}/events", timeout=SOON) as response:
        assert ": ping" in response.iter_lines()


def test_a_listener_that_disconnects_is_noticed(settings, noisy, held):
    asyncio.run(listen_and_leave(create_app(settings), noisy))


async def listen_and_leave(app, body):
    """Returns only if the stream ends when its listener disconnects, while the job continues."""
    heard = asyncio.Event()
    scope = {"type": "http", "headers": [], "query_string": b"", "root_path": ""}
    sent = []

    async def send(message):
        sent.append(message)
        if b"data:" in message.get("body", b""):
            heard.set()

    async def ask(method, path, receive):
        await app({**scope, "method": method, "path": path, "state": dict(state)}, receive, send)

    async def image():
        return {"type": "http.request", "body": body}

    async def leaves():
        await heard.wait()
        return {"type": "http.disconnect"}

    async with app.router.lifespan_context(app) as state:
        await ask("POST", "/jobs", image)
        job = dict(sent[0]["headers"])[b"location"].decode()
        async with asyncio.timeout(SOON):
            await ask("GET", f"{job}/events", leaves)
            worker = state["worker"]
            # The stream may be closed, and the job started, a moment later.
            while worker._listeners or not worker.running:
                # The framework leaves a stream that has ended to the garbage collector.
                gc.collect()
                await asyncio.sleep(0.01)


def test_the_events_of_ended_and_deleted_jobs_leave_nothing(client, noisy):
    done, deleted = submit(client, noisy), submit(client, noisy)
    for job in (done, deleted):
        ended(client, job)
    client.delete(deleted)

    heard = [client.get(f"{job}/events").status_code for job in (done, done, deleted)]

    assert heard == [200, 200, 404]
    assert not client.app_state["worker"]._listeners
