"""Jobs when the service shuts down, is killed, or starts."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from service.jobs.spool_store import SpoolJobStore
from service.runtime.pipeline import Pipeline
from tests.service.api.jobs.job_client import SOON, ended, events, stored_files, submit, wait_until
from tests.support.power_cut import recorded_calls
from tests.support.served import request


def test_shutdown_ends_streams_and_requeues_the_running_job(settings, noisy, held):
    app = create_app(settings)
    with TestClient(app) as client, ThreadPoolExecutor(1) as pool:
        job = submit(client, noisy)
        held.wait()
        heard = pool.submit(client.get, f"{job}/events")
        wait_until(lambda: app.state.shutdown.working)
        client.portal.call(app.state.shutdown.begin)

        heard_jobs = [job for _, job in events(heard.result(SOON).text.splitlines())]

    assert heard_jobs[-1]["state"] in ("running", "waiting")
    assert held.disconnected.is_set()
    held.go.set()
    with TestClient(create_app(settings)) as client:
        assert ended(client, job)["state"] == "done"


def test_a_job_claimed_during_shutdown_is_requeued(settings, noisy, monkeypatch):
    real, claiming, go = SpoolJobStore.claim, threading.Event(), threading.Event()

    def claim(store, task):
        claiming.set()
        assert go.wait(SOON)
        return real(store, task)

    async def never(*args, **how):
        raise AssertionError("it was started")

    monkeypatch.setattr(Pipeline, "denoise", never)
    with TestClient(create_app(settings)) as client:
        wait_until(lambda: client.get("/jobs").json() == [])
        monkeypatch.setattr(SpoolJobStore, "claim", claim)
        with ThreadPoolExecutor(1) as pool:
            job = submit(client, noisy)
            assert claiming.wait(SOON)
            shutdown = client.app.state.shutdown
            client.portal.call(shutdown.begin)
            stopped = pool.submit(client.portal.call, client.app_state["worker"].stop)
            go.set()
            stopped.result(SOON)
    monkeypatch.undo()

    with TestClient(create_app(settings)) as client:
        assert wait_until(lambda: (now := client.get(job).json())["state"] == "done" and now)


def test_a_job_of_a_killed_process_is_done_by_the_next(serve, noisy, settings):
    with serve(held=True) as server:
        _, headers, _ = server.ask("POST /jobs", noisy)
        running, waiting = headers["location"], server.ask("POST /jobs", noisy)[1]["location"]
        server.wait_for_work()
        server.process.kill()
        server.ended()

    with serve() as server:
        for job in (running, waiting):
            wait_until(lambda job=job: json.loads(server.ask(f"GET {job}")[2])["state"] == "done")
        results = [server.ask(f"GET {job}/result") for job in (running, waiting)]
        at_once = server.ask("POST /denoise", noisy)
        listed = json.loads(server.ask("GET /jobs")[2])

    assert [(status, body) for status, _, body in results] == [(200, at_once[2])] * 2
    assert [f"/jobs/{job['id']}" for job in listed] == [waiting, running]
    assert stored_files(settings) == sorted(f"{job[6:]}.result" for job in (running, waiting))


def test_a_job_that_kills_its_process_twice_fails(serve, noisy):
    with serve(held=True) as server:
        poison = server.ask("POST /jobs", noisy)[1]["location"]
        server.wait_for_work()
        server.process.kill()
        server.ended()
    with serve(held=True) as server:
        other = server.ask("POST /jobs", noisy)[1]["location"]
        server.wait_for_work()
        server.process.kill()
        server.ended()

    with serve() as server:
        wait_until(lambda: json.loads(server.ask(f"GET {other}")[2])["state"] == "done")
        failed = json.loads(server.ask(f"GET {poison}")[2])

    assert failed["state"] == "failed"
    assert "ended 2 times while it ran this job" in failed["error"]["detail"]


def test_shutdown_waits_for_no_job_and_no_listener(serve, noisy):
    with serve(held=True) as server, server.connect() as listener:
        job = server.ask("POST /jobs", noisy)[1]["location"]
        server.wait_for_work()
        listener.sendall(request(f"GET {job}/events"))
        heard = listener.makefile("rb")
        assert heard.readline() == b"HTTP/1.1 200 OK\r\n"
        server.stop()
        server.wait_for_work("cancelled")
        server.wait_for("stopped")
        logged, code = [line["event"] for line in server.log], server.ended()
        assert b'"state":"running"' in heard.read()
    with serve() as server:
        wait_until(lambda: json.loads(server.ask(f"GET {job}")[2])["state"] == "done")

    assert code == 0
    assert "requests aborted" not in logged


def test_a_spool_that_another_service_has_stops_the_start(client, settings):
    with pytest.raises(ValueError, match="another process uses it; each process needs its own"):
        create_app(settings)


def test_files_and_their_names_reach_the_disk_before_rows(client, settings, noisy, monkeypatch):
    calls = recorded_calls(monkeypatch, settings.spool)
    for step in ("admit", "finish"):
        real = getattr(SpoolJobStore, step)
        record = lambda store, *what, step=step, real=real: (calls.append(step), real(store, *what))[1]  # noqa: E731
        monkeypatch.setattr(SpoolJobStore, step, record)

    job = submit(client, noisy)
    ended(client, job)

    id_ = job.removeprefix("/jobs/")
    assert calls == [
        *("sync part", f"rename to {id_}.upload", "sync .", "admit"),
        *("sync part", f"rename to {id_}.result", "sync .", "finish"),
    ]
    # Only then is a row itself on the disk when it is committed.
    synchronous = client.app_state["worker"]._store.database.execute("PRAGMA synchronous").fetchone()
    assert synchronous == (2,)
