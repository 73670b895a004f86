"""Journal log: keeps the lines of a batch's journal, in a file or in a bucket.

A file grows by lines. An object cannot: it is only ever replaced as a whole. So in a bucket, lines go into a new
object every few seconds, and these are joined when there are many.
"""

import json
import os
import secrets
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Thread
from typing import Protocol

from engine.storage.locations import Location, ObjectPath

if sys.platform != "win32":
    import fcntl

# In the output folder.
JOURNAL_FILE = Path(".denoise", "journal.jsonl")
# In the output folder of a bucket: objects of lines, and an object for each process that writes there.
PARTS_FOLDER = ".denoise/journal"
RUNNING_FOLDER = ".denoise/running"
# Seconds for which lines that can wait are gathered.
GATHER_SECONDS = 5.0
# More objects of lines than this are joined when a batch is resumed.
MAX_PARTS = 256
# How many are joined to one.
JOINED = 64
# Objects that are read at once.
PARTS_AT_ONCE = 16
# How often a process says that it still runs, and after how long without that it counts as ended, in seconds.
BEAT_SECONDS = 15.0
ENDED_SECONDS = 60.0


class JournalLog(Protocol):
    """The lines of a journal. They are bytes, without line breaks."""

    def lines(self) -> Iterator[bytes]:
        """All lines, oldest first. Some may be torn. Raises OSError."""

    def append(self, lines: Sequence[bytes], can_wait: bool = False) -> None:
        """Add lines. They survive a power cut after this, unless they can wait. Raises OSError."""

    def close(self) -> None:
        """Keep what still waits, and release the folder."""


def open_log(folder: Location, exclusive: bool) -> JournalLog:
    """The log of an output folder, which is created if needed.

    exclusive: no other process may use the folder. In a bucket, none may in any case.
    Raises ValueError if another process uses the folder, and OSError.
    """
    return _ObjectLog(folder) if isinstance(folder, ObjectPath) else FileLog(folder, exclusive)


class FileLog:
    """Lines in a file."""

    def __init__(self, folder: Path, exclusive: bool) -> None:
        self._folder = folder
        self.path = folder / JOURNAL_FILE
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Kept open for its lock, which ends with the process, however the process ends.
        self._file = self.path.open("ab")
        self._lock(exclusive)

    def lines(self) -> Iterator[bytes]:
        """See JournalLog."""
        yield from self.path.read_bytes().splitlines()

    def append(self, lines: Sequence[bytes], can_wait: bool = False) -> None:
        """See JournalLog."""
        # Opened without O_CREAT: a removed disk may leave its empty mount point, which must not get a journal.
        try:
            number = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{self.path} is missing; was it deleted, or its disk removed?") from error
        with os.fdopen(number, "ab") as file:
            # Begins with a line break, in case a power cut has torn the line before.
            file.write(b"".join(b"\n" + line for line in lines))
            file.flush()
            os.fsync(number)

    def close(self) -> None:
        """See JournalLog."""
        self._file.close()

    def _lock(self, exclusive: bool) -> None:
        if sys.platform == "win32":
            return
        try:
            fcntl.flock(self._file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise ValueError(
                f"{self._folder}: another process is writing to this folder; wait until it has finished"
            ) from error
        except OSError:
            # Some network shares have no locks. There, users must not start two processes at once.
            return


class _ObjectLog:
    """Lines in objects, whose names sort by age."""

    def __init__(self, folder: ObjectPath) -> None:
        self._folder, self._bucket = folder, folder.bucket
        self._running = _RunningMark(folder)
        self._parts = sorted(self._bucket.times(f"{folder.prefix}{PARTS_FOLDER}/"))
        # Each process numbers its objects after those of all before it.
        runs = [int(part.rpartition("/")[2].partition("-")[0]) for part in self._parts]
        self._run = max(runs, default=0) + 1
        self._count = 0
        self._waiting: list[bytes] = []
        self._written = time.monotonic()

    def lines(self) -> Iterator[bytes]:
        """See JournalLog."""
        if len(self._parts) > MAX_PARTS:
            self._join_parts()
        with ThreadPoolExecutor(PARTS_AT_ONCE) as pool:
            for data in pool.map(self._bucket.read, self._parts):
                yield from data.splitlines()

    def append(self, lines: Sequence[bytes], can_wait: bool = False) -> None:
        """See JournalLog."""
        self._running.check()
        self._waiting += lines
        if not can_wait or time.monotonic() - self._written >= GATHER_SECONDS:
            self._write()

    def close(self) -> None:
        """See JournalLog."""
        try:
            self._write()
        finally:
            self._running.remove()

    def _write(self) -> None:
        if self._waiting:
            name = f"{PARTS_FOLDER}/{self._run:06}-{self._count:08}.jsonl"
            self._bucket.write(f"{self._folder.prefix}{name}", b"\n".join(self._waiting))
            self._count += 1
            self._waiting.clear()
        self._written = time.monotonic()

    def _join_parts(self) -> None:
        """Join objects. If this ends halfway, lines are there twice, which changes nothing."""
        joined = []
        for start in range(0, len(self._parts), JOINED):
            parts = self._parts[start : start + JOINED]
            with ThreadPoolExecutor(PARTS_AT_ONCE) as pool:
                data = b"\n".join(pool.map(self._bucket.read, parts))
            # The name of the last one, so that the order stays.
            self._bucket.write(parts[-1], data)
            self._bucket.remove(parts[:-1])
            joined.append(parts[-1])
        self._parts = joined


class _RunningMark:
    """An object that tells other processes that this one writes to a folder in a bucket.

    It is written again and again, so that a process that was killed does not block the folder for ever.
    """

    def __init__(self, folder: ObjectPath) -> None:
        """Raises ValueError if another process writes to the folder."""
        self._bucket = folder.bucket
        prefix = f"{folder.prefix}{RUNNING_FOLDER}/"
        self._key = f"{prefix}{secrets.token_hex(8)}.json"
        self._about = json.dumps({"process": os.getpid()}).encode()
        self._ended = Event()
        self._error: OSError | ValueError | None = None
        self._bucket.write(self._key, self._about)
        # Written first, and listed then: of two processes that start at once, at least one sees the other.
        times = self._bucket.times(prefix)
        mine = times.pop(self._key)
        stale = [key for key, then in times.items() if mine - then > ENDED_SECONDS]
        self._bucket.remove(stale)
        if len(stale) < len(times):
            self._bucket.remove([self._key])
            raise ValueError(
                f"{folder}: another process is writing to this folder; wait until it has finished, or if it was "
                f"killed, {ENDED_SECONDS:g} seconds"
            )
        self._thread = Thread(target=self._beat, daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises what went wrong with the mark: then another process may take the folder."""
        if self._error:
            raise self._error

    def remove(self) -> None:
        """The process has finished."""
        self._ended.set()
        self._thread.join()
        self._bucket.remove([self._key])

    def _beat(self) -> None:
        written = time.monotonic()
        while not self._ended.wait(BEAT_SECONDS):
            try:
                self._bucket.write(self._key, self._about)
                written = time.monotonic()
            except (OSError, ValueError) as error:
                # The store may be away for a while.
                if time.monotonic() - written > ENDED_SECONDS:
                    self._error = error
                    return
