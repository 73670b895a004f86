"""Job store: jobs, their owners, room and time."""

import pytest

from service.jobs import store as store_module
from service.jobs.store import JobStore, JobStoreFull
from tests.service.jobs.stored import HOUR, RESULT, add, do, files, finish, found, id_of, pass_time
from tests.support.power_cut import recorded_calls


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


# Power cuts


def test_a_new_store_is_on_the_disk_with_its_name(tmp_path, monkeypatch):
    calls = recorded_calls(monkeypatch, tmp_path)

    JobStore(tmp_path / "a" / "spool", 2000, HOUR).close()

    assert calls == ["sync .", "sync a", "sync a/spool"]


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
