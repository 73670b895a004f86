"""Database: PostgreSQL, through a pool of connections. Every call ends within a known time.

A replica, the database or the network between them can stop at any moment, also silently. So there are three
limits, and each covers what the others cannot see:

- PostgreSQL ends a statement, or a transaction whose client is silent, after its time.
- TCP ends a connection whose packets are not acknowledged.
- A timer in this process cuts a connection that is open but does not answer, like that of a stopped machine.
"""

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Lock, Timer
from typing import Any, Self, TypeVar

import psycopg
from anyio import CapacityLimiter, to_thread
from psycopg import Connection, errors
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import ConnectionPool

from service.storage.away import Breaker, DatabaseAway
from service.telemetry.logs import log

T = TypeVar("T")

# Connections of one replica. A statement takes about a millisecond, so a few serve many requests.
CONNECTIONS = 8
# Calls that wait for a connection or an answer at once.
THREADS = 64
# How long to open a connection may take.
CONNECT_SECONDS = 3
# How long a call waits for a free connection that works.
POOL_SECONDS = 4
# How long a connection that was idle may take to show that it still works.
CHECK_SECONDS = 2
# How long one statement may take, by PostgreSQL's clock.
STATEMENT_SECONDS = 5
# How long a call may take once it has a connection, by this process's clock.
CALL_SECONDS = 7
# The most time that a call takes, whatever fails.
MOST_SECONDS = POOL_SECONDS + CHECK_SECONDS + CALL_SECONDS
# Number of the advisory lock that is held while tables are created: the letters "deno".
SCHEMA_LOCK = 0x64656E6F

# What PostgreSQL and psycopg raise when the database is away, overloaded, or became a read-only copy. Among the
# subclasses of OperationalError are lost connections, time-outs, deadlocks and a full disk.
_AWAY = (psycopg.OperationalError, psycopg.InterfaceError, errors.ReadOnlySqlTransaction)


class Database:
    """A database that replicas share. Use it in threads, because calls wait for the network."""

    def __init__(self, url: str) -> None:
        """Raises ValueError if the database cannot be used, with the reason."""
        self._options = _options(url)
        self._breaker = Breaker(DatabaseAway, MOST_SECONDS)
        self._threads = CapacityLimiter(THREADS)
        try:
            # Not by the pool, which does not say why it cannot connect.
            self.connect().close()
        except psycopg.Error as error:
            raise ValueError(f"database: {_first_line(error)}") from None
        self._pool = ConnectionPool(
            kwargs=self._options,
            min_size=1,
            max_size=CONNECTIONS,
            timeout=POOL_SECONDS,
            check=_check,
            # Short: a call that finds no connection starts the attempts again.
            reconnect_timeout=1,
            name="database",
            open=True,
        )

    def close(self) -> None:
        """Closes the connections."""
        self._pool.close(timeout=CONNECT_SECONDS)

    def connect(self) -> Connection[Any]:
        """A connection outside the pool, which the caller closes. Raises psycopg.Error."""
        return Connection.connect(**self._options)

    async def in_thread(self, work: Callable[..., T], *values: Any) -> T:
        """Calls a function that uses the database, in a thread that waits for nothing else."""
        return await to_thread.run_sync(work, *values, limiter=self._threads)

    @contextmanager
    def transaction(self) -> Iterator[Connection[Any]]:
        """A connection in a transaction, which is committed at the end of the block. Raises DatabaseAway."""
        with self._connection() as connection, connection.transaction():
            yield connection

    def rows(self, statement: str, values: Sequence[object] | dict[str, object] = ()) -> list[tuple[Any, ...]]:
        """Runs one statement in its own transaction. Returns its rows, if it has any. Raises DatabaseAway."""
        with self._connection() as connection:
            done = connection.execute(statement, values)
            return done.fetchall() if done.description else []

    def create_tables(self, part: str, version: int, statements: str) -> None:
        """Creates the tables of a part of the service, unless they exist. Replicas may do so at the same time.

        Raises DatabaseAway, and ValueError if another version of the service has created them.
        """
        with self.transaction() as connection:
            connection.execute("SELECT pg_advisory_xact_lock(%s)", [SCHEMA_LOCK])
            connection.execute(
                "CREATE TABLE IF NOT EXISTS denoise_schema (part text PRIMARY KEY, version integer NOT NULL)"
            )
            query = "SELECT version FROM denoise_schema WHERE part = %s"
            row = connection.execute(query, [part]).fetchone()
            if row is None:
                connection.execute(statements)
                connection.execute("INSERT INTO denoise_schema VALUES (%s, %s)", [part, version])
            elif row[0] != version:
                raise ValueError(
                    f"database: the tables of {part} were created by another version of the service "
                    f"({row[0]}, here {version}): install that version, or name a new, empty database"
                )

    @contextmanager
    def _connection(self) -> Iterator[Connection[Any]]:
        self._breaker.refuse_while_away()
        try:
            with self._pool.connection() as connection, Deadline(connection, CALL_SECONDS):
                yield connection
        except _AWAY as error:
            if _is_lost(error):
                self._breaker.trip()
            else:
                self._breaker.reset()
            log.error("the database is away", error=_first_line(error))
            raise DatabaseAway from error
        except BaseException:
            # An error of the caller: the connection works.
            self._breaker.reset()
            raise
        self._breaker.reset()


class Deadline:
    """Cuts a connection that is still in use after some seconds. Its user then gets an OperationalError."""

    def __init__(self, connection: Connection[Any], seconds: float) -> None:
        self._connection = connection
        self._lock = Lock()
        self._over = False
        self._timer = Timer(seconds, self._cut)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._timer.cancel()
        with self._lock:
            self._over = True

    def _cut(self) -> None:
        with self._lock:
            if not self._over:
                cut(self._connection)


def cut(connection: Connection[Any]) -> None:
    """Ends a connection's traffic, from any thread. Whoever waits for an answer gets an OperationalError."""
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as own:
        own.shutdown(socket.SHUT_RDWR)


def _check(connection: Connection[Any]) -> None:
    with Deadline(connection, CHECK_SECONDS):
        connection.execute("")


def _options(url: str) -> dict[str, Any]:
    """The options of each connection. What the URL says goes first. Raises ValueError for a malformed URL."""
    limits = {
        "statement_timeout": STATEMENT_SECONDS * 1000,
        # A replica that stops in the middle of a transaction keeps its locks no longer than this.
        "idle_in_transaction_session_timeout": 2 * CALL_SECONDS * 1000,
    }
    try:
        given = conninfo_to_dict(url)
    except psycopg.Error as error:
        raise ValueError(f"database: {_first_line(error)}") from None
    flags = " ".join(f"-c {name}={value}" for name, value in limits.items())
    return {
        "application_name": "denoise",
        "connect_timeout": CONNECT_SECONDS,
        "tcp_user_timeout": CALL_SECONDS * 1000,  # milliseconds
        "keepalives_idle": CALL_SECONDS,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        **given,
        "options": f"{flags} {given.get('options', '')}".strip(),
        "autocommit": True,
    }


def _is_lost(error: psycopg.Error) -> bool:
    """Whether the connection failed, rather than one statement: SQLSTATE 08, 53 or 57P, or no code."""
    return error.sqlstate is None or error.sqlstate.startswith(("08", "53", "57P"))


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
