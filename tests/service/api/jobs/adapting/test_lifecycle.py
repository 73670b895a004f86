"""Adaptations that are paused, cancelled, killed and started again."""

import os
import signal
import threading

from fastapi.testclient import TestClient

from service.app import create_app
from tests.service.api.jobs.adapting.adapt_client import (
    query,
    state_of,
    status,
    trainers,
    until_begun,
    until_training,
)
from tests.service.api.jobs.job_client import IN_BOTH_STORES, ended, stored_files, wait_until


def submit(server, body, **how):
    code, headers, answer = server.ask(f"POST {query(**how)}", body)
    assert code == 202, answer
    return headers["location"]


def folders(temporary):
    return list(temporary.glob("denoise-job-*"))


def test_training_stands_still_while_an_image_is_in_work(serve, few, noisy, temporary):
    with serve(held=True) as server:
        job = submit(server, few)
        running = until_training(lambda: status(server, job))
        [pid] = trainers(temporary)
        threading.Thread(target=lambda: server.ask("POST /denoise", noisy)).start()
        server.wait_for_work()
        wait_until(lambda: state_of(pid) == "T")
        paused = wait_until(lambda: (now := status(server, job))["adaptation"]["paused"] and now)
        still = status(server, job)
        server.go_on()
        wait_until(lambda: not status(server, job)["adaptation"]["paused"])
        went_on = wait_until(lambda: (now := status(server, job))["progress"] > paused["progress"] and now)
        nice = os.getpriority(os.PRIO_PROCESS, pid)

    assert (paused["state"], paused["adaptation"]["stage"]) == ("running", "training")
    assert (still["progress"], still["seconds_left"]) == (paused["progress"], paused["seconds_left"])
    assert went_on["seconds_left"] < running["seconds_left"]
    assert nice == 19


@IN_BOTH_STORES
def test_deleting_ends_the_training_and_frees_the_disk(client, few, settings, temporary):
    job = client.post(query(), content=few).headers["location"]
    until_training(lambda: client.get(job).json())
    pids, before = trainers(temporary), folders(temporary)

    deleted = client.delete(job)

    assert (len(pids), len(before), deleted.status_code) == (1, 1, 204)
    wait_until(lambda: not trainers(temporary) and not folders(temporary))
    assert client.get(job).status_code == 404
    assert stored_files(settings) == []


def test_images_and_one_adaptation_are_jobs_beside_each_other(client, few, noisy, temporary):
    first, second = (client.post(query(), content=few).headers["location"] for _ in range(2))
    until_begun(lambda: client.get(first).json())

    image = client.post("/jobs", content=noisy).headers["location"]

    assert ended(client, image)["state"] == "done"
    assert [client.get(job).json()["state"] for job in (first, second)] == ["running", "waiting"]
    assert len(trainers(temporary)) == 1
    assert "denoise_jobs_waiting 0.0" in client.get("/metrics").text
    client.delete(second)
    client.delete(first)


@IN_BOTH_STORES
def test_a_killed_service_ends_the_training_and_begins_anew(serve, few, temporary, settings):
    with serve() as server:
        job = submit(server, few)
        until_begun(lambda: status(server, job))
        [pid] = trainers(temporary)
        # Also one that stands still.
        os.kill(pid, signal.SIGSTOP)
        server.process.kill()
        server.ended()
    wait_until(lambda: not trainers(temporary))
    left = folders(temporary)

    with serve() as server:
        again = until_begun(lambda: status(server, job))
        now = folders(temporary)
        server.stop()
        server.wait_for("stopped")
        code = server.ended()

    assert again["state"] == "running"
    assert (len(left), len(now), code) == (1, 1, 0)
    assert left != now
    assert not trainers(temporary)
    assert not folders(temporary)


def test_the_start_removes_what_a_killed_service_left(settings, temporary):
    (temporary / "denoise-job-left" / "shots").mkdir(parents=True)

    with TestClient(create_app(settings)):
        assert not folders(temporary)


def test_a_stopped_service_trains_again_at_the_next_start(settings, few):
    with TestClient(create_app(settings)) as client:
        job = client.post(query(), content=few).headers["location"]
        wait_until(lambda: client.get(job).json()["state"] == "running")
    with TestClient(create_app(settings)) as client:
        began = wait_until(lambda: (now := client.get(job).json())["state"] == "running" and now)
        client.delete(job)
    assert began["adaptation"]["verdict"] is None


def test_a_service_that_no_longer_adapts_fails_the_job(settings, few):
    with TestClient(create_app(settings)) as client:
        job = client.post(query(), content=few).headers["location"]

    with TestClient(create_app(settings.model_copy(update={"adapt": False}))) as client:
        failed = ended(client, job)

    assert failed["error"]["status"] == 403
    assert "DENOISE_ADAPT is not set" in failed["error"]["detail"]


def test_a_training_that_is_killed_fails_the_job(client, few, temporary, noisy):
    job = client.post(query(), content=few).headers["location"]
    until_begun(lambda: client.get(job).json())
    [pid] = trainers(temporary)

    os.kill(pid, signal.SIGKILL)
    failed = ended(client, job)

    assert failed["error"]["status"] == 500
    assert "ended with SIGKILL" in failed["error"]["detail"]
    assert not folders(temporary)
    assert client.post("/denoise", content=noisy).status_code == 200


def test_the_training_does_not_see_the_services_secrets(settings, few, temporary, monkeypatch):
    monkeypatch.setenv("DENOISE_KEYS", f"ann:{'a' * 40}")
    with TestClient(create_app(settings)) as client:
        job = client.post(query(), content=few).headers["location"]
        until_begun(lambda: client.get(job).json())
        [pid] = trainers(temporary)
        with open(f"/proc/{pid}/environ") as environment:  # noqa: PTH123
            names = [each.partition("=")[0] for each in environment.read().split("\0")]
        client.delete(job)

    assert [name for name in names if name.startswith("DENOISE")] == []
