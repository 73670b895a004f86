"""What is kept of jobs on the disk: in real SQLite files, with clocks that the tests set."""

import sqlite3
import subprocess
import sys
from types import SimpleNamespace

import pytest

from service.jobs import store as store_module
from service.jobs.store import JobRequest, JobStore, JobStoreError, JobStoreFull, Result

HOUR = 3600.0
RESULT = Result("scan.png", "image/png", '{"X-Denoise-Model": "photo"}', "abc")


def id_of(letter):
    return letter * 22


@pytest.fixture
def clocks():
    """now: what the clock on the wall says. up: seconds since the machine started."""
    return SimpleNamespace(now=1e9, up=50.0)


@pytest.fixture
def open_store(tmp_path, clocks):
    """open_store(most_bytes, keep): the store, after a restart if it was open before."""
    opened = []

    def make(most_bytes=2000, keep=10 * HOUR):
        while opened:
            opened.pop().close()
        opened.append(JobStore(tmp_path / "spool", most_bytes, keep, lambda: clocks.now, lambda: clocks.up))
        return opened[0]

    yield make
    while opened:
        opened.pop().close()


@pytest.fixture
def store(open_store):
    return open_store()


def add(store, letter, owner="ann", size=10):
    store.upload_path(id_of(letter)).write_bytes(b"u" * size)
    return store.admit(id_of(letter), JobRequest(owner, f"{letter}.png", "{}", "[]", "request"))


def finish(store, letter, size=20):
    store.result_path(id_of(letter)).write_bytes(b"r" * size)
    store.finish(id_of(letter), RESULT)


def do(store, letter, owner="ann", size=20):
    add(store, letter, owner)
    store.claim()
    finish(store, letter, size)


def found(store, letter, owner="ann"):
    return store.find(id_of(letter), owner)


def files(store):
    """Beside SQLite's own."""
    folder = store.upload_path(id_of("a")).parent
    return sorted(file.name for file in folder.iterdir() if not file.name.startswith("jobs.sqlite"))


def pass_time(clocks, seconds):
    clocks.now += seconds
    clocks.up += seconds


def test_a_finished_job_has_a_result_in_place_of_its_upload(store, clocks):
    waiting = add(store, "a")
    clocks.now += 1
    running = store.claim()
    clocks.now += 1
    finish(store, "a")
    done = found(store, "a")

    assert (waiting.state, running.state, done.state) == ("waiting", "running", "done")
    assert (done.created, done.started, done.ended) == (1e9, 1e9 + 1, 1e9 + 2)
    assert (waiting.bytes, done.bytes) == (10, 20)
    assert (done.name, done.media_type, done.headers, done.digest) == (
        RESULT.name,
        RESULT.media_type,
        RESULT.headers,
        RESULT.digest,
    )
    assert files(store) == [f"{id_of('a')}.result"]
    assert store.claim() is None


def test_a_job_that_failed_keeps_the_reason_and_no_files(store):
    add(store, "a")
    store.claim()
    store.fail(id_of("a"), 413, "Too large.")

    failed = found(store, "a")

    assert (failed.state, failed.status, failed.error, failed.bytes) == ("failed", 413, "Too large.", 0)
    assert files(store) == []


def test_jobs_are_done_in_order_and_owners_take_turns(store):
    for letter, owner in (("a", "ann"), ("b", "ann"), ("c", "ann"), ("d", "bob"), ("e", "cy")):
        add(store, letter, owner)

    order = [store.claim().id[0] for _ in range(5)]

    assert order == ["a", "d", "e", "b", "c"]


def test_an_owner_gains_no_turn_by_removing_jobs(store):
    for letter, owner in (("a", "ann"), ("b", "ann"), ("c", "bob")):
        add(store, letter, owner)
    store.claim()
    store.remove(id_of("a"))

    assert store.claim().owner == "bob"


def test_a_job_is_found_by_its_owner_alone(store):
    add(store, "a", "ann")
    add(store, "b", "bob")

    assert found(store, "a", "ann") is not None
    assert found(store, "a", "bob") is None
    assert [record.id[0] for record in store.newest("bob", 9)] == ["b"]


def test_the_newest_jobs_come_first_and_no_more_than_asked_for(store):
    for letter in "abc":
        add(store, letter)

    assert [record.id[0] for record in store.newest("ann", 2)] == ["c", "b"]


def test_a_job_that_is_removed_leaves_nothing_whatever_its_state(store):
    add(store, "a")
    do(store, "b")
    add(store, "c")
    store.claim()

    for letter in "abc":
        store.remove(id_of(letter))

    assert store.newest("ann", 9) == []
    assert files(store) == []


def test_the_result_of_a_removed_job_is_removed(store):
    add(store, "a")
    store.claim()
    store.remove(id_of("a"))

    finish(store, "a")
    store.fail(id_of("a"), 500, "Too late.")

    assert found(store, "a") is None
    assert files(store) == []


def test_a_job_that_has_ended_does_not_change_any_more(store):
    do(store, "a")

    store.put_back(id_of("a"))
    store.fail(id_of("a"), 500, "Too late.")

    assert found(store, "a").state == "done"


# Restarts


def test_a_store_is_one_process_s_own(store, tmp_path):
    code = (
        "import pathlib, sys; from service.jobs.store import JobStore; JobStore(pathlib.Path(sys.argv[1]), 9, 9)"
    )

    other = subprocess.run([sys.executable, "-c", code, tmp_path / "spool"], capture_output=True, text=True)

    assert other.returncode == 1
    assert (
        other.stderr.strip()
        .splitlines()[-1]
        .endswith("cannot be used: another process uses it; each process needs its own")
    )


def test_a_job_half_done_is_done_again_and_a_done_one_is_not(open_store):
    store = open_store()
    do(store, "a")
    add(store, "b")
    store.claim()
    # The process is killed before it calls `finish`.
    store.result_path(id_of("b")).write_bytes(b"half")

    store = open_store()

    assert [record.state for record in store.newest("ann", 9)] == ["waiting", "done"]
    assert store.claim().id == id_of("b")
    assert store.claim() is None


def test_stray_job_files_are_removed_and_others_kept(open_store):
    store = open_store()
    add(store, "a")
    do(store, "b")
    folder = store.upload_path(id_of("a")).parent
    orphans = [
        f"{id_of('a')}.result",
        f"{id_of('b')}.upload",
        f"{id_of('x')}.upload",
        f"{id_of('x')}.result",
        f".{id_of('x')}.upload.0123abcd.part",
    ]
    for name in (*orphans, "notes.txt", "holiday.jpg"):
        (folder / name).write_bytes(b"?")

    assert files(open_store()) == sorted(
        [f"{id_of('a')}.upload", f"{id_of('b')}.result", "notes.txt", "holiday.jpg"]
    )


def test_a_job_that_ends_the_process_twice_is_given_up(open_store):
    store = open_store()
    add(store, "a")
    add(store, "b")
    store.claim()
    store = open_store()
    again = store.claim()
    store = open_store()

    failed = found(store, "a")

    assert again.id == id_of("a")
    assert (failed.state, failed.status) == ("failed", 500)
    assert failed.error == "The service ended 2 times while it ran this job, which is not started again."
    assert files(store) == [f"{id_of('b')}.upload"]
    assert store.claim().id == id_of("b")


def test_a_job_that_is_put_back_may_be_begun_any_number_of_times(open_store):
    store = open_store()
    add(store, "a")
    for _ in range(5):
        store.claim()
        store.put_back(id_of("a"))
        store = open_store()

    waiting = found(store, "a")

    assert (waiting.state, waiting.started) == ("waiting", None)


def test_a_job_whose_upload_is_gone_fails_in_words(open_store):
    store = open_store()
    add(store, "a")
    store.upload_path(id_of("a")).unlink()

    failed = found(open_store(), "a")

    assert failed.state == "failed"
    assert "missing from the spool folder" in failed.error


def test_a_file_that_is_no_store_is_told_of_in_words(tmp_path):
    (tmp_path / "jobs.sqlite").write_bytes(b"no database" * 100)

    with pytest.raises(JobStoreError, match=r"the spool .* cannot be used: file is not a database"):
        JobStore(tmp_path, 10, 10)


def test_a_store_of_another_version_is_not_touched(open_store, tmp_path):
    open_store().close()
    with sqlite3.connect(tmp_path / "spool" / "jobs.sqlite") as db:
        db.execute("PRAGMA user_version = 9")
    db.close()

    with pytest.raises(JobStoreError, match=r"written by another version of the service \(9, here 2\)"):
        open_store()


# Room


def test_uploads_have_half_of_the_room(store):
    add(store, "a", size=600)

    store.check_room(400)
    with pytest.raises(JobStoreFull, match="uploads may take 1000 bytes, and would take 1001"):
        store.check_room(401)


def test_room_comes_back_when_jobs_end(store):
    add(store, "a", size=1000)
    store.claim()
    finish(store, "a", size=1000)

    store.check_room(1000)


def test_the_oldest_results_make_room_and_their_jobs_stay(store):
    for letter in "abc":
        do(store, letter, size=400)

    assert files(store) == [f"{id_of('b')}.result", f"{id_of('c')}.result"]
    assert [(record.state, record.bytes) for record in store.newest("ann", 9)] == [
        ("done", 400),
        ("done", 400),
        ("done", 0),
    ]


def test_a_result_larger_than_all_the_room_is_refused(store):
    do(store, "a", size=400)
    add(store, "b")
    store.claim()

    with pytest.raises(JobStoreFull, match="The result has 1001 bytes; at most 1000 are kept"):
        finish(store, "b", size=1001)

    assert found(store, "a").bytes == 400
    assert found(store, "b").state == "running"


def test_waiting_and_ended_jobs_are_limited_in_number(store, monkeypatch):
    monkeypatch.setattr(store_module, "MAX_JOBS", 2)
    for letter in "abc":
        do(store, letter)
    for letter in "de":
        add(store, letter)
    with pytest.raises(JobStoreFull, match="2 jobs are waiting or running, the limit"):
        store.check_room(1)

    store.sweep()

    assert [record.id[0] for record in store.newest("ann", 9)] == ["e", "d", "c", "b"]
    assert f"{id_of('a')}.result" not in files(store)


# Time


def test_ended_jobs_expire_and_waiting_ones_do_not(store, clocks):
    do(store, "a")
    add(store, "b")
    pass_time(clocks, 10 * HOUR - 1)
    store.sweep()
    kept = files(store)
    pass_time(clocks, 1)
    store.sweep()

    assert kept == [f"{id_of('a')}.result", f"{id_of('b')}.upload"]
    assert files(store) == [f"{id_of('b')}.upload"]
    assert found(store, "a") is None


@pytest.mark.parametrize("jump", [1000 * HOUR, -1000 * HOUR])
def test_a_clock_that_jumps_makes_nothing_old_and_nothing_young(jump, store, clocks):
    do(store, "a")
    clocks.now += jump
    store.sweep()
    kept = files(store)
    pass_time(clocks, 10 * HOUR)
    store.sweep()

    assert kept == [f"{id_of('a')}.result"]
    assert files(store) == []


def test_the_time_between_two_processes_counts(open_store, clocks):
    store = open_store()
    do(store, "a")
    pass_time(clocks, 6 * HOUR)
    store.sweep()
    clocks.now, clocks.up = clocks.now + 4 * HOUR, 0

    store = open_store()
    store.sweep()

    assert files(store) == []


@pytest.mark.parametrize(("jump", "left"), [(300_000 * HOUR, 5 * HOUR), (-300_000 * HOUR, 10 * HOUR)])
def test_a_wrong_clock_at_a_start_takes_half_of_the_time_at_most(jump, left, open_store, clocks):
    store = open_store()
    do(store, "a")
    store.sweep()
    # Wrong once, and as wrong at every later start.
    clocks.now += jump
    for _ in range(3):
        clocks.up = 0
        store = open_store()
        store.sweep()
    pass_time(clocks, left - 1)
    store.sweep()
    kept = files(store)
    pass_time(clocks, 2)
    store.sweep()

    assert kept == [f"{id_of('a')}.result"]
    assert files(store) == []
