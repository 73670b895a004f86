"""Rate limits over replicas: exactly as many requests as allowed, and a database that is away."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.auth.api_keys import ApiKey
from service.auth.rate_limit import Sizes
from service.auth.shared_limits import SharedRateLimits
from service.problems import ProblemError
from service.storage.away import DatabaseAway
from service.storage.database import Database

KEY = ApiKey(name="scanner", sha256="0" * 64)


@pytest.fixture
def replicas(postgres):
    """replicas(sizes): the limits of two replicas."""
    url, opened = postgres.new_database(), []

    def make(**sizes):
        opened.extend(Database(url) for _ in range(2))
        return [SharedRateLimits(Sizes(**sizes), database) for database in opened]

    yield make
    for database in opened:
        database.close()


def status(limits):
    try:
        asyncio.run(limits.admit(KEY))
    except ProblemError as error:
        return error.status
    return 200


def test_exactly_as_many_pass_as_the_limit_over_two_replicas(replicas):
    both = replicas(rate=5, pixels=None)

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda number: status(both[number % 2]), range(40)))

    assert sorted(statuses) == [200] * 5 + [429] * 35


def test_pixels_spent_at_one_replica_are_missing_at_the_other(replicas):
    one, other = replicas(rate=None, pixels=1000)
    asyncio.run(one.charge(KEY, 1500))

    with pytest.raises(ProblemError, match="used 1,500 of 1,000 pixels an hour"):
        asyncio.run(other.admit(KEY))
    asyncio.run(other.admit(KEY, spends_pixels=False))


def test_a_database_that_is_away_is_never_no_limit(replicas, postgres):
    limits = replicas(rate=5, pixels=1000)[0]
    postgres.stop()
    try:
        for ask in (lambda: limits.admit(KEY), lambda: limits.charge(KEY, 10)):
            with pytest.raises(DatabaseAway) as caught:
                asyncio.run(ask())
            assert (caught.value.status, caught.value.headers) == (503, {"Retry-After": "5"})
    finally:
        postgres.start()


def test_pixels_of_accepted_jobs_are_counted_once_the_database_is_back(replicas, monkeypatch):
    limits = replicas(rate=None, pixels=1000)[0]

    def away(*args):
        raise DatabaseAway

    with monkeypatch.context() as patch:
        patch.setattr(Database, "rows", away)
        asyncio.run(limits.charge(KEY, 900, accepted=True))
        asyncio.run(limits.charge(KEY, 900, accepted=True))
    asyncio.run(limits.charge(KEY, 100, accepted=True))

    with pytest.raises(ProblemError, match="used 1,900 of 1,000"):
        asyncio.run(limits.admit(KEY))


def test_without_limits_the_database_is_not_asked(replicas, monkeypatch):
    limits = replicas(rate=None, pixels=None)[0]
    monkeypatch.setattr(Database, "rows", None)

    asyncio.run(limits.admit(KEY))
    asyncio.run(limits.charge(KEY, 10))
