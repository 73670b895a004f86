"""Records of jobs: what is stored about a job, its request and its result, and what a store refuses."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal

from service.problems import ProblemError
from service.settings import variable

State = Literal["waiting", "running", "done", "failed", "cancelled"]
# What a job does. Jobs of different tasks run beside each other.
Task = Literal["denoise", "adapt"]
# A job fails once the process has died this many times while running it.
ATTEMPTS = 2
# Limit on unfinished jobs, and separately on finished ones that are kept. A longer table is slow to search.
MAX_JOBS = 10_000
SPOOL_NOTE = f"The limit is half of the setting {variable('spool_bytes')}."
LOST = "The upload is missing: its file was removed. Send it again."


class JobStoreError(ValueError):
    """A folder that cannot be used as a job store."""


class JobStoreFull(ProblemError):
    """No room for a job, by the limit or on the disk."""

    status = 507
    headers: Mapping[str, str] = {"Retry-After": "60"}


class KeyReused(ProblemError):
    """An Idempotency-Key that came with another request before."""

    status = 422

    def __init__(self) -> None:
        super().__init__(
            "A job was submitted with this Idempotency-Key, but its image or parameters were different. Send a "
            "new key for a new job, and the same key only to repeat the same request."
        )


class LeaseLost(Exception):
    """A job that is no longer this worker's: it was deleted, or another worker has it."""


@dataclass(frozen=True)
class JobRequest:
    """A job as it was asked for. name: the result's file name. request: the ID of the HTTP request.

    params: JSON. parts: JSON, where the files of a batch lie in the upload; an empty list for a single image.
    bytes: of the upload. key: the Idempotency-Key. fingerprint: equal for equal requests.
    """

    owner: str
    name: str
    params: str
    parts: str
    request: str
    bytes: int
    key: str | None = None
    fingerprint: str | None = None
    task: Task = "denoise"


@dataclass(frozen=True)
class Result:
    """What is known about a result. headers: JSON, the response headers that describe it. digest: SHA-256.

    details: as in Record.
    """

    name: str
    media_type: str
    headers: str
    digest: str
    bytes: int
    details: str | None = None


@dataclass(frozen=True)
class Record:
    """A stored job, with the fields of JobRequest and Result.

    bytes: of the upload until the job has ended, then of the result; 0 if there is none. Times are in seconds
    since 1970, by the wall clock. status, error: the HTTP status and the text, if the job failed.
    lease: how often the job was started. A worker may change the job only while this number is its own.
    details: JSON, what else the task says about its progress and its end. progress: the share that is done, up
    to 1.
    """

    id: str
    owner: str
    name: str
    params: str
    parts: str
    request: str
    fingerprint: str | None
    state: State
    lease: int
    bytes: int
    created: float
    started: float | None
    ended: float | None
    status: int | None
    error: str | None
    media_type: str | None
    headers: str | None
    digest: str | None
    task: Task
    details: str | None
    progress: float = 0.0
    seconds_left: float | None = None


# The columns of a store that has no progress, in the order of Record.
COLUMNS = tuple(field.name for field in fields(Record) if field.name not in ("progress", "seconds_left"))


def ended_too_often(attempts: int) -> str:
    """Why a job is not started again."""
    return f"The service ended {attempts} times while it ran this job, which is not started again."


def refuse_if_full(jobs: int, held: int, more: int, limit: int) -> None:
    """Raises JobStoreFull unless there is room for another job.

    jobs: that have not ended. held: bytes of their uploads. more: bytes of the new upload. limit: bytes of all.
    """
    if jobs >= MAX_JOBS:
        raise JobStoreFull(f"{jobs} jobs are waiting or running, the limit. Try again later.")
    if held + more > limit:
        raise JobStoreFull(
            f"There is no room: uploads may take {limit} bytes, and would take {held + more}. {SPOOL_NOTE}"
        )


def refuse_if_too_large(result: Result, limit: int) -> None:
    """Raises JobStoreFull for a result that alone exceeds the limit."""
    if result.bytes > limit:
        raise JobStoreFull(f"The result has {result.bytes} bytes; at most {limit} are kept. {SPOOL_NOTE}")
