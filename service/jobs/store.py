"""Job store: a folder of uploads and results, and an SQLite file that says which job they belong to.

Only what is committed to SQLite counts. A file and its name are on the disk before its row. A row is changed
before its files are removed. So a process that is killed, or a power cut, leaves at worst a file too many, which
the next start removes. The store waits for the disk. Call it from one thread at a time.
"""

import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from time import monotonic, time
from typing import Any, Literal

from engine.system.atomic_file import make_folder, sync_folder
from service.problems import ProblemError
from service.settings import variable

State = Literal["waiting", "running", "done", "failed", "cancelled"]
# A job fails once the process has died this many times while running it.
ATTEMPTS = 2
# Limit on unfinished jobs, and separately on finished ones that are kept. A longer table is slow to search.
MAX_JOBS = 10_000
# How long to wait for a process that is just ending to release the store.
LOCK_TIMEOUT = 1  # seconds
SPOOL_NOTE = f"The limit is half of the setting {variable('spool_bytes')}."
LOST = "The upload is missing from the spool folder. Send it again."

_VERSION = 2
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
    state TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    created REAL NOT NULL,
    started REAL,
    ended REAL,
    expires REAL,
    status INTEGER,
    error TEXT,
    media_type TEXT,
    headers TEXT,
    digest TEXT
);
CREATE INDEX jobs_by_state ON jobs (state);
CREATE TABLE clock (seen REAL NOT NULL, wall REAL NOT NULL);
PRAGMA user_version = {_VERSION};
COMMIT;
"""
# The files that the store may remove: uploads, results, and half-written ones.
_OURS = re.compile(r"\.?[\w-]{22}\.(upload|result)(\.\w+\.part)?")


class JobStoreError(ValueError):
    """A folder that cannot be used as a job store."""


class JobStoreFull(ProblemError):
    """No room for a job, by the limit or on the disk."""

    status = 507
    headers: Mapping[str, str] = {"Retry-After": "60"}


@dataclass(frozen=True)
class JobRequest:
    """A job as it was asked for. name: the result's file name. request: the ID of the HTTP request.

    params: JSON. parts: JSON, where the files of a batch lie in the upload; an empty list for a single image.
    """

    owner: str
    name: str
    params: str
    parts: str
    request: str


@dataclass(frozen=True)
class Result:
    """What is known about a result. headers: JSON, the response headers that describe it. digest: SHA-256."""

    name: str
    media_type: str
    headers: str
    digest: str


@dataclass(frozen=True)
class Record:
    """A stored job, with the fields of JobRequest and Result.

    bytes: of the upload until the job has ended, then of the result; 0 if there is none. Times are in seconds
    since 1970, by the wall clock. status, error: the HTTP status and the text, if the job failed.
    """

    id: str
    owner: str
    name: str
    params: str
    parts: str
    request: str
    state: State
    bytes: int
    created: float
    started: float | None
    ended: float | None
    status: int | None
    error: str | None
    media_type: str | None
    headers: str | None
    digest: str | None


_COLUMNS = ", ".join(field.name for field in fields(Record))


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


class JobStore:
    """Jobs and their files. Only one process can have a store open. database: what SQLite keeps about them."""

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

    def upload_path(self, id_: str) -> Path:
        """The path of a job's upload, which is there until the job ends."""
        return self._folder / f"{id_}.upload"

    def result_path(self, id_: str) -> Path:
        """The path of a job's result, which is there once the job is done."""
        return self._folder / f"{id_}.result"

    def check_room(self, size: int) -> None:
        """Raises JobStoreFull unless there is room for `size` more bytes of uploads."""
        query = "SELECT count(*), coalesce(sum(bytes), 0) FROM jobs WHERE ended IS NULL"
        jobs, held = self.database.execute(query).fetchone()
        if jobs >= MAX_JOBS:
            raise JobStoreFull(f"{jobs} jobs are waiting or running, the limit. Try again later.")
        if held + size > self.half:
            raise JobStoreFull(
                f"There is no room: uploads may take {self.half} bytes, and would take {held + size}. "
                + SPOOL_NOTE
            )

    def admit(self, id_: str, job: JobRequest) -> Record:
        """Adds a job whose upload is on the disk, with its name: see `atomic`."""
        return self._changed(
            "INSERT INTO jobs (id, owner, name, params, parts, request, bytes, created, state)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'waiting')",
            id_,
            *astuple(job),
            self.upload_path(id_).stat().st_size,
            self._wall(),
        )[0]

    def claim(self) -> Record | None:
        """Starts the next job: the oldest job of the owner whose last claim is longest ago."""
        query = "SELECT owner, min(number) FROM jobs WHERE state = 'waiting' GROUP BY owner"
        waiting = self.database.execute(query).fetchall()
        if not waiting:
            return None
        owner, number = min(waiting, key=lambda row: (self._last_claims.get(row[0], 0), row[1]))
        self._last_claims[owner] = max(self._last_claims.values(), default=0) + 1
        change = "UPDATE jobs SET state = 'running', attempts = attempts + 1, started = ? WHERE number = ?"
        return self._changed(change, self._wall(), number)[0]

    def put_back(self, id_: str) -> None:
        """Lets a running job wait again, as if it had not been started."""
        self._changed(
            "UPDATE jobs SET state = 'waiting', attempts = attempts - 1, started = NULL"
            " WHERE state = 'running' AND id = ?",
            id_,
        )

    def finish(self, id_: str, result: Result) -> None:
        """Mark a job as done. Write its result first. If the job has been removed meanwhile, so is its result.

        The oldest results are removed to make room. Raises JobStoreFull for a result that alone exceeds the
        limit, half of most_bytes.
        """
        size = self.result_path(id_).stat().st_size
        if size > self.half:
            raise JobStoreFull(f"The result has {size} bytes; at most {self.half} are kept. {SPOOL_NOTE}")
        with self.database:
            self.database.execute("BEGIN")
            there = self._changed(
                "UPDATE jobs SET state = 'done', bytes = ?, name = ?, media_type = ?, headers = ?, digest = ?,"
                " ended = ?, expires = ? WHERE ended IS NULL AND id = ?",
                size, result.name, result.media_type, result.headers, result.digest, *self._end(), id_,
            )  # fmt: skip
            pushed_out = self._push_out() if there else [id_]
        _unlink(self.upload_path(id_), *map(self.result_path, pushed_out))

    def fail(self, id_: str, status: int, error: str) -> None:
        """Marks a job as failed, and removes its files."""
        self._changed(
            "UPDATE jobs SET state = 'failed', bytes = 0, status = ?, error = ?, ended = ?, expires = ?"
            " WHERE ended IS NULL AND id = ?",
            status,
            error,
            *self._end(),
            id_,
        )
        _unlink(self.upload_path(id_), self.result_path(id_))

    def find(self, id_: str, owner: str) -> Record | None:
        """The owner's job of this ID, if there is one."""
        rows = self.database.execute(f"SELECT {_COLUMNS} FROM jobs WHERE id = ? AND owner = ?", (id_, owner))
        return next(_records(rows), None)

    def newest(self, owner: str, count: int) -> list[Record]:
        """The owner's newest jobs, the newest first."""
        query = f"SELECT {_COLUMNS} FROM jobs WHERE owner = ? ORDER BY number DESC LIMIT ?"
        return list(_records(self.database.execute(query, (owner, count))))

    def remove(self, id_: str) -> None:
        """Removes a job in any state, and its files."""
        self._changed("DELETE FROM jobs WHERE id = ?", id_)
        _unlink(self.upload_path(id_), self.result_path(id_))

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
                MAX_JOBS,
            )
        _unlink(*(self.result_path(each.id) for each in old))

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
        waiting = self.database.execute("SELECT id, attempts FROM jobs WHERE state = 'waiting'").fetchall()
        for id_, attempts in waiting:
            if attempts >= ATTEMPTS:
                self.fail(
                    id_,
                    500,
                    f"The service ended {attempts} times while it ran this job, which is not started again.",
                )
            elif not self.upload_path(id_).is_file():
                self.fail(id_, 500, LOST)
        kept = {self.upload_path(id_) for id_, _ in waiting}
        kept |= {
            self.result_path(id_) for (id_,) in self.database.execute("SELECT id FROM jobs WHERE bytes AND ended")
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
