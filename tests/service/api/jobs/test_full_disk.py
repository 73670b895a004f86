"""Jobs on a full or failing disk."""

import errno
import os
import sqlite3

from fastapi.testclient import TestClient

from service.app import create_app
from service.jobs import worker
from service.jobs.spool_store import SpoolJobStore
from tests.service.api.jobs.job_client import ended, stored_files, submit
from tests.support.problems import assert_problem


def test_a_full_spool_is_answered_507_with_retry_after(settings, noisy, held):
    most = 2 * len(noisy)
    with TestClient(create_app(settings.model_copy(update={"spool_bytes": 2 * most}))) as client:
        jobs = [submit(client, noisy) for _ in range(2)]
        refused = client.post("/jobs", content=noisy)
        files = stored_files(settings)
        held.go.set()
        [ended(client, job) for job in jobs]
        submit(client, noisy)

    assert_problem(refused, 507, "There is no room", f"{most} bytes")
    assert refused.headers["retry-after"] == "60"
    assert len(files) == 2


def full(*args):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_an_upload_to_a_full_disk_is_refused_and_removed(client, noisy, settings, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        refused = client.post("/jobs", content=noisy)
    left = stored_files(settings)

    assert_problem(refused, 507, "disk that jobs are stored on is full")
    assert (left, client.get("/jobs").json()) == ([], [])
    assert ended(client, submit(client, noisy))["state"] == "done"


def test_a_job_that_cannot_be_recorded_is_refused(client, noisy, held, settings, monkeypatch):
    real = SpoolJobStore.admit

    def admit(store, *what):
        # As if the disk had no room for another page of the SQLite file.
        store.database.execute("PRAGMA max_page_count = 1")
        return real(store, *what)

    monkeypatch.setattr(SpoolJobStore, "admit", admit)
    answers = [client.post("/jobs", content=noisy)]
    while answers[-1].status_code == 202:
        answers.append(client.post("/jobs", content=noisy))

    assert_problem(answers[-1], 507, "disk that jobs are stored on is full")
    assert len(stored_files(settings)) == len(client.get("/jobs").json()) == len(answers) - 1


def test_recording_the_end_of_a_job_is_retried(client, noisy, monkeypatch):
    real, failed = SpoolJobStore.finish, []

    def finish(*what):
        if not failed:
            failed.append(what)
            raise sqlite3.OperationalError("disk I/O error")
        real(*what)

    monkeypatch.setattr(worker, "RETRY", 0.01)
    monkeypatch.setattr(SpoolJobStore, "finish", finish)

    assert ended(client, submit(client, noisy))["state"] == "done"
    assert failed


def test_the_worker_continues_once_the_spool_is_readable(client, noisy, monkeypatch):
    real, failed = SpoolJobStore.claim, []

    def claim(*what):
        if not failed:
            failed.append(what)
            raise OSError(errno.EIO, "Input/output error")
        return real(*what)

    monkeypatch.setattr(worker, "RETRY", 0.01)
    monkeypatch.setattr(SpoolJobStore, "claim", claim)

    assert ended(client, submit(client, noisy))["state"] == "done"
    assert failed


def test_a_job_fails_when_its_result_does_not_fit_the_disk(client, noisy, held, settings, monkeypatch):
    job = submit(client, noisy)
    held.wait()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        held.go.set()
        failed = ended(client, job)

    assert (failed["state"], failed["error"]["status"]) == ("failed", 507)
    assert "disk that jobs are stored on is full" in failed["error"]["detail"]
    assert stored_files(settings) == []
