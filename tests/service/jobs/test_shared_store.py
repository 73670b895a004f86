"""Job store that replicas share: leases that run out, messages, strays, and replicas that work at once."""

import queue
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from service.jobs.records import LeaseLost
from service.jobs.shared_store import STRAY_MINUTES, DeletedMeanwhile
from service.storage.away import BlobsAway, DatabaseAway
from service.storage.database import Database
from tests.service.jobs.conftest import LEASE
from tests.service.jobs.stored import add, files, finish, found, id_of, read, shift_times, upload

SOON = 30  # seconds
MINUTE = 60


def test_replicas_never_claim_the_same_job(open_shared):
    stores = [open_shared() for _ in range(4)]
    for number in range(40):
        add(stores[0], chr(ord("A") + number), owner=f"owner {number % 3}")

    with ThreadPoolExecutor(4) as pool:
        claimed = pool.map(lambda number: stores[number % 4].claim(), range(48))
        ids = [job.id for job in claimed if job]

    assert len(ids) == len(set(ids)) == 40


def test_owners_take_turns_over_all_replicas(open_shared):
    one, other = open_shared(), open_shared()
    for letter, owner in (("a", "ann"), ("b", "ann"), ("c", "ann"), ("d", "bob"), ("e", "bob")):
        add(one, letter, owner)

    assert [store.claim().id[0] for store in (one, other, one, other, one)] == ["a", "d", "b", "e", "c"]


def test_a_lease_that_ran_out_is_taken_over(open_shared):
    stopped, other = open_shared(), open_shared()
    add(stopped, "a")
    late = stopped.claim()
    shift_times(other, LEASE - 1)
    too_early = other.claim()
    shift_times(other, 1)
    job = other.claim()
    finish(other, job)

    with pytest.raises(LeaseLost):
        finish(stopped, late, content=b"x")
    assert not stopped.renew(late, 0.5, 1.0)
    assert (too_early, job.lease) == (None, late.lease + 1)
    assert read(stopped, found(stopped, "a")) == b"r" * 20
    assert files(stopped) == ["a.result"]


def test_leases_that_ran_out_while_the_database_was_away_are_left_alone(open_shared, monkeypatch):
    clock = SimpleNamespace(now=0.0)
    store, other = open_shared(), open_shared(clock=lambda: clock.now)
    add(store, "a")
    job = store.claim()
    with monkeypatch.context() as patch:
        lose_answers(patch, 1)
        with pytest.raises(DatabaseAway):
            other.claim()
    shift_times(store, LEASE)
    add(store, "b")

    assert other.claim().id == id_of("b")
    assert other.claim() is None
    clock.now += LEASE
    assert other.claim().id == job.id


def test_a_renewed_lease_lasts_longer_and_has_progress(open_shared):
    store, other = open_shared(), open_shared()
    add(store, "a")
    job = store.claim()
    shift_times(store, LEASE - 1)
    assert store.renew(job, 0.25, 12.5)
    shift_times(store, LEASE - 1)

    assert other.claim() is None
    seen = found(other, "a")
    assert (seen.progress, seen.seconds_left) == (0.25, 12.5)


def test_a_job_whose_worker_died_twice_fails(shared):
    add(shared, "a")
    for _ in range(2):
        assert shared.claim().id == id_of("a")
        shift_times(shared, LEASE)

    assert shared.claim() is None
    failed = found(shared, "a")
    assert (failed.state, failed.status) == ("failed", 500)
    assert failed.error == "The service ended 2 times while it ran this job, which is not started again."
    assert files(shared) == []


def test_the_same_key_sent_to_all_replicas_at_once_is_one_job(open_shared):
    stores = [open_shared() for _ in range(4)]

    with ThreadPoolExecutor(4) as pool:
        send = lambda number: add(stores[number], "abcd"[number], key="k", fingerprint="1").id  # noqa: E731
        ids = set(pool.map(send, range(4)))

    assert len(ids) == 1
    assert files(stores[0]) == [f"{ids.pop()[0]}.upload"]


def test_a_finish_whose_answer_was_lost_is_repeated(shared, monkeypatch):
    add(shared, "a")
    job = shared.claim()
    lose_answers(monkeypatch, 1)

    with pytest.raises(DatabaseAway):
        finish(shared, job)
    finish(shared, job)

    assert found(shared, "a").state == "done"
    assert files(shared) == ["a.result"]


def test_an_upload_whose_job_may_have_been_added_stays(shared, monkeypatch):
    lose_answers(monkeypatch, 1)

    with pytest.raises(DatabaseAway):
        add(shared, "a")

    assert shared.claim().id == id_of("a")
    assert files(shared) == ["a.upload"]


def lose_answers(monkeypatch, count):
    """The next statements are executed, but their answers are lost."""
    real, left = Database.rows, [None] * count

    def rows(database, *what):
        answer = real(database, *what)
        if left:
            left.pop()
            raise DatabaseAway
        return answer

    monkeypatch.setattr(Database, "rows", rows)


def test_other_replicas_hear_of_changes_and_not_of_their_own(open_shared):
    one, other = open_shared(), open_shared()
    heard, own = queue.Queue(), queue.Queue()
    other.listen(lambda *message: heard.put(message))
    one.listen(lambda *message: own.put(message))
    assert heard.get(timeout=SOON) == own.get(timeout=SOON) == ("", "")
    add(one, "a")
    job = one.claim()
    one.renew(job, 0.5, None)
    finish(one, job)
    one.remove(job.id)

    states = ["waiting", "running", "running", "done", "done"]
    assert [heard.get(timeout=SOON) for _ in states] == [(job.id, state) for state in states]
    assert own.empty()


def test_blobs_that_belong_to_no_job_are_removed_in_time(shared):
    upload(shared, "x")
    add(shared, "b")
    old = shared.claim()
    with shared.result_file(old) as file:
        file.write(b"of a worker that was killed")
    shift_times(shared, LEASE)
    with shared.result_file(shared.claim()) as file:
        file.write(b"not finished yet")
    add(shared, "a")
    shared._blobs.put("other", b"of another program")
    before = files(shared)

    kept = []
    for _ in range(3):
        # Of the worker of `b`: it still runs.
        shift_times(shared, STRAY_MINUTES * MINUTE)
        shared._database.rows("UPDATE denoise_jobs SET lease_ends = now() + interval '1 hour' WHERE lease > 0")
        shared.sweep()
        kept.append(files(shared))

    assert before == kept[0] == ["a.upload", "b.result", "b.result", "b.upload", "x.upload"]
    assert kept[1] == kept[2] == ["a.upload", "b.result", "b.upload"]
    assert shared._blobs.read("other")


def test_a_blob_that_got_its_job_late_is_no_stray(shared):
    upload(shared, "a")
    shift_times(shared, STRAY_MINUTES * MINUTE)
    shared.sweep()
    add(shared, "a")
    for _ in range(2):
        shift_times(shared, STRAY_MINUTES * MINUTE)
        shared.sweep()

    assert files(shared) == ["a.upload"]


def test_one_replica_at_a_time_looks_for_strays(open_shared, monkeypatch):
    one, other = open_shared(), open_shared()
    calls = []
    for store in (one, other):
        monkeypatch.setattr(store, "_remove_strays", lambda: calls.append(1))
    shift_times(one, STRAY_MINUTES * MINUTE)
    one.sweep()
    other.sweep()

    assert len(calls) == 1


def test_blobs_that_cannot_be_removed_now_are_swept_later(shared, monkeypatch):
    def away(*names):
        raise BlobsAway

    add(shared, "a")
    job = shared.claim()
    with monkeypatch.context() as patch:
        patch.setattr(shared._blobs, "delete", away)
        finish(shared, job)
    left = files(shared)
    for _ in range(2):
        shift_times(shared, STRAY_MINUTES * MINUTE)
        shared.sweep()

    assert left == ["a.result", "a.upload"]
    assert files(shared) == ["a.result"]


def test_a_key_whose_job_is_removed_meanwhile_can_be_sent_again(shared, monkeypatch):
    add(shared, "a", key="k", fingerprint="1")
    real = shared._records

    def remove_first(*query):
        shared.remove(id_of("a"))
        return real(*query)

    monkeypatch.setattr(shared, "_records", remove_first)
    with pytest.raises(DeletedMeanwhile, match="deleted just now") as caught:
        add(shared, "b", key="k", fingerprint="1")

    assert caught.value.status == 409
    assert files(shared) == []
