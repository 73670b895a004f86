"""Job store in a folder: what reaches the disk, and clocks that are wrong."""

import pytest

from service.jobs.spool_store import SpoolJobStore
from tests.service.jobs.stored import HOUR, do, files, pass_time
from tests.support.power_cut import recorded_calls


def test_a_new_store_is_on_the_disk_with_its_name(tmp_path, monkeypatch):
    calls = recorded_calls(monkeypatch, tmp_path)

    SpoolJobStore(tmp_path / "a" / "spool", 2000, HOUR).close()

    assert calls == ["sync .", "sync a", "sync a/spool"]


@pytest.mark.parametrize("jump", [1000 * HOUR, -1000 * HOUR])
def test_a_clock_that_jumps_makes_nothing_old_and_nothing_young(jump, spool, clocks):
    do(spool, "a")
    clocks.now += jump
    spool.sweep()
    kept = files(spool)
    pass_time(clocks, 10 * HOUR)
    spool.sweep()

    assert kept == ["a.result"]
    assert files(spool) == []


def test_the_time_between_two_processes_counts(open_spool, clocks):
    store = open_spool()
    do(store, "a")
    pass_time(clocks, 6 * HOUR)
    store.sweep()
    clocks.now, clocks.up = clocks.now + 4 * HOUR, 0

    store = open_spool()
    store.sweep()

    assert files(store) == []


@pytest.mark.parametrize(("jump", "left"), [(300_000 * HOUR, 5 * HOUR), (-300_000 * HOUR, 10 * HOUR)])
def test_a_wrong_clock_at_a_start_takes_half_of_the_time_at_most(jump, left, open_spool, clocks):
    store = open_spool()
    do(store, "a")
    store.sweep()
    # Wrong once, and as wrong at every later start.
    clocks.now += jump
    for _ in range(3):
        clocks.up = 0
        store = open_spool()
        store.sweep()
    pass_time(clocks, left - 1)
    store.sweep()
    kept = files(store)
    pass_time(clocks, 2)
    store.sweep()

    assert kept == ["a.result"]
    assert files(store) == []
