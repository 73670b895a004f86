"""Listener: hears what replicas tell each other through the database (LISTEN and NOTIFY).

A message can be lost, when the connection breaks. So whoever listens must also look for themselves now and then.
"""

from collections.abc import Callable
from threading import Event, Thread
from typing import Any

import psycopg

from service.storage.away import RETRY_SECONDS
from service.storage.database import CALL_SECONDS, Database, Deadline, cut
from service.telemetry.logs import log

# How often a silent connection is tried, in seconds.
PING_SECONDS = 5


class Listener:
    """A thread with a connection of its own.

    heard: called in this thread with the text of each message, and with an empty text whenever messages may have
    been lost.
    """

    def __init__(self, database: Database, channel: str, heard: Callable[[str], None]) -> None:
        """channel: a name of lower-case letters and underscores."""
        self._database = database
        self._channel = channel
        self._heard = heard
        self._stopping = Event()
        self._connection: psycopg.Connection[Any] | None = None
        self._thread = Thread(target=self._run, name=f"listener {channel}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread."""
        self._stopping.set()
        if connection := self._connection:
            cut(connection)
        self._thread.join(CALL_SECONDS)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with self._database.connect() as self._connection:
                    self._listen(self._connection)
            except psycopg.Error as error:
                if not self._stopping.is_set():
                    log.warning("the listener lost the database", error=str(error).strip())
            finally:
                self._connection = None
            self._stopping.wait(RETRY_SECONDS)

    def _listen(self, connection: psycopg.Connection[Any]) -> None:
        with Deadline(connection, CALL_SECONDS):
            connection.execute(f"LISTEN {self._channel}")
        # There may have been messages while nobody listened.
        self._heard("")
        while not self._stopping.is_set():
            for message in connection.notifies(timeout=PING_SECONDS):
                self._heard(message.payload)
            with Deadline(connection, CALL_SECONDS):
                connection.execute("")
