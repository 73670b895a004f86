"""Job stores, each in a folder and shared: jobs, their owners, keys, leases, room and time."""

import pytest

from service.jobs import records
from service.jobs.records import JobStoreFull, KeyReused, LeaseLost, Result
from tests.service.jobs.stored import ABOUT, HOUR, add, do, files, finish, found, id_of, read, upload


def test_a_finished_job_has_a_result_in_place_of_its_upload(store):
    waiting = add(store, "a")
    running = store.claim()
    with store.open_upload(running) as file:
        content = file.read()
    finish(store, running)
    done = found(store, "a")

    assert content == b"u" * 10
    assert (waiting.state, running.state, done.state) == ("waiting", "running", "done")
    assert done.created <= done.started <= done.ended
    assert (waiting.started, running.ended) == (None, None)
    assert (waiting.bytes, done.bytes) == (10, 20)
    assert (done.name, done.media_type, done.headers, done.digest) == ABOUT
    assert files(store) == ["a.result"]
    assert read(store, done) == b"r" * 20
    assert store.claim() is None


def test_a_job_that_failed_keeps_the_reason_and_no_files(store):
    add(store, "a")
    store.fail(store.claim(), 413, "Too large.")

    failed = found(store, "a")

    assert (failed.state, failed.status, failed.error, failed.bytes) == ("failed", 413, "Too large.", 0)
    assert files(store) == []


def test_an_upload_that_breaks_off_leaves_nothing(store):
    with pytest.raises(ZeroDivisionError):
        break_off(store.upload_file(id_of("a")))

    assert files(store) == []


def test_a_result_that_breaks_off_leaves_nothing(store):
    add(store, "a")
    with pytest.raises(ZeroDivisionError):
        break_off(store.result_file(store.claim()))

    assert files(store) == ["a.upload"]


def break_off(opening):
    with opening as file:
        file.write(b"half")
        raise ZeroDivisionError


def test_jobs_are_done_in_order_and_owners_take_turns(store):
    for letter, owner in (("a", "ann"), ("b", "ann"), ("c", "ann"), ("d", "bob"), ("e", "cy")):
        add(store, letter, owner)

    order = [store.claim().id[0] for _ in range(5)]

    assert order == ["a", "d", "e", "b", "c"]


def test_jobs_that_wait_are_counted(store):
    counts = [store.waiting()]
    for letter in "abc":
        add(store, letter)
    counts.append(store.waiting())
    finish(store, store.claim())
    counts.append(store.waiting())
    running = store.claim()
    counts.append(store.waiting())
    store.put_back(running)

    assert [*counts, store.waiting()] == [0, 3, 2, 1, 2]


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
    finish(store, store.claim())
    add(store, "b")
    store.claim()
    add(store, "c")

    for letter in "abc":
        store.remove(id_of(letter))

    assert store.newest("ann", 9) == []
    assert files(store) == []


def test_a_result_of_a_job_that_was_removed_to_make_room_is_missing(store):
    for letter in "abc":
        do(store, letter, size=400)

    with pytest.raises(FileNotFoundError):
        store.result(found(store, "a"))


# Leases


def test_the_result_of_a_removed_job_is_removed(store):
    add(store, "a")
    job = store.claim()
    store.remove(id_of("a"))

    with pytest.raises(LeaseLost):
        finish(store, job)
    with pytest.raises(LeaseLost):
        store.fail(job, 500, "Too late.")
    assert found(store, "a") is None
    assert files(store) == []


def test_a_job_that_has_ended_does_not_change_any_more(store):
    add(store, "a")
    job = store.claim()
    finish(store, job)

    store.put_back(job)
    with pytest.raises(LeaseLost):
        store.fail(job, 500, "Too late.")

    assert found(store, "a").state == "done"
    assert read(store, found(store, "a")) == b"r" * 20


def test_a_worker_that_lost_its_lease_changes_nothing(store):
    add(store, "a")
    late = store.claim()
    store.put_back(late)
    job = store.claim()

    with pytest.raises(LeaseLost):
        finish(store, late, content=b"x")
    with pytest.raises(LeaseLost):
        store.fail(late, 500, "Too late.")
    store.put_back(late)
    assert (found(store, "a").state, job.lease) == ("running", late.lease + 1)
    finish(store, job)

    assert read(store, found(store, "a")) == b"r" * 20
    assert files(store) == ["a.result"]


def test_a_job_that_is_put_back_may_be_begun_any_number_of_times(store):
    add(store, "a")
    for _ in range(5):
        store.put_back(store.claim())

    waiting = found(store, "a")

    assert (waiting.state, waiting.started) == ("waiting", None)


# Idempotency-Key


def test_the_same_key_and_request_give_the_same_job(store):
    first = add(store, "a", key="k", fingerprint="1")
    again = add(store, "b", key="k", fingerprint="1")

    assert again == first
    assert [record.id for record in store.newest("ann", 9)] == [first.id]
    assert files(store) == ["a.upload"]


def test_the_same_key_with_another_request_is_refused(store):
    add(store, "a", key="k", fingerprint="1")

    with pytest.raises(KeyReused, match="its image or parameters were different"):
        add(store, "b", key="k", fingerprint="2")
    assert files(store) == ["a.upload"]


def test_keys_of_different_owners_are_different(store):
    add(store, "a", "ann", key="k", fingerprint="1")
    add(store, "b", "bob", key="k", fingerprint="2")
    add(store, "c", "ann")
    add(store, "d", "ann")

    assert files(store) == ["a.upload", "b.upload", "c.upload", "d.upload"]


def test_a_key_is_known_until_its_job_is_removed(store):
    add(store, "a", key="k", fingerprint="1")
    finish(store, store.claim())
    done = add(store, "b", key="k", fingerprint="1")
    store.remove(id_of("a"))
    new = add(store, "c", key="k", fingerprint="2")

    assert (done.id, done.state) == (id_of("a"), "done")
    assert (new.id, new.state) == (id_of("c"), "waiting")


# Room


def test_uploads_have_half_of_the_room(store):
    add(store, "a", size=600)

    store.check_room(400)
    with pytest.raises(JobStoreFull, match="uploads may take 1000 bytes, and would take 1001"):
        store.check_room(401)


def test_room_comes_back_when_jobs_end(store):
    add(store, "a", size=1000)
    finish(store, store.claim(), size=1000)

    store.check_room(1000)


def test_the_oldest_results_make_room_and_their_jobs_stay(store):
    for letter in "abc":
        do(store, letter, size=400)

    assert files(store) == ["b.result", "c.result"]
    assert [(record.state, record.bytes) for record in store.newest("ann", 9)] == [
        ("done", 400),
        ("done", 400),
        ("done", 0),
    ]


def test_a_result_larger_than_all_the_room_is_refused(store):
    do(store, "a", size=400)
    add(store, "b")
    job = store.claim()

    with pytest.raises(JobStoreFull, match="The result has 1001 bytes; at most 1000 are kept"):
        finish(store, job, size=1001)

    assert found(store, "a").bytes == 400
    assert found(store, "b").state == "running"


def test_waiting_and_ended_jobs_are_limited_in_number(store, monkeypatch):
    monkeypatch.setattr(records, "MAX_JOBS", 2)
    for letter in "abc":
        do(store, letter)
    for letter in "de":
        add(store, letter)
    with pytest.raises(JobStoreFull, match="2 jobs are waiting or running, the limit"):
        store.check_room(1)

    store.sweep()

    assert [record.id[0] for record in store.newest("ann", 9)] == ["e", "d", "c", "b"]
    assert "a.result" not in files(store)


# Time


def test_ended_jobs_expire_and_waiting_ones_do_not(store, wait):
    do(store, "a")
    add(store, "b")
    wait(10 * HOUR - 60)
    store.sweep()
    kept = files(store)
    wait(60)
    store.sweep()

    assert kept == ["a.result", "b.upload"]
    assert files(store) == ["b.upload"]
    assert found(store, "a") is None


def test_an_upload_that_was_not_admitted_is_no_job(store):
    upload(store, "a")

    assert store.claim() is None
    assert store.newest("ann", 9) == []


def test_each_task_has_a_queue_of_its_own(store):
    for letter, task in (("a", "adapt"), ("b", "denoise"), ("c", "adapt")):
        add(store, letter, task=task)
    counts = [store.waiting()]

    claimed = [store.claim("adapt"), store.claim(), store.claim(), store.claim("adapt"), store.claim("adapt")]

    assert [job and (job.id[0], job.task) for job in claimed] == [
        ("a", "adapt"), ("b", "denoise"), None, ("c", "adapt"), None
    ]  # fmt: skip
    assert [*counts, store.waiting()] == [1, 0]


def test_the_end_of_a_job_has_details(store):
    for letter in "ab":
        add(store, letter, task="adapt")
    done, failed = store.claim("adapt"), store.claim("adapt")
    with store.result_file(done) as file:
        file.write(b"r")
    store.finish(done, Result(*ABOUT, 1, '{"verdict": "better"}'))
    store.fail(failed, 422, "Nothing.", '{"report": {}}')

    assert [found(store, letter).details for letter in "ab"] == ['{"verdict": "better"}', '{"report": {}}']
