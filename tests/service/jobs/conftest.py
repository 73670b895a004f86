"""Job stores in real SQLite files, with clocks that the tests set."""

from types import SimpleNamespace

import pytest

from service.jobs.store import JobStore
from tests.service.jobs.stored import HOUR


@pytest.fixture
def clocks():
    """now: the wall clock, in seconds. up: seconds since the machine started."""
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
