"""Spool store: a folder of uploads and results, and an SQLite file that says which job they belong to.

Only what is committed to SQLite counts. A file and its name are on the disk before its row. A row is changed
before its files are removed. So a process that is killed, or a power cut, leaves at worst a file too many, which
the next start removes. The store waits for the disk. Call it from one thread at a time.
"""

import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path
from time import monotonic, time
from typing import Any, BinaryIO

from engine.system.atomic_file import atomic, make_folder, sync_folder
from service.jobs import records
from service.jobs.records import (
    ATTEMPTS,
    COLUMNS,
    LOST,
    JobRequest,
    JobStoreError,
    KeyReused,
    LeaseLost,
    Record,
    Result,
    Task,
    ended_too_often,
    refuse_if_full,
    refuse_if_too_large,
)

# How long to wait for a process that is just ending to release the store.
LOCK_TIMEOUT = 1  # seconds
# The mode of uploads and results: only the service's user can read them.
PRIVATE = 0o600

_VERSION = 4
_SCHEMA = f"""
BEGIN;
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    name TEXT NOT NULL,
    params TEXT NOT NULL,
    parts TEXT NOT NULL,
    request TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    key TEXT,
    fingerprint TEXT,
    state TEXT NOT NULL,
    lease INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    created REAL NOT NULL,
    started REAL,
    ended REAL,
    expires REAL,
    status INTEGER,
    error TEXT,
    media_type TEXT,
    headers TEXT,
    digest TEXT,
    task TEXT NOT NULL,
    details TEXT
);
CREATE INDEX jobs_by_state ON jobs (state);
CREATE UNIQUE INDEX jobs_by_key ON jobs (owner, key);
CREATE TABLE clock (seen REAL NOT NULL, wall REAL NOT NULL);
PRAGMA user_version = {_VERSION};
COMMIT;
"""
# The files that the store may remove: uploads, results, and half-written ones.
_OURS = re.compile(r"\.?[\w-]{22}\.(upload|result)(\.\w+\.part)?")


_COLUMNS = ", ".join(COLUMNS)


class Clock:
    """A clock that does not jump when somebody sets the wall clock. The age of jobs is measured by it.

    The wall clock is used only for the time between two processes: it counts as 0 if the wall clock went back,
    and as at most `most` seconds. before: the last time of this clock and of the wall clock.
    """

    def __init__(
        self,
        before: tuple[float, float] | None,
        most: float,
        wall: Callable[[], float],
        steady: Callable[[], float],
    ) -> None:
        seen, then = before or (0.0, wall())
        self._steady = steady
        self._offset = seen + min(max(wall() - then, 0.0), most) - steady()

    def now(self) -> float:
        """Seconds since the first process started."""
        return self._offset + self._steady()


class SpoolJobStore:
    """Jobs and their files: see JobStore. Only one process can have a store open.

    database: what SQLite keeps about the jobs.
    """

    lease_seconds: float | None = None
    threads = 1

    def __init__(
        self,
        folder: Path,
        most_bytes: int,
        keep: float,
        wall: Callable[[], float] = time,
        steady: Callable[[], float] = monotonic,
    ) -> None:
        """most_bytes: half for uploads, half for results. keep: how long a job is kept after its end, in seconds.

        Jobs that were running wait again. Raises JobStoreError, or OSError if the folder cannot be created.
        """
        self.half = most_bytes // 2
        self._folder = folder
        self._keep = keep
        self._wall = wall
        # For each owner, when one of its jobs was last claimed: a counter of claims, not a time.
        self._last_claims: dict[str, int] = {}
        make_folder(folder, 0o700)
        with _explaining_errors(folder):
            self.database = _open(folder / "jobs.sqlite")
            try:
                # SQLite syncs its file, but not the file's name.
                sync_folder(folder)
                before = self.database.execute("SELECT seen, wall FROM clock").fetchone()
                self._clock = Clock(before, keep / 2, wall, steady)
                self._recover()
            except BaseException:
                self.database.close()
                raise

    def close(self) -> None:
        """Releases the store for other processes."""
        self.database.close()

    def listen(self, changed: Callable[[str, str], None]) -> None:
        """No other process makes changes."""

    def check_room(self, size: int) -> None:
        """Raises JobStoreFull unless there is room for `size` more bytes of uploads."""
        query = "SELECT count(*), coalesce(sum(bytes), 0) FROM jobs WHERE ended IS NULL"
        jobs, held = self.database.execute(query).fetchone()
        refuse_if_full(jobs, held, size, self.half)

    @contextmanager
    def upload_file(self, id_: str) -> Iterator[BinaryIO]:
        """An empty file, which becomes a job's upload at the end of the block, unless the block raises."""
        with self._removing_upload_on_error(id_), atomic(self._upload_path(id_), PRIVATE) as file:
            yield file

    def admit(self, id_: str, job: JobRequest) -> Record:
        """Adds a job whose upload is on the disk, with its name: see `atomic`. See JobStore."""
        with self._removing_upload_on_error(id_):
            if job.key is not None:
                query = f"SELECT {_COLUMNS} FROM jobs WHERE owner = ? AND key = ?"
                known = next(_records(self.database.execute(query, (job.owner, job.key))), None)
                if known and known.fingerprint != job.fingerprint:
                    raise KeyReused
                if known:
                    _unlink(self._upload_path(id_))
                    return known
            return self._changed(
                "INSERT INTO jobs (id, owner, name, params, parts, request, bytes, key, fingerprint, task,"
                " created, state) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'waiting')",
                id_,
                *astuple(job),
                self._wall(),
            )[0]

    @contextmanager
    def _removing_upload_on_error(self, id_: str) -> Iterator[None]:
        try:
            yield
        except BaseException:
            _unlink(self._upload_path(id_))
            raise

    def claim(self, task: Task = "denoise") -> Record | None:
        """Starts the next job of a task: the oldest job of the owner whose last claim is longest ago."""
        query = "SELECT owner, min(number) FROM jobs WHERE state = 'waiting' AND task = ? GROUP BY owner"
        waiting = self.database.execute(query, (task,)).fetchall()
        if not waiting:
            return None
        owner, number = min(waiting, key=lambda row: (self._last_claims.get(row[0], 0), row[1]))
        self._last_claims[owner] = max(self._last_claims.values(), default=0) + 1
        change = (
            "UPDATE jobs SET state = 'running', attempts = attempts + 1, lease = lease + 1, started = ?"
            " WHERE number = ?"
        )
        return self._changed(change, self._wall(), number)[0]

    def renew(self, job: Record, progress: float, seconds_left: float | None, details: str | None = None) -> bool:
        """A lease lasts as long as this process, so there is nothing to renew."""
        return True

    def put_back(self, job: Record) -> None:
        """Lets a running job wait again, as if it had not been started."""
        self._changed(
            "UPDATE jobs SET state = 'waiting', attempts = attempts - 1, started = NULL"
            " WHERE state = 'running' AND id = ? AND lease = ?",
            job.id,
            job.lease,
        )

    @contextmanager
    def open_upload(self, job: Record) -> Iterator[BinaryIO]:
        """The upload, until the end of the block. Raises FileNotFoundError."""
        with self._upload_path(job.id).open("rb") as file:
            yield file

    @contextmanager
    def result_file(self, job: Record) -> Iterator[BinaryIO]:
        """An empty file, which becomes the result at the end of the block, unless the block raises."""
        with atomic(self._result_path(job.id), PRIVATE) as file:
            yield file

    def finish(self, job: Record, result: Result) -> None:
        """Marks a job as done. See JobStore."""
        refuse_if_too_large(result, self.half)
        with self.database:
            self.database.execute("BEGIN")
            there = self._changed(
                "UPDATE jobs SET state = 'done', name = ?, media_type = ?, headers = ?, digest = ?, bytes = ?,"
                " details = ?, ended = ?, expires = ? WHERE ended IS NULL AND id = ? AND lease = ?",
                *astuple(result), *self._end(), job.id, job.lease,
            )  # fmt: skip
            pushed_out = self._push_out() if there else []
        if not there:
            self._lose(job)
        _unlink(self._upload_path(job.id), *map(self._result_path, pushed_out))

    def fail(self, job: Record, status: int, error: str, details: str | None = None) -> None:
        """Marks a job as failed, and removes its files. Raises LeaseLost."""
        if not self._fail(job.id, job.lease, status, error, details):
            self._lose(job)

    def _fail(self, id_: str, lease: int, status: int, error: str, details: str | None = None) -> bool:
        failed = self._changed(
            "UPDATE jobs SET state = 'failed', bytes = 0, status = ?, error = ?, details = ?, ended = ?,"
            " expires = ? WHERE ended IS NULL AND id = ? AND lease = ?",
            status,
            error,
            details,
            *self._end(),
            id_,
            lease,
        )
        if failed:
            _unlink(self._upload_path(id_), self._result_path(id_))
        return bool(failed)

    def _lose(self, job: Record) -> None:
        """Removes the result of a lease that is lost, unless it is the result that counts. Raises LeaseLost."""
        query = "SELECT count(*) FROM jobs WHERE id = ? AND state = 'done'"
        (done,) = self.database.execute(query, (job.id,)).fetchone()
        if not done:
            _unlink(self._result_path(job.id))
        raise LeaseLost

    def result(self, job: Record) -> Path:
        """The path of a result. Raises FileNotFoundError if it was removed to make room."""
        path = self._result_path(job.id)
        path.stat()
        return path

    def _upload_path(self, id_: str) -> Path:
        return self._folder / f"{id_}.upload"

    def _result_path(self, id_: str) -> Path:
        return self._folder / f"{id_}.result"

    def find(self, id_: str, owner: str) -> Record | None:
        """The owner's job of this ID, if there is one."""
        rows = self.database.execute(f"SELECT {_COLUMNS} FROM jobs WHERE id = ? AND owner = ?", (id_, owner))
        return next(_records(rows), None)

    def newest(self, owner: str, count: int) -> list[Record]:
        """The owner's newest jobs, the newest first."""
        query = f"SELECT {_COLUMNS} FROM jobs WHERE owner = ? ORDER BY number DESC LIMIT ?"
        return list(_records(self.database.execute(query, (owner, count))))

    def waiting(self) -> int:
        """How many jobs wait, without adaptations."""
        query = "SELECT count(*) FROM jobs WHERE state = 'waiting' AND task = 'denoise'"
        count: int = self.database.execute(query).fetchone()[0]
        return count

    def remove(self, id_: str) -> None:
        """Removes a job in any state, and its files."""
        self._changed("DELETE FROM jobs WHERE id = ?", id_)
        _unlink(self._upload_path(id_), self._result_path(id_))

    def sweep(self) -> None:
        """Removes expired jobs, and the oldest of too many."""
        now = self._clock.now()
        with self.database:
            self.database.execute("BEGIN")
            self.database.execute("DELETE FROM clock")
            self.database.execute("INSERT INTO clock VALUES (?, ?)", (now, self._wall()))
            old = self._changed(
                "DELETE FROM jobs WHERE expires <= ? OR number IN"
                " (SELECT number FROM jobs WHERE ended ORDER BY expires DESC, number DESC LIMIT -1 OFFSET ?)",
                now,
                records.MAX_JOBS,
            )
        _unlink(*(self._result_path(each.id) for each in old))

    def _push_out(self) -> list[str]:
        """The jobs whose results are removed to make room: the oldest."""
        query = "SELECT id, bytes FROM jobs WHERE state = 'done' ORDER BY expires DESC, number DESC"
        room, pushed_out = self.half, []
        for id_, size in self.database.execute(query).fetchall():
            room -= size
            if room < 0 < size:
                self._changed("UPDATE jobs SET bytes = 0 WHERE id = ?", id_)
                pushed_out.append(id_)
        return pushed_out

    def _recover(self) -> None:
        """Repairs what a killed process left: jobs that were running wait again, and stray files are removed."""
        self.database.execute("UPDATE jobs SET state = 'waiting', started = NULL WHERE state = 'running'")
        waiting = self.database.execute("SELECT id, lease, attempts FROM jobs WHERE state = 'waiting'").fetchall()
        for id_, lease, attempts in waiting:
            if attempts >= ATTEMPTS:
                self._fail(id_, lease, 500, ended_too_often(attempts))
            elif not self._upload_path(id_).is_file():
                self._fail(id_, lease, 500, LOST)
        kept = {self._upload_path(id_) for id_, _, _ in waiting}
        kept |= {
            self._result_path(id_)
            for (id_,) in self.database.execute("SELECT id FROM jobs WHERE bytes AND ended")
        }
        _unlink(*(file for file in self._folder.iterdir() if _OURS.fullmatch(file.name) and file not in kept))

    def _end(self) -> tuple[float, float]:
        """For a job that ends now: the time, and when it expires."""
        return self._wall(), self._clock.now() + self._keep

    def _changed(self, change: str, *values: object) -> list[Record]:
        """Executes a change. Returns the jobs that changed."""
        # Fetch all rows: the statement commits only after its last row has been read.
        return list(_records(self.database.execute(f"{change} RETURNING {_COLUMNS}", values)))


def _open(file: Path) -> sqlite3.Connection:
    # Without an isolation level each statement is a transaction of its own.
    db = sqlite3.connect(file, timeout=LOCK_TIMEOUT, isolation_level=None, check_same_thread=False)
    try:
        # The lock ends with the process, however the process ends. Child processes do not inherit it.
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA journal_mode = WAL")
        # Status 202 promises that the job survives even a power cut. This costs a few milliseconds.
        db.execute("PRAGMA synchronous = FULL")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            db.executescript(_SCHEMA)
        elif version != _VERSION:
            raise JobStoreError(f"{file}: written by another version of the service ({version}, here {_VERSION})")
    except BaseException:
        db.close()
        raise
    return db


@contextmanager
def _explaining_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        why = "another process uses it; each process needs its own" if "locked" in str(error) else str(error)
        raise JobStoreError(f"the spool {folder} cannot be used: {why}") from error


def _records(rows: Iterable[Any]) -> Iterator[Record]:
    return iter([Record(*row) for row in rows])


def _unlink(*files: Path) -> None:
    for file in files:
        file.unlink(missing_ok=True)
