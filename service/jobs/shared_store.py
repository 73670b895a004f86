"""Shared store: jobs in a PostgreSQL database and their files in a blob store, for any number of replicas.

A worker has a lease on the job that it runs, and renews it. If the lease runs out, another worker starts the job
again, under the next number. Every change of a running job names the number of its lease, so a worker that was
stopped and continued changes nothing. Each lease writes a blob of its own, and the row says which one counts.

A blob is written before its row, and a row is changed before its blobs are removed. So whatever is killed, at
worst a blob too many is left, which `sweep` removes. The clock is PostgreSQL's.
"""

import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO, cast

from service.jobs import records
from service.jobs.job_blobs import FOLDER, Owner, ResultBlob, is_stray, names_of, result_name, upload_name
from service.jobs.records import (
    ATTEMPTS,
    COLUMNS,
    JobRequest,
    KeyReused,
    LeaseLost,
    Record,
    Result,
    Task,
    ended_too_often,
    refuse_if_full,
    refuse_if_too_large,
)
from service.problems import ProblemError
from service.storage.away import BlobsAway, DatabaseAway
from service.storage.listener import Listener
from service.storage.storage import Storage

# The channel of the database for messages about jobs: the ID of a job, its state, and the sender.
CHANNEL = "denoise_jobs"
# Calls that may wait for the database or the blobs at the same time.
THREADS = 16
# How long a blob has to belong to no job before it is removed, in minutes. A blob is written before its row.
STRAY_MINUTES = 15

_VERSION = 2
_SCHEMA = """
CREATE TABLE denoise_jobs (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id text NOT NULL UNIQUE,
    owner text NOT NULL,
    name text NOT NULL,
    params text NOT NULL,
    parts text NOT NULL,
    request text NOT NULL,
    bytes bigint NOT NULL,
    key text,
    fingerprint text,
    state text NOT NULL DEFAULT 'waiting',
    attempts integer NOT NULL DEFAULT 0,
    lease bigint NOT NULL DEFAULT 0,
    lease_ends timestamptz,
    progress double precision NOT NULL DEFAULT 0,
    seconds_left double precision,
    created timestamptz NOT NULL DEFAULT now(),
    started timestamptz,
    ended timestamptz,
    expires timestamptz,
    status integer,
    error text,
    media_type text,
    headers text,
    digest text,
    task text NOT NULL,
    details text,
    UNIQUE (owner, key)
) WITH (fillfactor = 70);  -- room for the progress, which is written often
CREATE INDEX denoise_jobs_unfinished ON denoise_jobs (number) WHERE ended IS NULL;
CREATE INDEX denoise_jobs_by_owner ON denoise_jobs (owner, number);
CREATE INDEX denoise_jobs_by_end ON denoise_jobs (expires, number);
-- When a job of an owner was last started.
CREATE TABLE denoise_job_owners (owner text PRIMARY KEY, claimed timestamptz NOT NULL);
-- Blobs that belong to no job, and since when this is known.
CREATE TABLE denoise_job_strays (name text PRIMARY KEY, seen timestamptz NOT NULL DEFAULT now());
CREATE TABLE denoise_job_sweep (swept timestamptz NOT NULL);
INSERT INTO denoise_job_sweep VALUES (now());
"""
_TIMES = ("created", "started", "ended")
_ROW = ", ".join(
    f"extract(epoch FROM {column})::float8" if column in _TIMES else column
    for column in (*COLUMNS, "progress", "seconds_left")
)
_FINISHED = "ended = now(), expires = now() + %(keep)s * interval '1 second'"


class SharedJobStore:
    """Jobs that replicas share: see JobStore."""

    threads = THREADS

    def __init__(
        self,
        storage: Storage,
        most_bytes: int,
        keep: float,
        lease_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """most_bytes: half for uploads, half for results. keep: how long a job is kept after its end, in seconds.

        Raises ValueError if another version of the service has created the tables, and StorageAway.
        """
        self.lease_seconds: float | None = lease_seconds
        self.half = most_bytes // 2
        self._database = storage.database
        self._blobs = storage.blobs
        self._times = {"keep": keep, "lease_seconds": lease_seconds}
        self._clock = clock
        # Until when this replica takes over no lease that has run out, because the database was away.
        self._patient_until = clock()
        self._listeners: list[Listener] = []
        # This replica, so that it does not listen to itself.
        self._name = secrets.token_hex(8)
        self._database.create_tables("jobs", _VERSION, _SCHEMA)

    def close(self) -> None:
        """Stops to listen. The storage stays open."""
        while self._listeners:
            self._listeners.pop().close()

    def listen(self, changed: Callable[[str, str], None]) -> None:
        """Tells of changes that other replicas make. See JobStore."""

        def heard(message: str) -> None:
            id_, state, sender = message.split(" ") if message else ("", "", "")
            if sender != self._name:
                changed(id_, state)

        self._listeners.append(Listener(self._database, CHANNEL, heard))

    def check_room(self, size: int) -> None:
        """Raises JobStoreFull unless there is room for `size` more bytes of uploads."""
        query = "SELECT count(*), coalesce(sum(bytes), 0)::bigint FROM denoise_jobs WHERE ended IS NULL"
        ((jobs, held),) = self._database.rows(query)
        refuse_if_full(jobs, held, size, self.half)

    @contextmanager
    def upload_file(self, id_: str) -> Iterator[BinaryIO]:
        """An empty file, which becomes a job's upload at the end of the block, unless the block raises."""
        with self._new_blob(upload_name(id_)) as file:
            yield file

    @contextmanager
    def _new_blob(self, name: str) -> Iterator[BinaryIO]:
        with TemporaryFile() as file:
            yield cast(BinaryIO, file)
            file.seek(0)
            self._blobs.put(name, cast(BinaryIO, file))

    def admit(self, id_: str, job: JobRequest) -> Record:
        """Adds a job whose upload is stored. See JobStore."""
        # If the database is lost here, the job may have been added, so its upload stays. It is swept if not.
        added = self._changed(
            "INSERT INTO denoise_jobs (id, owner, name, params, parts, request, bytes, key, fingerprint, task)"
            " VALUES (%(id)s, %(owner)s, %(name)s, %(params)s, %(parts)s, %(request)s, %(bytes)s, %(key)s,"
            " %(fingerprint)s, %(task)s)"
            " ON CONFLICT (owner, key) DO NOTHING",
            {"id": id_, **asdict(job)},
        )
        if added:
            return added[0]
        self._discard(upload_name(id_))
        query = f"SELECT {_ROW} FROM denoise_jobs WHERE owner = %s AND key = %s"
        known = self._records(query, [job.owner, job.key])
        if not known:
            # It was deleted in between.
            raise DeletedMeanwhile
        if known[0].fingerprint != job.fingerprint:
            raise KeyReused
        return known[0]

    def claim(self, task: Task = "denoise") -> Record | None:
        """Starts the next job of a task. See JobStore.

        After the database was away, leases that ran out meanwhile are left to their replicas for a while.
        """
        may_take_over = self._clock() >= self._patient_until
        if may_take_over:
            self._fail_dead()
        claimed = self._changed(
            "UPDATE denoise_jobs AS job SET state = 'running', attempts = attempts + 1, lease = lease + 1,"
            " lease_ends = now() + %(lease_seconds)s * interval '1 second', started = now(), progress = 0,"
            " seconds_left = NULL, details = NULL FROM next WHERE job.number = next.next_number",
            {"may_take_over": may_take_over, "task": task, **self._times},
            # Replicas that claim at the same time pass over each other's rows.
            before=(
                "next AS (SELECT number AS next_number, owner AS next_owner"
                " FROM denoise_jobs LEFT JOIN denoise_job_owners USING (owner)"
                " WHERE ended IS NULL AND task = %(task)s"
                " AND (state = 'waiting' OR (%(may_take_over)s AND lease_ends < now()))"
                " ORDER BY claimed NULLS FIRST, number LIMIT 1 FOR UPDATE OF denoise_jobs SKIP LOCKED),"
                " turn AS (INSERT INTO denoise_job_owners SELECT next_owner, clock_timestamp() FROM next"
                " ON CONFLICT (owner) DO UPDATE SET claimed = excluded.claimed),"
            ),
        )
        return claimed[0] if claimed else None

    def _fail_dead(self) -> None:
        """Jobs whose last lease has run out fail."""
        failed = self._changed(
            f"UPDATE denoise_jobs SET state = 'failed', bytes = 0, status = 500, error = %(error)s, {_FINISHED}"
            " WHERE ended IS NULL AND state = 'running' AND lease_ends < now() AND attempts >= %(attempts)s",
            {"error": ended_too_often(ATTEMPTS), "attempts": ATTEMPTS, **self._times},
        )
        self._discard(*(upload_name(each.id) for each in failed))

    def renew(self, job: Record, progress: float, seconds_left: float | None, details: str | None = None) -> bool:
        """Makes a lease last longer, and stores the progress. Returns False if the lease is lost."""
        return bool(
            self._changed(
                "UPDATE denoise_jobs SET lease_ends = now() + %(lease_seconds)s * interval '1 second',"
                " progress = %(progress)s, seconds_left = %(left)s, details = %(details)s"
                " WHERE state = 'running' AND id = %(id)s AND lease = %(lease)s",
                {"progress": progress, "left": seconds_left, "details": details, **_lease(job), **self._times},
            )
        )

    def put_back(self, job: Record) -> None:
        """Lets a running job wait again, as if it had not been started."""
        self._changed(
            "UPDATE denoise_jobs SET state = 'waiting', attempts = attempts - 1, started = NULL,"
            " lease_ends = NULL, progress = 0, seconds_left = NULL, details = NULL"
            " WHERE state = 'running' AND id = %(id)s AND lease = %(lease)s",
            _lease(job),
        )

    @contextmanager
    def open_upload(self, job: Record) -> Iterator[BinaryIO]:
        """The upload, until the end of the block. Raises FileNotFoundError."""
        with TemporaryFile() as temporary:
            self._blobs.fetch(upload_name(job.id), cast(BinaryIO, temporary))
            # Opened anew for reading only, because the processes that decode images get this file.
            with Path(f"/proc/self/fd/{temporary.fileno()}").open("rb") as file:
                yield file

    @contextmanager
    def result_file(self, job: Record) -> Iterator[BinaryIO]:
        """An empty file, which becomes the result of this lease at the end of the block, unless it raises."""
        with self._new_blob(result_name(job)) as file:
            yield file

    def finish(self, job: Record, result: Result) -> None:
        """Marks a job as done. See JobStore."""
        refuse_if_too_large(result, self.half)
        # The state may be `done` already: if the answer of the database was lost, this is repeated.
        done = self._changed(
            "UPDATE denoise_jobs SET state = 'done', name = %(name)s, media_type = %(media_type)s,"
            f" headers = %(headers)s, digest = %(digest)s, bytes = %(bytes)s, details = %(details)s,"
            f" progress = 1, {_FINISHED}"
            " WHERE state IN ('running', 'done') AND id = %(id)s AND lease = %(lease)s",
            {**asdict(result), **_lease(job), **self._times},
        )
        if not done:
            self._discard(result_name(job))
            raise LeaseLost
        self._discard(upload_name(job.id))
        self._push_out()

    def _push_out(self) -> None:
        """Removes results to make room: the oldest."""
        pushed_out = self._changed(
            "UPDATE denoise_jobs SET bytes = 0 WHERE number IN (SELECT number FROM (SELECT number, bytes,"
            " sum(bytes) OVER (ORDER BY expires DESC, number DESC) AS held FROM denoise_jobs"
            " WHERE state = 'done') AS results WHERE bytes > 0 AND held > %(half)s)",
            {"half": self.half},
        )
        self._discard(*map(result_name, pushed_out))

    def fail(self, job: Record, status: int, error: str, details: str | None = None) -> None:
        """Marks a job as failed, and removes its files. Raises LeaseLost."""
        failed = self._changed(
            "UPDATE denoise_jobs SET state = 'failed', bytes = 0, status = %(status)s, error = %(error)s,"
            f" details = %(details)s, {_FINISHED}"
            " WHERE state IN ('running', 'failed') AND id = %(id)s AND lease = %(lease)s",
            {"status": status, "error": error, "details": details, **_lease(job), **self._times},
        )
        if not failed:
            raise LeaseLost
        self._discard(upload_name(job.id), result_name(job))

    def find(self, id_: str, owner: str) -> Record | None:
        """The owner's job of this ID, if there is one."""
        found = self._records(f"SELECT {_ROW} FROM denoise_jobs WHERE id = %s AND owner = %s", [id_, owner])
        return found[0] if found else None

    def newest(self, owner: str, count: int) -> list[Record]:
        """The owner's newest jobs, the newest first."""
        query = f"SELECT {_ROW} FROM denoise_jobs WHERE owner = %s ORDER BY number DESC LIMIT %s"
        return self._records(query, [owner, count])

    def waiting(self) -> int:
        """How many jobs wait, for any replica, without adaptations."""
        free = "ended IS NULL AND task = 'denoise' AND (state = 'waiting' OR lease_ends < now())"
        count: int = self._database.rows(f"SELECT count(*) FROM denoise_jobs WHERE {free}")[0][0]
        return count

    def remove(self, id_: str) -> None:
        """Removes a job in any state, and its files. A worker that runs it finds out."""
        removed = self._changed("DELETE FROM denoise_jobs WHERE id = %(id)s", {"id": id_})
        self._discard(*names_of(removed))

    def result(self, job: Record) -> ResultBlob:
        """The result of a job that is done. Raises FileNotFoundError if it was removed to make room."""
        if not job.bytes:
            raise FileNotFoundError(result_name(job))
        return ResultBlob(self._blobs, result_name(job), job.bytes)

    def sweep(self) -> None:
        """Removes expired jobs, the oldest of too many, and blobs that belong to no job."""
        old = self._changed(
            "DELETE FROM denoise_jobs WHERE expires <= now() OR number IN (SELECT number FROM denoise_jobs"
            " WHERE ended IS NOT NULL ORDER BY expires DESC, number DESC OFFSET %(most)s)",
            {"most": records.MAX_JOBS},
        )
        self._discard(*names_of(old))
        # One replica at a time looks through the blobs, which takes a request for each thousand.
        turn = (
            "UPDATE denoise_job_sweep SET swept = now()"
            " WHERE swept < now() - %s * interval '1 minute' RETURNING swept"
        )
        if self._database.rows(turn, [STRAY_MINUTES]):
            self._remove_strays()

    def _remove_strays(self) -> None:
        """Removes blobs that have belonged to no job since an earlier call."""
        found = list(self._blobs.list(FOLDER))
        rows = self._database.rows("SELECT id, lease, state, bytes FROM denoise_jobs")
        jobs = {id_: Owner(*owner) for id_, *owner in rows}
        strays = [name for name in found if is_stray(name, jobs)]
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM denoise_job_strays WHERE name <> ALL(%s)", [strays])
            old = connection.execute(
                "DELETE FROM denoise_job_strays WHERE seen < now() - %s * interval '1 minute' RETURNING name",
                [STRAY_MINUTES / 2],
            ).fetchall()
            removed = [name for (name,) in old]
            new = [name for name in strays if name not in removed]
            connection.execute(
                "INSERT INTO denoise_job_strays SELECT unnest(%s::text[]) ON CONFLICT DO NOTHING", [new]
            )
        self._discard(*removed)

    def _changed(self, change: str, values: Mapping[str, object], before: str = "") -> list[Record]:
        """Executes a change, and tells all replicas of it. Returns the jobs that changed.

        before: queries of the WITH clause, each with a comma after it.
        """
        columns = ", ".join((*COLUMNS, "progress", "seconds_left"))
        statement = (
            f"WITH {before} changed AS ({change} RETURNING {columns})"
            f" SELECT {_ROW}, "
            f"pg_notify('{CHANNEL}', concat_ws(' ', id, state, '{self._name}')) FROM changed"
        )
        try:
            rows = self._database.rows(statement, dict(values))
        except DatabaseAway:
            self._patient_until = self._clock() + self._times["lease_seconds"]
            raise
        return [Record(*row[:-1]) for row in rows]

    def _records(self, query: str, values: Sequence[object]) -> list[Record]:
        return [Record(*row) for row in self._database.rows(query, values)]

    def _discard(self, *names: str) -> None:
        """Removes blobs. Those that cannot be reached now are swept later."""
        with suppress(BlobsAway):
            self._blobs.delete(*names)


class DeletedMeanwhile(ProblemError):
    """A job with the same Idempotency-Key was deleted while this request was answered."""

    status = 409

    def __init__(self) -> None:
        super().__init__("The job with this Idempotency-Key was deleted just now. Send the request again.")


def _lease(job: Record) -> dict[str, object]:
    return {"id": job.id, "lease": job.lease}
