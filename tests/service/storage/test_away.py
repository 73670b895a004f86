"""Calls while a storage is away."""

from types import SimpleNamespace

import pytest

from service.storage.away import AWAY_SECONDS, Breaker, DatabaseAway


def test_after_a_failure_one_call_tries_and_others_are_refused():
    clock = SimpleNamespace(now=0.0)
    breaker = Breaker(DatabaseAway, 10, lambda: clock.now)
    breaker.refuse_while_away()
    breaker.trip()
    with pytest.raises(DatabaseAway):
        breaker.refuse_while_away()
    clock.now += AWAY_SECONDS
    breaker.refuse_while_away()  # this one tries
    with pytest.raises(DatabaseAway):
        breaker.refuse_while_away()
    breaker.reset()

    breaker.refuse_while_away()
