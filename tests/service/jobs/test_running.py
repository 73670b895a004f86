"""A running job: how often its progress is stored, and what a lost lease does."""

import asyncio
import time
from types import SimpleNamespace

import pytest

from service.jobs import running as running_module
from service.jobs.running import RENEWALS, Running
from service.storage.away import DatabaseAway

JOB = SimpleNamespace(id="a", lease=1)


@pytest.fixture
def hasty(monkeypatch):
    """Progress is stored ten times a second."""
    monkeypatch.setattr(running_module, "PROGRESS_SECONDS", 0.1)


async def keep(answers, lease_seconds, work):
    """Keeps a lease during some work. Returns the job, and the shares that were stored."""
    running, stored = Running(JOB), []

    async def renew(share, seconds_left, details):
        stored.append(share)
        answer = answers[min(len(stored), len(answers)) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer

    keeping = asyncio.create_task(running.keep_lease(lease_seconds, renew))
    await work(running)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    return running, stored


def test_progress_is_stored_at_a_limited_rate(hasty):
    async def work(running):
        for window in range(1, 101):
            running.share = window / 100
            running.news.set()
            await asyncio.sleep(0.005)

    began = time.monotonic()
    running, stored = asyncio.run(keep([True], 60, work))
    seconds = time.monotonic() - began

    assert 2 <= len(stored) <= seconds / running_module.PROGRESS_SECONDS + 1
    assert stored == sorted(stored)
    assert not running.disconnected.is_set()


def test_a_lease_is_renewed_without_progress(hasty):
    async def work(running):
        await asyncio.sleep(0.6)

    _, stored = asyncio.run(keep([True], 0.1 * RENEWALS, work))

    assert len(stored) >= 2


def test_a_job_whose_lease_is_lost_stops(hasty):
    async def work(running):
        running.news.set()
        await asyncio.wait_for(running.disconnected.wait(), 10)

    running, stored = asyncio.run(keep([False], 60, work))

    assert running.disconnected.is_set()
    assert len(stored) == 1


def test_a_database_that_is_away_stops_no_job(hasty):
    async def work(running):
        for _ in range(4):
            running.news.set()
            await asyncio.sleep(0.12)

    running, stored = asyncio.run(keep([DatabaseAway(), DatabaseAway(), True], 60, work))

    assert len(stored) >= 3
    assert not running.disconnected.is_set()
