"""What is kept of jobs on the disk: in real SQLite files, with clocks that the tests set."""

import sqlite3
import subprocess
import sys
from types import SimpleNamespace

import pytest

from service.jobs import store as module
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
def open_spool(tmp_path, clocks):
    """open_spool(most_bytes, keep): the spool, after a restart if it was open before."""
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
def spool(open_spool):
    return open_spool()


def add(spool, letter, owner="ann", size=10):
    spool.upload(id_of(letter)).write_bytes(b"u" * size)
    return spool.admit(id_of(letter), JobRequest(owner, f"{letter}.png", "{}", "[]", "request"))


def finish(spool, letter, size=20):
    spool.result(id_of(letter)).write_bytes(b"r" * size)
    spool.finish(id_of(letter), RESULT)


def do(spool, letter, owner="ann", size=20):
    add(spool, letter, owner)
    spool.claim()
    finish(spool, letter, size)


def found(spool, letter, owner="ann"):
    return spool.find(id_of(letter), owner)


def files(spool):
    """Beside SQLite's own."""
    folder = spool.upload(id_of("a")).parent
    return sorted(file.name for file in folder.iterdir() if not file.name.startswith("jobs.sqlite"))


def pass_time(clocks, seconds):
    clocks.now += seconds
    clocks.up += seconds


def test_a_job_goes_from_waiting_to_done_and_its_result_takes_the_place_of_its_upload(spool, clocks):
    waiting = add(spool, "a")
    clocks.now += 1
    running = spool.claim()
    clocks.now += 1
    finish(spool, "a")
    done = found(spool, "a")

    assert (waiting.state, running.state, done.state) == ("waiting", "running", "done")
    assert (done.created, done.started, done.ended) == (1e9, 1e9 + 1, 1e9 + 2)
    assert (waiting.bytes, done.bytes) == (10, 20)
    assert (done.name, done.media_type, done.headers, done.digest) == (
        RESULT.name,
        RESULT.media_type,
        RESULT.headers,
        RESULT.digest,
    )
    assert files(spool) == [f"{id_of('a')}.result"]
    assert spool.claim() is None


def test_a_job_that_failed_keeps_the_reason_and_no_files(spool):
    add(spool, "a")
    spool.claim()
    spool.fail(id_of("a"), 413, "Too large.")

    failed = found(spool, "a")

    assert (failed.state, failed.status, failed.error, failed.bytes) == ("failed", 413, "Too large.", 0)
    assert files(spool) == []


def test_jobs_are_done_in_order_and_owners_take_turns(spool):
    for letter, owner in (("a", "ann"), ("b", "ann"), ("c", "ann"), ("d", "bob"), ("e", "cy")):
        add(spool, letter, owner)

    order = [spool.claim().id[0] for _ in range(5)]

    assert order == ["a", "d", "e", "b", "c"]


def test_an_owner_who_takes_finished_jobs_away_does_not_come_before_others(spool):
    for letter, owner in (("a", "ann"), ("b", "ann"), ("c", "bob")):
        add(spool, letter, owner)
    spool.claim()
    spool.remove(id_of("a"))

    assert spool.claim().owner == "bob"


def test_a_job_is_found_by_its_owner_alone(spool):
    add(spool, "a", "ann")
    add(spool, "b", "bob")

    assert found(spool, "a", "ann") is not None
    assert found(spool, "a", "bob") is None
    assert [record.id[0] for record in spool.newest("bob", 9)] == ["b"]


def test_the_newest_jobs_come_first_and_no_more_than_asked_for(spool):
    for letter in "abc":
        add(spool, letter)

    assert [record.id[0] for record in spool.newest("ann", 2)] == ["c", "b"]


def test_a_job_that_is_removed_leaves_nothing_whatever_its_state(spool):
    add(spool, "a")
    do(spool, "b")
    add(spool, "c")
    spool.claim()

    for letter in "abc":
        spool.remove(id_of(letter))

    assert spool.newest("ann", 9) == []
    assert files(spool) == []


def test_the_result_of_a_job_that_was_removed_meanwhile_is_thrown_away(spool):
    add(spool, "a")
    spool.claim()
    spool.remove(id_of("a"))

    finish(spool, "a")
    spool.fail(id_of("a"), 500, "Too late.")

    assert found(spool, "a") is None
    assert files(spool) == []


def test_a_job_that_has_ended_does_not_change_any_more(spool):
    do(spool, "a")

    spool.put_back(id_of("a"))
    spool.fail(id_of("a"), 500, "Too late.")

    assert found(spool, "a").state == "done"


# Restarts


def test_a_spool_is_one_process_s_own(spool, tmp_path):
    code = (
        "import pathlib, sys; from service.jobs.store import JobStore; JobStore(pathlib.Path(sys.argv[1]), 9, 9)"
    )

    other = subprocess.run([sys.executable, "-c", code, tmp_path / "spool"], capture_output=True, text=True)

    assert other.returncode == 1
    assert (
        other.stderr.strip()
        .splitlines()[-1]
        .endswith("cannot be used: another process has it; each needs its own")
    )


def test_a_job_half_done_is_done_again_and_one_that_is_done_is_not(open_spool):
    spool = open_spool()
    do(spool, "a")
    add(spool, "b")
    spool.claim()
    # As far as it gets before it is told that it is done.
    spool.result(id_of("b")).write_bytes(b"half")

    spool = open_spool()

    assert [record.state for record in spool.newest("ann", 9)] == ["waiting", "done"]
    assert spool.claim().id == id_of("b")
    assert spool.claim() is None


def test_files_that_belong_to_no_job_are_removed_at_the_start_and_others_are_left_alone(open_spool):
    spool = open_spool()
    add(spool, "a")
    do(spool, "b")
    folder = spool.upload(id_of("a")).parent
    orphans = [
        f"{id_of('a')}.result",
        f"{id_of('b')}.upload",
        f"{id_of('x')}.upload",
        f"{id_of('x')}.result",
        f".{id_of('x')}.upload.0123abcd.part",
    ]
    for name in (*orphans, "notes.txt", "holiday.jpg"):
        (folder / name).write_bytes(b"?")

    assert files(open_spool()) == sorted(
        [f"{id_of('a')}.upload", f"{id_of('b')}.result", "notes.txt", "holiday.jpg"]
    )


def test_a_job_that_ends_the_process_twice_is_given_up(open_spool):
    spool = open_spool()
    add(spool, "a")
    add(spool, "b")
    spool.claim()
    spool = open_spool()
    again = spool.claim()
    spool = open_spool()

    failed = found(spool, "a")

    assert again.id == id_of("a")
    assert (failed.state, failed.status) == ("failed", 500)
    assert failed.error == "The service ended 2 times while it was at this job, and gives it up."
    assert files(spool) == [f"{id_of('b')}.upload"]
    assert spool.claim().id == id_of("b")


def test_a_job_that_is_put_back_may_be_begun_any_number_of_times(open_spool):
    spool = open_spool()
    add(spool, "a")
    for _ in range(5):
        spool.claim()
        spool.put_back(id_of("a"))
        spool = open_spool()

    waiting = found(spool, "a")

    assert (waiting.state, waiting.started) == ("waiting", None)


def test_a_job_whose_upload_is_gone_fails_in_words(open_spool):
    spool = open_spool()
    add(spool, "a")
    spool.upload(id_of("a")).unlink()

    failed = found(open_spool(), "a")

    assert failed.state == "failed"
    assert "no longer in the spool" in failed.error


def test_a_file_that_is_no_spool_is_told_of_in_words(tmp_path):
    (tmp_path / "jobs.sqlite").write_bytes(b"no database" * 100)

    with pytest.raises(JobStoreError, match=r"the spool .* cannot be used: file is not a database"):
        JobStore(tmp_path, 10, 10)


def test_a_spool_of_another_version_is_not_touched(open_spool, tmp_path):
    open_spool().close()
    with sqlite3.connect(tmp_path / "spool" / "jobs.sqlite") as db:
        db.execute("PRAGMA user_version = 9")
    db.close()

    with pytest.raises(JobStoreError, match=r"written by another version of the service \(9, here 2\)"):
        open_spool()


# Room


def test_uploads_have_half_of_the_room(spool):
    add(spool, "a", size=600)

    spool.check_room(400)
    with pytest.raises(JobStoreFull, match="uploads may have 1000 bytes, and 1001 were needed"):
        spool.check_room(401)


def test_room_comes_back_when_jobs_end(spool):
    add(spool, "a", size=1000)
    spool.claim()
    finish(spool, "a", size=1000)

    spool.check_room(1000)


def test_the_oldest_results_make_room_for_new_ones_and_it_is_known_that_there_were_some(spool):
    for letter in "abc":
        do(spool, letter, size=400)

    assert files(spool) == [f"{id_of('b')}.result", f"{id_of('c')}.result"]
    assert [(record.state, record.bytes) for record in spool.newest("ann", 9)] == [
        ("done", 400),
        ("done", 400),
        ("done", 0),
    ]


def test_a_result_that_is_larger_than_the_room_for_all_is_refused(spool):
    do(spool, "a", size=400)
    add(spool, "b")
    spool.claim()

    with pytest.raises(JobStoreFull, match="The result has 1001 bytes; at most 1000 are kept"):
        finish(spool, "b", size=1001)

    assert found(spool, "a").bytes == 400
    assert found(spool, "b").state == "running"


def test_no_more_jobs_wait_and_no_more_ended_ones_are_kept_than_can_be_looked_through(spool, monkeypatch):
    monkeypatch.setattr(module, "MOST", 2)
    for letter in "abc":
        do(spool, letter)
    for letter in "de":
        add(spool, letter)
    with pytest.raises(JobStoreFull, match="2 jobs wait already"):
        spool.check_room(1)

    spool.sweep()

    assert [record.id[0] for record in spool.newest("ann", 9)] == ["e", "d", "c", "b"]
    assert f"{id_of('a')}.result" not in files(spool)


# Time


def test_what_has_ended_is_kept_for_its_time_and_what_has_not_for_ever(spool, clocks):
    do(spool, "a")
    add(spool, "b")
    pass_time(clocks, 10 * HOUR - 1)
    spool.sweep()
    kept = files(spool)
    pass_time(clocks, 1)
    spool.sweep()

    assert kept == [f"{id_of('a')}.result", f"{id_of('b')}.upload"]
    assert files(spool) == [f"{id_of('b')}.upload"]
    assert found(spool, "a") is None


@pytest.mark.parametrize("jump", [1000 * HOUR, -1000 * HOUR])
def test_a_clock_that_jumps_makes_nothing_old_and_nothing_young(jump, spool, clocks):
    do(spool, "a")
    clocks.now += jump
    spool.sweep()
    kept = files(spool)
    pass_time(clocks, 10 * HOUR)
    spool.sweep()

    assert kept == [f"{id_of('a')}.result"]
    assert files(spool) == []


def test_the_time_between_two_processes_counts(open_spool, clocks):
    spool = open_spool()
    do(spool, "a")
    pass_time(clocks, 6 * HOUR)
    spool.sweep()
    clocks.now, clocks.up = clocks.now + 4 * HOUR, 0

    spool = open_spool()
    spool.sweep()

    assert files(spool) == []


@pytest.mark.parametrize(("jump", "left"), [(300_000 * HOUR, 5 * HOUR), (-300_000 * HOUR, 10 * HOUR)])
def test_a_clock_that_is_wrong_at_a_start_takes_half_of_the_time_at_most(jump, left, open_spool, clocks):
    spool = open_spool()
    do(spool, "a")
    spool.sweep()
    # Wrong once, and as wrong at every later start.
    clocks.now += jump
    for _ in range(3):
        clocks.up = 0
        spool = open_spool()
        spool.sweep()
    pass_time(clocks, left - 1)
    spool.sweep()
    kept = files(spool)
    pass_time(clocks, 2)
    spool.sweep()

    assert kept == [f"{id_of('a')}.result"]
    assert files(spool) == []
