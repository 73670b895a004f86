"""Workers of a shared job store that are killed at any moment: each job is done once, and its result is whole."""

import multiprocessing
import os
import signal
import time

import pytest

from service.jobs.records import LeaseLost, Result
from service.jobs.shared_store import STRAY_MINUTES, SharedJobStore
from service.storage.blobs import Blobs
from service.storage.database import Database
from service.storage.storage import Storage
from tests.service.jobs.stored import HOUR, add, files, found, read, shift_times

LEASE = 1.0  # seconds
SIZE = 1000  # bytes of a result
# What a worker has done when it is killed.
MOMENTS = ("claimed", "opened", "half", "stored", "finished")
SOON = 60  # seconds


def work(url, folder, reached):
    """A worker in a process of its own. reached: gets each moment, and is asked whether to go on."""
    store = SharedJobStore(Storage(Database(url), Blobs(folder)), 10**6, HOUR, LEASE)
    while (job := store.claim()) is None:
        time.sleep(0.05)
    step(reached, "claimed")
    with store.open_upload(job) as upload:
        content = upload.read()
    step(reached, "opened")
    try:
        with store.result_file(job) as result:
            result.write(content[: SIZE // 2])
            step(reached, "half")
            result.write(content[SIZE // 2 :])
        step(reached, "stored")
        store.finish(job, Result("a.png", "image/png", "{}", "digest", SIZE))
        step(reached, "finished")
    except LeaseLost:
        step(reached, "refused")
    os._exit(0)


def step(reached, moment):
    reached.send(moment)
    reached.recv()


class Worker:
    """A worker that stops at each moment until it is told to go on."""

    def __init__(self, context, url, folder):
        self._reached, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(url, folder, theirs), daemon=True)
        self.process.start()

    def run_until(self, moment):
        while (seen := self._next()) != moment:
            assert seen in MOMENTS
            self._reached.send(True)

    def go_on(self):
        """Returns the next moment."""
        self._reached.send(True)
        return self._next()

    def _next(self):
        assert self._reached.poll(SOON), "the worker does nothing"
        return self._reached.recv()

    def kill(self):
        self.process.kill()
        self.process.join()


@pytest.fixture(scope="module")
def context():
    """Processes that begin with the modules already loaded, and without the threads of the tests."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.service.jobs.test_killed_workers"])
    return context


@pytest.fixture
def shared_folder(postgres, tmp_path):
    return postgres.new_database(), (tmp_path / "blobs").as_uri()


@pytest.fixture
def store(shared_folder):
    url, folder = shared_folder
    storage = Storage(Database(url), Blobs(folder))
    yield SharedJobStore(storage, 10**6, HOUR, LEASE)
    storage.close()


def remove_strays(store):
    for _ in range(2):
        shift_times(store, STRAY_MINUTES * 60)
        store.sweep()


def test_ten_workers_are_killed_and_each_job_is_done_once_and_whole(context, store, shared_folder):
    letters = "abcdefghij"
    for number, letter in enumerate(letters):
        add(store, letter, size=SIZE)
        killed = Worker(context, *shared_folder)
        killed.run_until(MOMENTS[number % len(MOMENTS)])
        killed.kill()
        if found(store, letter).state == "running":
            second = Worker(context, *shared_folder)
            second.run_until("finished")
            second.kill()
    remove_strays(store)

    jobs = [found(store, letter) for letter in letters]
    assert [job.state for job in jobs] == ["done"] * 10
    assert [read(store, job) for job in jobs] == [b"u" * SIZE] * 10
    assert files(store) == [f"{letter}.result" for letter in letters]
    # Twice, but for those that were killed only after the end.
    assert [job.lease for job in jobs] == [2, 2, 2, 2, 1] * 2


@pytest.mark.parametrize("moment", ["claimed", "half", "stored"])
def test_the_result_of_a_worker_that_was_stopped_too_long_is_refused(moment, context, store, shared_folder):
    add(store, "a", size=SIZE)
    stopped = Worker(context, *shared_folder)
    stopped.run_until(moment)
    os.kill(stopped.process.pid, signal.SIGSTOP)
    other = Worker(context, *shared_folder)
    other.run_until("half")
    os.kill(stopped.process.pid, signal.SIGCONT)

    while (last := stopped.go_on()) in MOMENTS:
        assert last != "finished"
    between = found(store, "a")
    assert [other.go_on(), other.go_on()] == ["stored", "finished"]
    other.kill()
    stopped.kill()
    remove_strays(store)

    assert last == "refused"
    assert (between.state, between.lease) == ("running", 2)
    assert (found(store, "a").state, found(store, "a").lease) == ("done", 2)
    assert read(store, found(store, "a")) == b"u" * SIZE
    assert files(store) == ["a.result"]
