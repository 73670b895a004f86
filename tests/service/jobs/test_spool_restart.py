"""Job store in a folder: what a restart finds, repairs or refuses."""

import sqlite3
import subprocess
import sys

import pytest

from service.jobs.records import JobStoreError
from service.jobs.spool_store import SpoolJobStore
from tests.service.jobs.stored import add, do, files, found, id_of


def test_a_store_is_one_process_s_own(spool, tmp_path):
    code = (
        "import pathlib, sys; from service.jobs.spool_store import SpoolJobStore;"
        " SpoolJobStore(pathlib.Path(sys.argv[1]), 9, 9)"
    )

    other = subprocess.run([sys.executable, "-c", code, tmp_path / "spool"], capture_output=True, text=True)

    assert other.returncode == 1
    assert (
        other.stderr.strip()
        .splitlines()[-1]
        .endswith("cannot be used: another process uses it; each process needs its own")
    )


def test_a_job_half_done_is_done_again_and_a_done_one_is_not(open_spool):
    store = open_spool()
    do(store, "a")
    add(store, "b")
    store.claim()
    # The process is killed before it calls `finish`.
    store._result_path(id_of("b")).write_bytes(b"half")

    store = open_spool()

    assert [record.state for record in store.newest("ann", 9)] == ["waiting", "done"]
    assert store.claim().id == id_of("b")
    assert store.claim() is None


def test_stray_job_files_are_removed_and_others_kept(open_spool):
    store = open_spool()
    do(store, "b")
    add(store, "a")
    folder = store._upload_path(id_of("a")).parent
    orphans = [
        f"{id_of('a')}.result",
        f"{id_of('b')}.upload",
        f"{id_of('x')}.upload",
        f"{id_of('x')}.result",
        f".{id_of('x')}.upload.0123abcd.part",
    ]
    for name in (*orphans, "notes.txt", "holiday.jpg"):
        (folder / name).write_bytes(b"?")

    assert files(open_spool()) == ["a.upload", "b.result", "holiday.jpg", "notes.txt"]


def test_a_job_that_ends_the_process_twice_fails(open_spool):
    store = open_spool()
    add(store, "a")
    add(store, "b")
    store.claim()
    store = open_spool()
    again = store.claim()
    store = open_spool()

    failed = found(store, "a")

    assert again.id == id_of("a")
    assert (failed.state, failed.status) == ("failed", 500)
    assert failed.error == "The service ended 2 times while it ran this job, which is not started again."
    assert files(store) == ["b.upload"]
    assert store.claim().id == id_of("b")


def test_a_job_that_is_put_back_may_be_begun_any_number_of_times(open_spool):
    store = open_spool()
    add(store, "a")
    for _ in range(5):
        store.put_back(store.claim())
        store = open_spool()

    waiting = found(store, "a")

    assert (waiting.state, waiting.started) == ("waiting", None)


def test_a_job_whose_upload_is_gone_fails_with_the_reason(open_spool):
    store = open_spool()
    add(store, "a")
    store._upload_path(id_of("a")).unlink()

    failed = found(open_spool(), "a")

    assert failed.state == "failed"
    assert "The upload is missing" in failed.error


def test_a_file_that_is_no_store_is_refused_with_the_reason(tmp_path):
    (tmp_path / "jobs.sqlite").write_bytes(b"no database" * 100)

    with pytest.raises(JobStoreError, match=r"the spool .* cannot be used: file is not a database"):
        SpoolJobStore(tmp_path, 10, 10)


def test_a_store_of_another_version_is_not_touched(open_spool, tmp_path):
    open_spool().close()
    with sqlite3.connect(tmp_path / "spool" / "jobs.sqlite") as db:
        db.execute("PRAGMA user_version = 9")
    db.close()

    with pytest.raises(JobStoreError, match=r"written by another version of the service \(9, here 4\)"):
        open_spool()
