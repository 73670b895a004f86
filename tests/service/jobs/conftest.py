"""Job stores: in real SQLite files, with clocks that the tests set, and in a real PostgreSQL."""

from types import SimpleNamespace

import pytest

from service.jobs.shared_store import SharedJobStore
from service.jobs.spool_store import SpoolJobStore
from service.storage.blobs import Blobs
from service.storage.database import Database
from service.storage.storage import Storage
from tests.service.jobs.stored import HOUR, pass_time, shift_times

LEASE = 30.0  # seconds


@pytest.fixture
def clocks():
    """now: the wall clock, in seconds. up: seconds since the machine started."""
    return SimpleNamespace(now=1e9, up=50.0)


@pytest.fixture
def open_spool(tmp_path, clocks):
    """open_spool(most_bytes, keep): the store in a folder, after a restart if it was open before."""
    opened = []

    def make(most_bytes=2000, keep=10 * HOUR):
        while opened:
            opened.pop().close()
        wall, steady = lambda: clocks.now, lambda: clocks.up
        opened.append(SpoolJobStore(tmp_path / "spool", most_bytes, keep, wall, steady))
        return opened[0]

    yield make
    while opened:
        opened.pop().close()


@pytest.fixture
def spool(open_spool):
    return open_spool()


@pytest.fixture
def open_shared(postgres, tmp_path):
    """open_shared(): the store of one more replica. All share a new database and a new folder."""
    url, opened = postgres.new_database(), []

    def make(**how):
        storage = Storage(Database(url), Blobs((tmp_path / "blobs").as_uri()))
        store = SharedJobStore(storage, 2000, 10 * HOUR, LEASE, **how)
        opened.append((store, storage))
        return store

    yield make
    for store, storage in opened:
        store.close()
        storage.close()


@pytest.fixture
def shared(open_shared):
    return open_shared()


@pytest.fixture(params=["spool", "shared"])
def store(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def wait(request, store, clocks):
    """wait(seconds): lets time pass, by the clock of the store."""
    if isinstance(store, SpoolJobStore):
        return lambda seconds: pass_time(clocks, seconds)
    return lambda seconds: shift_times(store, seconds)
