"""Jobs over HTTP: submit, follow, fetch, delete; full disks and killed processes."""

import asyncio
import errno
import io
import json
import os
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from urllib.parse import unquote
from zipfile import ZipFile

import httpx2 as httpx
import pytest
import uvicorn
from fastapi.testclient import TestClient
from PIL import Image

from service.api import jobs as routes
from service.app import create_app
from service.jobs import worker
from service.jobs.store import JobStore
from service.runtime.pipeline import Pipeline
from service.runtime.scheduler import Cancelled
from service.settings import Settings
from tests.support.problems import assert_problem
from tests.support.served import request, serving

SOON = 60  # seconds; only a failing test waits so long
ENDED = ("done", "failed", "cancelled")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, save_tiny):
    folder = tmp_path_factory.mktemp("weights")
    save_tiny(folder / "photo.safetensors")
    return folder


@pytest.fixture
def settings(folder, tmp_path):
    return Settings(
        weights=folder,
        model="photo",
        device="cpu",
        precision="float32",
        max_bytes=20_000,
        max_batch_bytes=100_000,
        max_pixels=2_000,
        spool=tmp_path / "spool",
        spool_bytes=2**20,
    )


@pytest.fixture
def client(settings):
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def held(monkeypatch):
    """Images wait before they are denoised, until `go` is set or their job is cancelled."""
    return Held(monkeypatch)


class Held:
    def __init__(self, monkeypatch):
        self.begun, self.go, self.disconnected = threading.Semaphore(0), threading.Event(), threading.Event()
        real = Pipeline.denoise

        async def denoise(pipeline, source, params, memory, disconnected, charge, on_progress=lambda share: None):
            on_progress(0.25)
            self.begun.release()
            leaving = asyncio.ensure_future(disconnected())
            while not self.go.is_set() and not leaving.done():
                await asyncio.sleep(0.005)
            if leaving.done():
                self.disconnected.set()
                raise Cancelled
            leaving.cancel()
            return await real(pipeline, source, params, memory, disconnected, charge, on_progress)

        monkeypatch.setattr(Pipeline, "denoise", denoise)

    def wait(self):
        assert self.begun.acquire(timeout=SOON), "no job was begun"


@pytest.fixture(scope="module")
def noisy(samples, file_of):
    return file_of(samples(21, 34))


def leave(client, body, **params):
    """Submit a job. Returns its path."""
    response = client.post("/jobs", content=body, params=params)
    assert response.status_code == 202, response.text
    return response.headers["location"]


def wait_until(happened):
    end = time.monotonic() + SOON
    while not (result := happened()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)
    return result


def ended(client, job):
    return wait_until(lambda: (now := client.get(job).json())["state"] in ENDED and now)


def kept(settings):
    """The files of the spool, without SQLite's."""
    return sorted(file.name for file in settings.spool.iterdir() if not file.name.startswith("jobs.sqlite"))


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
    told = [name for name in at_once.headers if name.startswith("x-denoise") and name != "x-denoise-seconds"]
    assert {name: result.headers[name] for name in told} == {name: at_once.headers[name] for name in told}


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
    assert len(kept(settings)) == 1


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
    assert kept(settings) == []


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
    assert kept(settings) == []


@pytest.mark.parametrize("body", [b"no image", b""])
def test_a_failed_job_has_the_problem_of_post_denoise(body, client, settings):
    at_once = client.post("/denoise", content=body)

    job = leave(client, body)
    failed = ended(client, job)

    assert failed["state"] == "failed"
    assert failed["error"] == at_once.json()
    assert client.get(f"{job}/result").status_code == at_once.status_code
    assert client.get(f"{job}/result").json() == at_once.json()
    assert kept(settings) == []


def test_a_bug_fails_one_job_and_is_logged(client, noisy, monkeypatch, caplog):
    async def buggy(*args, **how):
        raise RuntimeError("a secret of the house")

    with monkeypatch.context() as patch:
        patch.setattr(Pipeline, "denoise", buggy)
        failed = ended(client, leave(client, noisy))
    good = ended(client, leave(client, noisy))

    assert (failed["state"], failed["error"]["status"], good["state"]) == ("failed", 500, "done")
    counted = client.get("/metrics").text
    assert 'denoise_jobs_total{state="failed"} 1.0' in counted
    assert 'denoise_jobs_total{state="done"} 1.0' in counted
    assert "secret" not in failed["error"]["detail"]
    assert "a secret of the house" in caplog.text


def test_the_newest_jobs_are_listed_first(client, noisy, monkeypatch):
    monkeypatch.setattr(routes, "LISTED", 2)
    addresses = [leave(client, noisy) for _ in range(3)]

    assert [f"/jobs/{job['id']}" for job in client.get("/jobs").json()] == addresses[:0:-1]


def test_one_job_runs_at_a_time(client, noisy, held):
    first, second = leave(client, noisy), leave(client, noisy)
    held.wait()

    assert [client.get(job).json()["state"] for job in (first, second)] == ["running", "waiting"]
    held.go.set()
    assert [ended(client, job)["state"] for job in (first, second)] == ["done", "done"]


def test_a_running_job_has_progress_and_seconds_left(client, noisy, held):
    job = leave(client, noisy)
    held.wait()

    running = wait_until(lambda: (now := client.get(job).json())["progress"] and now)

    assert running["progress"] == 0.25
    assert running["seconds_left"] >= 0
    assert (running["ended"], running["error"]) == (None, None)


def test_a_job_has_no_deadline(settings, noisy):
    with TestClient(create_app(settings.model_copy(update={"deadline": 1e-6}))) as client:
        assert client.post("/denoise", content=noisy).status_code == 504
        assert ended(client, leave(client, noisy))["state"] == "done"


def test_without_a_spool_there_are_no_jobs(settings, noisy):
    with TestClient(create_app(settings.model_copy(update={"spool": None}))) as client:
        assert_problem(client.post("/jobs", content=noisy), 404, "runs no jobs", "without a spool")
        assert client.get("/jobs").status_code == 404
        assert client.get("/health").json()["jobs"] is False


def test_health_says_that_jobs_are_enabled(client):
    assert client.get("/health").json()["jobs"] is True


def test_a_wrong_method_is_answered_with_all_methods(client):
    allowed = {path: client.patch(path).headers["allow"] for path in ("/jobs", "/jobs/any", "/jobs/any/events")}

    assert allowed == {"/jobs": "GET, POST", "/jobs/any": "DELETE, GET", "/jobs/any/events": "GET"}
    assert client.post("/page/page.js").status_code == 405


# Results


def test_a_result_before_the_end_is_answered_409(client, noisy, held):
    job = leave(client, noisy)
    held.wait()

    assert_problem(client.get(f"{job}/result"), 409, "The job is running")


def test_a_result_with_a_known_etag_is_answered_304(client, noisy):
    job = leave(client, noisy)
    ended(client, job)
    tag = client.get(f"{job}/result").headers["etag"]

    for held_tags in (tag, f'"other", W/{tag}', "*"):
        again = client.get(f"{job}/result", headers={"if-none-match": held_tags})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert client.get(f"{job}/result", headers={"if-none-match": '"other"'}).status_code == 200


def test_a_range_of_a_result_can_be_requested(client, noisy):
    job = leave(client, noisy)
    ended(client, job)
    whole = client.get(f"{job}/result")

    rest = client.get(f"{job}/result", headers={"range": "bytes=100-", "if-range": whole.headers["etag"]})

    assert rest.status_code == 206
    assert rest.content == whole.content[100:]


def test_a_result_removed_for_newer_ones_is_answered_410(settings, samples, file_of):
    body = file_of(samples(40, 50))
    # There is room for two results of 6 kB, but not for a third.
    with TestClient(create_app(settings.model_copy(update={"spool_bytes": 32_000, "png_level": 0}))) as client:
        addresses = [leave(client, body) for _ in range(3)]
        states = [ended(client, job)["state"] for job in addresses]
        answers = [client.get(f"{job}/result") for job in addresses]

    assert states == ["done"] * 3
    assert [answer.status_code for answer in answers] == [410, 200, 200]
    assert "make room" in answers[0].json()["detail"]


# Events


@pytest.fixture
def server(settings):
    """The URL of a server in a thread of this process."""
    with running(settings) as server:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"


@contextmanager
def running(settings):
    config = uvicorn.Config(create_app(settings), port=0, ws="none", log_config=None, timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started or not thread.is_alive())
    yield server
    server.should_exit = True
    thread.join()


@contextmanager
def listening(server, job):
    """The events of a job as they arrive: (id, data)."""
    with httpx.stream("GET", f"{server}{job}/events", timeout=SOON) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        yield events(response.iter_lines())


def events(lines):
    event = {}
    for line in lines:
        if line:
            field, _, value = line.partition(": ")
            event[field] = value
        elif "data" in event:
            yield event["id"], json.loads(event["data"])
            event = {}


def test_all_listeners_get_a_jobs_events_in_order(server, noisy, held):
    with httpx.Client(base_url=server) as client:
        first, second = leave(client, noisy), leave(client, noisy)
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
        job = leave(client, body)
    held.wait()
    with listening(server, job) as heard:
        told = [next(heard)]
        held.go.set()
        told += heard

    ids, seen = zip(*told, strict=True)
    shares = [each["progress"] for each in seen]
    assert shares == sorted(shares)
    assert len(set(ids)) == len(ids)


def test_a_silent_stream_sends_pings(server, noisy, held, monkeypatch):
    monkeypatch.setattr("fastapi.routing._PING_INTERVAL", 0.01)
    with httpx.Client(base_url=server) as client:
        job = leave(client, noisy)
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
        assert state["worker"].running


def test_shutdown_ends_streams_and_requeues_the_running_job(settings, noisy, held):
    app = create_app(settings)
    with TestClient(app) as client, ThreadPoolExecutor(1) as pool:
        job = leave(client, noisy)
        held.wait()
        heard = pool.submit(client.get, f"{job}/events")
        wait_until(lambda: app.state.shutdown.working)
        client.portal.call(app.state.shutdown.begin)

        told = [job for _, job in events(heard.result(SOON).text.splitlines())]

    assert told[-1]["state"] in ("running", "waiting")
    assert held.disconnected.is_set()
    held.go.set()
    with TestClient(create_app(settings)) as client:
        assert ended(client, job)["state"] == "done"


def test_a_job_claimed_during_shutdown_is_requeued(settings, noisy, monkeypatch):
    real, claiming, go = JobStore.claim, threading.Event(), threading.Event()

    def claim(spool):
        claiming.set()
        assert go.wait(SOON)
        return real(spool)

    async def never(*args, **how):
        raise AssertionError("it was begun")

    monkeypatch.setattr(Pipeline, "denoise", never)
    with TestClient(create_app(settings)) as client:
        wait_until(lambda: client.get("/jobs").json() == [])
        monkeypatch.setattr(JobStore, "claim", claim)
        with ThreadPoolExecutor(1) as pool:
            job = leave(client, noisy)
            assert claiming.wait(SOON)
            shutdown = client.app.state.shutdown
            client.portal.call(shutdown.begin)
            stopped = pool.submit(client.portal.call, client.app_state["worker"].stop)
            go.set()
            stopped.result(SOON)
    monkeypatch.undo()

    with TestClient(create_app(settings)) as client:
        assert wait_until(lambda: (now := client.get(job).json())["state"] == "done" and now)


# Deletion


def test_a_waiting_job_can_be_deleted(client, noisy, held, settings):
    first, second = leave(client, noisy), leave(client, noisy)
    held.wait()

    assert client.delete(second).status_code == 204
    assert client.get(second).status_code == 404
    assert client.delete(second).status_code == 404
    assert len(kept(settings)) == 1
    held.go.set()
    assert ended(client, first)["state"] == "done"


def test_a_running_job_can_be_deleted_and_listeners_are_told(client, noisy, held, settings):
    job = leave(client, noisy)
    held.wait()
    with ThreadPoolExecutor(1) as pool:
        heard = pool.submit(client.get, f"{job}/events")
        wait_until(lambda: client.app.state.shutdown.working)
        answer = client.delete(job)
        told = [job for _, job in events(heard.result(SOON).text.splitlines())]

    assert answer.status_code == 204
    assert held.disconnected.wait(SOON)
    assert told[-1]["state"] in ("cancelled", "running")
    assert client.get(job).status_code == 404
    assert kept(settings) == []


def test_a_deleted_running_job_stops_at_its_next_window(spooled, noisy):
    with spooled(held=True) as server:
        job = server.ask("POST /jobs", noisy)[1]["location"]
        server.wait_for_work()

        status, _, _ = server.ask(f"DELETE {job}")

        assert status == 204
        server.wait_for_work("cancelled")
        assert server.ask(f"GET {job}")[0] == 404


def test_a_result_can_be_deleted(client, noisy, settings):
    job = leave(client, noisy)
    ended(client, job)

    assert client.delete(job).status_code == 204
    assert client.get(f"{job}/result").status_code == 404
    assert kept(settings) == []


def test_jobs_of_other_keys_are_invisible(settings, noisy):
    keys = {name: name * 11 for name in ("ann", "bob")}
    ann, bob = ({"x-api-key": key} for key in keys.values())
    given = ",".join(f"{name}:{key}" for name, key in keys.items())
    with TestClient(create_app(settings.model_copy(update={"keys": given}))) as client:
        job = client.post("/jobs", content=noisy, headers=ann).headers["location"]
        none = "/jobs/not-a-job"

        for address in (job, f"{job}/events", f"{job}/result"):
            other, nobody = (client.get(each, headers=bob) for each in (address, address.replace(job, none)))
            assert_problem(other, 404, "There is no job")
            assert other.text.replace(job[6:], none[6:]) == nobody.text
        assert client.delete(job, headers=bob).status_code == 404
        assert client.get("/jobs", headers=bob).json() == []
        assert [f"/jobs/{each['id']}" for each in client.get("/jobs", headers=ann).json()] == [job]
        assert client.get(job).status_code == 401


def test_an_open_service_lists_no_jobs(settings, noisy):
    with TestClient(create_app(settings.model_copy(update={"open": True}))) as client:
        job = leave(client, noisy)

        assert_problem(client.get("/jobs"), 403, "no API keys")
        assert client.get(job).status_code == 200


def test_a_jobs_pixels_count_against_its_key(settings, noisy):
    ann = {"x-api-key": "a" * 40}
    limited = settings.model_copy(update={"keys": f"ann:{'a' * 40}", "key_pixels": 10, "key_rate": None})
    with TestClient(create_app(limited)) as client:
        first = client.post("/jobs", content=noisy, headers=ann).headers["location"]
        spool = client.app_state["worker"]
        wait_until(lambda: not spool.running and client.portal.call(spool.newest, "ann", 9)[0].state == "done")

        refused = client.post("/jobs", content=noisy, headers=ann)

    assert first
    assert_problem(refused, 429, "pixels an hour")


# Full disks


def test_a_full_spool_is_answered_507_with_retry_after(settings, noisy, held):
    most = 2 * len(noisy)
    with TestClient(create_app(settings.model_copy(update={"spool_bytes": 2 * most}))) as client:
        jobs = [leave(client, noisy) for _ in range(2)]
        refused = client.post("/jobs", content=noisy)
        files = kept(settings)
        held.go.set()
        [ended(client, job) for job in jobs]
        leave(client, noisy)

    assert_problem(refused, 507, "There is no room", f"{most} bytes")
    assert refused.headers["retry-after"] == "60"
    assert len(files) == 2


def full(*args):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_an_upload_to_a_full_disk_is_refused_and_removed(client, noisy, settings, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        refused = client.post("/jobs", content=noisy)
    left = kept(settings)

    assert_problem(refused, 507, "disk that jobs are stored on is full")
    assert (left, client.get("/jobs").json()) == ([], [])
    assert ended(client, leave(client, noisy))["state"] == "done"


def test_a_job_that_cannot_be_recorded_is_refused(client, noisy, held, settings, monkeypatch):
    real = JobStore.admit

    def admit(spool, *what):
        # As if the disk had no room for another page of the SQLite file.
        spool.database.execute("PRAGMA max_page_count = 1")
        return real(spool, *what)

    monkeypatch.setattr(JobStore, "admit", admit)
    answers = [client.post("/jobs", content=noisy)]
    while answers[-1].status_code == 202:
        answers.append(client.post("/jobs", content=noisy))

    assert_problem(answers[-1], 507, "disk that jobs are stored on is full")
    assert len(kept(settings)) == len(client.get("/jobs").json()) == len(answers) - 1


def test_recording_the_end_of_a_job_is_retried(client, noisy, monkeypatch):
    real, failed = JobStore.finish, []

    def finish(*what):
        if not failed:
            failed.append(what)
            raise sqlite3.OperationalError("disk I/O error")
        real(*what)

    monkeypatch.setattr(worker, "RETRY", 0.01)
    monkeypatch.setattr(JobStore, "finish", finish)

    assert ended(client, leave(client, noisy))["state"] == "done"
    assert failed


def test_the_worker_continues_once_the_spool_is_readable(client, noisy, monkeypatch):
    real, failed = JobStore.claim, []

    def claim(*what):
        if not failed:
            failed.append(what)
            raise OSError(errno.EIO, "Input/output error")
        return real(*what)

    monkeypatch.setattr(worker, "RETRY", 0.01)
    monkeypatch.setattr(JobStore, "claim", claim)

    assert ended(client, leave(client, noisy))["state"] == "done"
    assert failed


def test_a_job_fails_when_its_result_does_not_fit_the_disk(client, noisy, held, settings, monkeypatch):
    job = leave(client, noisy)
    held.wait()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        held.go.set()
        failed = ended(client, job)

    assert (failed["state"], failed["error"]["status"]) == ("failed", 507)
    assert "disk that jobs are stored on is full" in failed["error"]["detail"]
    assert kept(settings) == []


# Processes that end


@pytest.fixture
def spooled(folder, tmp_path):
    """spooled(held=False): the service in a process of its own, with one spool."""
    return lambda held=False: serving(folder, "--spool", tmp_path / "spool", held=held)


def test_a_job_of_a_killed_process_is_done_by_the_next(spooled, noisy, settings):
    with spooled(held=True) as server:
        _, headers, _ = server.ask("POST /jobs", noisy)
        running, waiting = headers["location"], server.ask("POST /jobs", noisy)[1]["location"]
        server.wait_for_work()
        server.process.kill()
        server.ended()

    with spooled() as server:
        for job in (running, waiting):
            wait_until(lambda job=job: json.loads(server.ask(f"GET {job}")[2])["state"] == "done")
        results = [server.ask(f"GET {job}/result") for job in (running, waiting)]
        at_once = server.ask("POST /denoise", noisy)
        listed = json.loads(server.ask("GET /jobs")[2])

    assert [(status, body) for status, _, body in results] == [(200, at_once[2])] * 2
    assert [f"/jobs/{job['id']}" for job in listed] == [waiting, running]
    assert kept(settings) == sorted(f"{job[6:]}.result" for job in (running, waiting))


def test_a_job_that_kills_its_process_twice_fails(spooled, noisy):
    with spooled(held=True) as server:
        poison = server.ask("POST /jobs", noisy)[1]["location"]
        server.wait_for_work()
        server.process.kill()
        server.ended()
    with spooled(held=True) as server:
        other = server.ask("POST /jobs", noisy)[1]["location"]
        server.wait_for_work()
        server.process.kill()
        server.ended()

    with spooled() as server:
        wait_until(lambda: json.loads(server.ask(f"GET {other}")[2])["state"] == "done")
        failed = json.loads(server.ask(f"GET {poison}")[2])

    assert failed["state"] == "failed"
    assert "ended 2 times while it ran this job" in failed["error"]["detail"]


def test_shutdown_waits_for_no_job_and_no_listener(spooled, noisy):
    with spooled(held=True) as server, server.connect() as listener:
        job = server.ask("POST /jobs", noisy)[1]["location"]
        server.wait_for_work()
        listener.sendall(request(f"GET {job}/events"))
        heard = listener.makefile("rb")
        assert heard.readline() == b"HTTP/1.1 200 OK\r\n"
        server.stop()
        server.wait_for_work("cancelled")
        server.wait_for("stopped")
        told, code = [line["event"] for line in server.log], server.ended()
        assert b'"state":"running"' in heard.read()
    with spooled() as server:
        wait_until(lambda: json.loads(server.ask(f"GET {job}")[2])["state"] == "done")

    assert code == 0
    assert "requests aborted" not in told


def test_a_spool_that_another_service_has_stops_the_start(client, settings):
    with pytest.raises(ValueError, match="another process uses it; each process needs its own"):
        create_app(settings)
