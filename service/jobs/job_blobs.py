"""Job blobs: the names of uploads and results in the blob store, and which of them belong to a job."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from service.jobs.records import Record
from service.storage.blobs import Blobs

# The folder of all of them.
FOLDER = "jobs"
_NAME = re.compile(rf"{FOLDER}/([\w-]{{22}})/(?:upload|(\d+)\.result)")


def upload_name(id_: str) -> str:
    """The name of a job's upload."""
    return f"{FOLDER}/{id_}/upload"


def result_name(job: Record) -> str:
    """The name of the result of a lease."""
    return f"{FOLDER}/{job.id}/{job.lease}.result"


def names_of(jobs: Iterable[Record]) -> Iterator[str]:
    """The blobs that jobs may have."""
    for job in jobs:
        if job.state == "done":
            yield result_name(job)
        elif job.state != "failed":
            yield upload_name(job.id)


@dataclass(frozen=True)
class Owner:
    """What decides whether a blob belongs to a job. bytes: as in Record."""

    lease: int
    state: str
    bytes: int


def is_stray(name: str, jobs: Mapping[str, Owner]) -> bool:
    """Whether a blob is one of these, and belongs to no job. jobs: all jobs, by ID."""
    parts = _NAME.fullmatch(name)
    if not parts:
        return False
    id_, lease = parts.groups()
    job = jobs.get(id_)
    if job is None:
        return True
    if lease is None:
        return job.state not in ("waiting", "running")
    is_current = int(lease) == job.lease
    return not is_current or not (job.state == "running" or (job.state == "done" and job.bytes))


@dataclass(frozen=True)
class ResultBlob:
    """A result in the blob store. size: in bytes."""

    blobs: Blobs
    name: str
    size: int

    async def read(self, start: int, size: int) -> bytes:
        """Some of its bytes. Raises FileNotFoundError and BlobsAway."""
        return await self.blobs.in_thread(self.blobs.read, self.name, start, size)
