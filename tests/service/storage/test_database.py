"""Database: a pool of connections to a real PostgreSQL, which is stopped, frozen and cut off."""

import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from service.storage.away import DatabaseAway
from service.storage.database import MOST_SECONDS, Database
from service.storage.listener import Listener
from tests.support.relay import relaying, to_unix

SOON = 30  # seconds


def until(happened):
    end = time.monotonic() + SOON
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def answers(database):
    """Whether the database answers now."""
    try:
        return database.rows("SELECT 1") == [(1,)]
    except DatabaseAway:
        return False


def refusal(database):
    """The seconds until a call is refused."""
    began = time.monotonic()
    with pytest.raises(DatabaseAway) as caught:
        database.rows("SELECT 1")
    assert caught.value.status == 503
    assert caught.value.headers == {"Retry-After": "5"}
    return time.monotonic() - began


def fail_after(database, statement):
    with database.transaction() as connection:
        connection.execute(statement)
        raise ZeroDivisionError


def freeze_during_call(database, postgres):
    with database.transaction() as connection:
        postgres.freeze()
        connection.execute("SELECT 1")


def test_a_transaction_is_made_whole_or_not_at_all(database):
    database.rows("CREATE TABLE numbers (number integer)")
    with database.transaction() as connection:
        connection.execute("INSERT INTO numbers VALUES (1), (2)")
    with pytest.raises(ZeroDivisionError):
        fail_after(database, "INSERT INTO numbers VALUES (3)")

    assert database.rows("SELECT number FROM numbers ORDER BY number") == [(1,), (2,)]


def test_replicas_that_start_together_create_tables_once(url):
    databases = [Database(url) for _ in range(8)]
    statements = "CREATE TABLE things (id integer); INSERT INTO things VALUES (1)"

    with ThreadPoolExecutor(len(databases)) as pool:
        list(pool.map(lambda each: each.create_tables("things", 1, statements), databases))

    assert databases[0].rows("SELECT id FROM things") == [(1,)]
    for each in databases:
        each.close()


def test_tables_of_another_version_are_refused(database):
    database.create_tables("things", 1, "CREATE TABLE things (id integer)")

    with pytest.raises(ValueError, match=r"tables of things were created by another version .*\(1, here 2\)"):
        database.create_tables("things", 2, "DROP TABLE things")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda url: url.replace("host=", "host=/nowhere"), "No such file"),
        (lambda url: url.replace("?host", "x?host"), "does not exist"),
        (lambda url: f"{url}&nonsense=1", "nonsense"),
    ],
)
def test_a_database_that_cannot_be_used_is_refused_with_why(change, reason, url):
    with pytest.raises(ValueError, match=f"database: .*{reason}"):
        Database(change(url))


def test_a_stopped_database_is_refused_and_used_once_it_is_back(database, postgres):
    assert answers(database)
    postgres.stop()
    try:
        first, second = refusal(database), refusal(database)
    finally:
        postgres.start()

    until(lambda: answers(database))
    assert first < MOST_SECONDS
    # Without another try.
    assert second < 1


def test_a_frozen_database_is_refused_within_the_bound(database, postgres):
    assert answers(database)
    postgres.freeze()
    try:
        with ThreadPoolExecutor(20) as pool:
            waits = list(pool.map(lambda _: refusal(database), range(20)))
    finally:
        postgres.thaw()

    until(lambda: answers(database))
    assert max(waits) < MOST_SECONDS


def test_a_database_that_stops_during_a_call_is_cut_off(database, postgres):
    began = time.monotonic()
    try:
        with pytest.raises(DatabaseAway):
            freeze_during_call(database, postgres)
    finally:
        postgres.thaw()

    assert time.monotonic() - began < MOST_SECONDS


def test_a_silent_network_is_noticed_within_the_bound(url, postgres):
    with relaying(to_unix(postgres.socket)) as relay:
        database = Database(postgres.url_by_port(url, relay.port))
        assert answers(database)
        relay.cut()
        wait = refusal(database)
        relay.mend()

        until(lambda: answers(database))
        assert wait < MOST_SECONDS
        database.close()


def test_a_slow_statement_ends_and_others_continue(url):
    database = Database(f"{url}&options=-c%20statement_timeout%3D50")

    with pytest.raises(DatabaseAway):
        database.rows("SELECT pg_sleep(10)")

    assert answers(database)


def test_a_mistake_in_a_statement_is_no_absence(database):
    with pytest.raises(psycopg.errors.UndefinedTable):
        database.rows("SELECT * FROM nothing")

    assert answers(database)


def test_a_listener_hears_again_after_the_database_was_away(database, postgres):
    heard = []
    listener = Listener(database, "news", heard.append)
    until(lambda: heard == [""])
    database.rows("SELECT pg_notify('news', 'first')")
    until(lambda: "first" in heard)
    postgres.stop()
    postgres.start()
    until(lambda: heard == ["", "first", ""])
    database.rows("SELECT pg_notify('news', 'second')")

    until(lambda: "second" in heard)
    listener.close()
