"""The spool: a folder of uploads and results, and beside them an SQLite file that says what they are.

Only what is committed there counts. A file is written, then told of; a row is changed, then its files removed:
whenever the process is killed, the worst that is left is a file too many, and the next start removes it. Nothing
here knows of threads: it waits for the disk, and is to be called from one at a time.
"""

import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from time import monotonic, time
from typing import Any, Literal

from service.problems import ProblemError

State = Literal["waiting", "running", "done", "failed", "cancelled"]
# So often a job is begun whose process does not live to its end.
ATTEMPTS = 2
# Jobs that have not ended, and as many that have: small ones take little room, but all are looked through.
MOST = 10_000
# Seconds for which a process that is just ending may still hold the spool.
PATIENCE = 1
LOST = "The upload is no longer in the spool: it has to be sent again."

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
# What may be removed from the folder: files as we name them, and those half written.
_OURS = re.compile(r"\.?[\w-]{22}\.(upload|result)(\.\w+\.part)?")


class JobStoreError(ValueError):
    """A spool that cannot be used; says why."""


class JobStoreFull(ProblemError):
    """No room for a job: of what the spool may hold, or on its disk."""

    status = 507
    headers: Mapping[str, str] = {"Retry-After": "60"}


@dataclass(frozen=True)
class JobRequest:
    """What is wanted. name: what the result is called. params, parts: JSON. request: the id of who asked for it.

    parts: where the upload's files lie in it, if it is a batch; else none.
    """

    owner: str
    name: str
    params: str
    parts: str
    request: str


@dataclass(frozen=True)
class Result:
    """What is known of a result beside its bytes. headers: JSON, what an answer says of it. digest: SHA-256."""

    name: str
    media_type: str
    headers: str
    digest: str


@dataclass(frozen=True)
class Record:
    """A job as it is kept; the fields of Order and Result are theirs.

    bytes: of the upload until the job has ended, then of the result; 0 if there is none, or none any more. Times
    are in seconds since 1970, by the clock on the wall. status, error: HTTP's, and in words, if it failed.
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
    """Tells how old things are. It does not jump when somebody sets the clock on the wall.

    That one is asked only for what passed between two processes, since nothing else went on meanwhile: nothing,
    if it went back, and at most `most` seconds. before: what both clocks said last, this one first.
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
        """In seconds, since the first process began."""
        return self._offset + self._steady()


class JobStore:
    """Jobs, and their files. Whoever opens it has it alone until it is closed, or the process ends."""

    def __init__(
        self,
        folder: Path,
        most_bytes: int,
        keep: float,
        wall: Callable[[], float] = time,
        steady: Callable[[], float] = monotonic,
    ) -> None:
        """most_bytes: half of them for uploads, half for results. keep: seconds, from a job's end.

        Jobs that were running wait again. Raises SpoolError, or OSError where such a folder cannot be made.
        """
        self.half = most_bytes // 2
        self._folder, self._keep, self._wall = folder, keep, wall
        self._turns: dict[str, int] = {}
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _in_words(folder):
            self._db = _open(folder / "jobs.sqlite")
            try:
                before = self._db.execute("SELECT seen, wall FROM clock").fetchone()
                self._clock = Clock(before, keep / 2, wall, steady)
                self._recover()
            except BaseException:
                self._db.close()
                raise

    def close(self) -> None:
        """Leave the spool to others."""
        self._db.close()

    def upload(self, id_: str) -> Path:
        """Where a job's upload lies until the job has ended."""
        return self._folder / f"{id_}.upload"

    def result(self, id_: str) -> Path:
        """Where a job's result lies once the job is done."""
        return self._folder / f"{id_}.result"

    def check_room(self, size: int) -> None:
        """Raises SpoolFull unless there is some for uploads of so many bytes more."""
        query = "SELECT count(*), coalesce(sum(bytes), 0) FROM jobs WHERE ended IS NULL"
        jobs, held = self._db.execute(query).fetchone()
        if jobs >= MOST:
            raise JobStoreFull(f"{jobs} jobs wait already; no more are kept.")
        if held + size > self.half:
            raise JobStoreFull(
                f"There is no room: uploads may have {self.half} bytes, and {held + size} were needed."
            )

    def admit(self, id_: str, order: JobRequest) -> Record:
        """A new job, whose upload is in its place."""
        return self._changed(
            "INSERT INTO jobs (id, owner, name, params, parts, request, bytes, created, state)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'waiting')",
            id_,
            *astuple(order),
            self.upload(id_).stat().st_size,
            self._wall(),
        )[0]

    def claim(self) -> Record | None:
        """The job to do next, running from now on: the oldest of the owner whose turn was longest ago."""
        query = "SELECT owner, min(number) FROM jobs WHERE state = 'waiting' GROUP BY owner"
        waiting = self._db.execute(query).fetchall()
        if not waiting:
            return None
        owner, number = min(waiting, key=lambda row: (self._turns.get(row[0], 0), row[1]))
        self._turns[owner] = max(self._turns.values(), default=0) + 1
        change = "UPDATE jobs SET state = 'running', attempts = attempts + 1, started = ? WHERE number = ?"
        return self._changed(change, self._wall(), number)[0]

    def put_back(self, id_: str) -> None:
        """A running job waits again, as if it had not been begun."""
        self._changed(
            "UPDATE jobs SET state = 'waiting', attempts = attempts - 1, started = NULL"
            " WHERE state = 'running' AND id = ?",
            id_,
        )

    def finish(self, id_: str, result: Result) -> None:
        """A job is done: its result is in its place. If the job has been removed, so is the result.

        Where there is not room for all, the oldest results go. Raises SpoolFull if there is none for it alone.
        """
        size = self.result(id_).stat().st_size
        if size > self.half:
            raise JobStoreFull(f"The result has {size} bytes; at most {self.half} are kept.")
        with self._db:
            self._db.execute("BEGIN")
            there = self._changed(
                "UPDATE jobs SET state = 'done', bytes = ?, name = ?, media_type = ?, headers = ?, digest = ?,"
                " ended = ?, expires = ? WHERE ended IS NULL AND id = ?",
                size, result.name, result.media_type, result.headers, result.digest, *self._end(), id_,
            )  # fmt: skip
            pushed_out = self._push_out() if there else [id_]
        _unlink(self.upload(id_), *map(self.result, pushed_out))

    def fail(self, id_: str, status: int, error: str) -> None:
        """A job has ended without a result."""
        self._changed(
            "UPDATE jobs SET state = 'failed', bytes = 0, status = ?, error = ?, ended = ?, expires = ?"
            " WHERE ended IS NULL AND id = ?",
            status,
            error,
            *self._end(),
            id_,
        )
        _unlink(self.upload(id_), self.result(id_))

    def find(self, id_: str, owner: str) -> Record | None:
        """A job of that owner's."""
        rows = self._db.execute(f"SELECT {_COLUMNS} FROM jobs WHERE id = ? AND owner = ?", (id_, owner))
        return next(_records(rows), None)

    def newest(self, owner: str, count: int) -> list[Record]:
        """That owner's last jobs, the newest first."""
        query = f"SELECT {_COLUMNS} FROM jobs WHERE owner = ? ORDER BY number DESC LIMIT ?"
        return list(_records(self._db.execute(query, (owner, count))))

    def remove(self, id_: str) -> None:
        """A job, in whatever state, and its files."""
        self._changed("DELETE FROM jobs WHERE id = ?", id_)
        _unlink(self.upload(id_), self.result(id_))

    def sweep(self) -> None:
        """Remove the jobs that have been kept for their time, and the oldest of too many."""
        now = self._clock.now()
        with self._db:
            self._db.execute("BEGIN")
            self._db.execute("DELETE FROM clock")
            self._db.execute("INSERT INTO clock VALUES (?, ?)", (now, self._wall()))
            old = self._changed(
                "DELETE FROM jobs WHERE expires <= ? OR number IN"
                " (SELECT number FROM jobs WHERE ended ORDER BY expires DESC, number DESC LIMIT -1 OFFSET ?)",
                now,
                MOST,
            )
        _unlink(*(self.result(each.id) for each in old))

    def _push_out(self) -> list[str]:
        """The jobs whose results no longer have room, the newest having it first."""
        query = "SELECT id, bytes FROM jobs WHERE state = 'done' ORDER BY expires DESC, number DESC"
        room, pushed_out = self.half, []
        for id_, size in self._db.execute(query).fetchall():
            room -= size
            if room < 0 < size:
                self._changed("UPDATE jobs SET bytes = 0 WHERE id = ?", id_)
                pushed_out.append(id_)
        return pushed_out

    def _recover(self) -> None:
        """Whatever end the process before has had: no job is running, and no file is left that no job has."""
        self._db.execute("UPDATE jobs SET state = 'waiting', started = NULL WHERE state = 'running'")
        waiting = self._db.execute("SELECT id, attempts FROM jobs WHERE state = 'waiting'").fetchall()
        for id_, attempts in waiting:
            if attempts >= ATTEMPTS:
                self.fail(
                    id_, 500, f"The service ended {attempts} times while it was at this job, and gives it up."
                )
            elif not self.upload(id_).is_file():
                self.fail(id_, 500, LOST)
        kept = {self.upload(id_) for id_, _ in waiting}
        kept |= {self.result(id_) for (id_,) in self._db.execute("SELECT id FROM jobs WHERE bytes AND ended")}
        _unlink(*(file for file in self._folder.iterdir() if _OURS.fullmatch(file.name) and file not in kept))

    def _end(self) -> tuple[float, float]:
        """Of a job that ends now: when that is, and when it has been kept for its time."""
        return self._wall(), self._clock.now() + self._keep

    def _changed(self, change: str, *values: object) -> list[Record]:
        """Do it; the jobs that it was done to."""
        # Fetched whole, or else the change would not be committed.
        return list(_records(self._db.execute(f"{change} RETURNING {_COLUMNS}", values)))


def _open(file: Path) -> sqlite3.Connection:
    # Without an isolation level each statement is a transaction, unless one is begun.
    db = sqlite3.connect(file, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
    try:
        # The lock is the process's own, and gone with it however it ends; its children do not inherit it.
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA journal_mode = WAL")
        # An answer of 202 is a promise, to be kept after a power cut too. What it costs is a few milliseconds.
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
def _in_words(folder: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        why = "another process has it; each needs its own" if "locked" in str(error) else str(error)
        raise JobStoreError(f"the spool {folder} cannot be used: {why}") from error


def _records(rows: Iterable[Any]) -> Iterator[Record]:
    return iter([Record(*row) for row in rows])


def _unlink(*files: Path) -> None:
    for file in files:
        file.unlink(missing_ok=True)
