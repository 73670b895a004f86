"""Rate limits: of one process, and over all replicas that share a database."""

import asyncio
import time
from types import SimpleNamespace

import pytest

from service.auth.api_keys import ApiKey
from service.auth.rate_limit import LocalRateLimits, Sizes, TokenBucket
from service.auth.shared_limits import SharedRateLimits
from service.problems import ProblemError
from service.storage.database import Database


@pytest.fixture
def clock():
    """A clock that a test sets: clock.now, in seconds."""
    clock = SimpleNamespace(now=1000.0)
    clock.read = lambda: clock.now
    return clock


class Limits:
    """Limits that are called without an event loop. wait: lets seconds pass, by their clock."""

    def __init__(self, limits, wait):
        self._limits, self.wait = limits, wait

    def admit(self, *args):
        asyncio.run(self._limits.admit(*args))

    def charge(self, *args, **how):
        asyncio.run(self._limits.charge(*args, **how))


@pytest.fixture(params=["local", "shared"])
def make(request, clock):
    """make(rate, pixels): limits of one process, or the limits of one more replica."""
    opened = []

    def local(rate=None, pixels=None):
        def wait(seconds):
            clock.now += seconds

        return Limits(LocalRateLimits(Sizes(rate, pixels), clock.read), wait)

    def shared(rate=None, pixels=None):
        database = Database(request.getfixturevalue("database_url"))
        opened.append(database)

        def wait(seconds):
            database.rows("UPDATE denoise_limits SET updated = updated - %s * interval '1 second'", [seconds])

        return Limits(SharedRateLimits(Sizes(rate, pixels), database), wait)

    yield {"local": local, "shared": shared}[request.param]
    for database in opened:
        database.close()


@pytest.fixture
def database_url(postgres):
    return postgres.new_database()


def key(name="scanner", **limits):
    return ApiKey(name=name, sha256="0" * 64, **limits)


def refusal(limits, whose):
    with pytest.raises(ProblemError) as caught:
        limits.admit(whose)
    assert caught.value.status == 429
    return str(caught.value), caught.value.headers["Retry-After"]


def test_a_bucket_refills_evenly_up_to_its_size(clock):
    bucket = TokenBucket(60, 60, clock.read)
    bucket.take(40)
    clock.now += 10
    later = bucket.left()
    clock.now += 1000

    assert later == 30
    assert bucket.left() == 60


def test_an_overdrawn_bucket_refills_before_the_next_token(clock):
    bucket = TokenBucket(60, 60, clock.read)
    bucket.take(100)

    assert bucket.used() == 100
    assert bucket.seconds_to_next() == 41
    clock.now += 41
    assert bucket.seconds_to_next() == 0


def test_requests_beyond_the_limit_are_refused(make):
    limits = make(rate=3, pixels=None)
    for _ in range(3):
        limits.admit(key())

    message, seconds = refusal(limits, key())
    limits.wait(20)
    limits.admit(key())

    assert message == "The API key 'scanner' has used 3 of 3 requests a minute. Try again in 20 s."
    assert seconds == "20"
    assert refusal(limits, key())[1] == "20"


def test_refused_requests_do_not_extend_the_wait(make):
    limits = make(rate=1, pixels=None)
    limits.admit(key())
    for _ in range(59):
        assert refusal(limits, key())
        limits.wait(1)
    limits.wait(1)

    limits.admit(key())


def test_an_image_may_exceed_the_limit_once(make):
    limits = make(rate=None, pixels=3600)
    limits.admit(key())
    limits.charge(key(), 9000)

    message, seconds = refusal(limits, key())
    limits.wait(5401)
    limits.admit(key())

    assert message == "The API key 'scanner' has used 9,000 of 3,600 pixels an hour. Try again in 5401 s."
    assert seconds == "5401"


def test_concurrent_images_beyond_the_limit_are_refused(make):
    limits = make(rate=None, pixels=1000)
    limits.charge(key(), 900)
    limits.charge(key(), 900)

    with pytest.raises(ProblemError, match="used 1,800 of 1,000 pixels an hour"):
        limits.charge(key(), 1)


def test_accepted_jobs_may_exceed_the_limit(make):
    limits = make(rate=None, pixels=1000)
    for _ in range(3):
        limits.charge(key(), 900, accepted=True)

    assert "used 2,700 of 1,000" in refusal(limits, key())[0]


def test_each_key_has_its_own_limit(make):
    limits = make(rate=1, pixels=None)
    limits.admit(key("a"))

    limits.admit(key("b"))
    assert refusal(limits, key("a"))


def test_a_keys_own_limits_override_the_services(make):
    limits = make(rate=1, pixels=10)
    own = key(rate=2, pixels=100)
    for _ in range(2):
        limits.admit(own)
        limits.charge(own, 20)

    assert "2 of 2 requests" in refusal(limits, own)[0]


def test_a_raised_limit_applies_at_once(make):
    limits = make(rate=1, pixels=None)
    limits.admit(key())

    limits.admit(key(rate=2))


def test_without_keys_all_share_one_limit(make):
    limits = make(rate=2, pixels=None)
    limits.admit(None)
    limits.admit(None)

    assert refusal(limits, None)[0].startswith("All clients together have used 2 of 2 requests a minute")


def test_without_limits_nothing_is_refused(make):
    limits = make(rate=None, pixels=None)
    for _ in range(1000):
        limits.admit(key())
        limits.charge(key(), 10**12)


def test_a_change_of_the_system_time_has_no_effect(monkeypatch):
    limits = Limits(LocalRateLimits(Sizes(rate=1, pixels=None)), wait=None)
    limits.admit(key())
    monkeypatch.setattr(time, "time", lambda: 4e9)

    assert refusal(limits, key())
