"""Job store: the interface of the two stores, in a folder of one process, or shared by replicas."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, Protocol

from service.jobs.records import JobRequest, Record, Result, Task
from service.settings import Settings
from service.storage.storage import Storage

# Called in a thread of a store, with the ID of a job that changed, and its state. Both are empty if any job may
# have changed.
Changed = Callable[[str, str], None]


class StoredBlob(Protocol):
    """A result in a store of blobs. size: in bytes."""

    @property
    def size(self) -> int: ...

    async def read(self, start: int, size: int) -> bytes:
        """Some of its bytes. Raises FileNotFoundError and StorageAway."""


class JobStore(Protocol):
    """Jobs, their uploads and their results. All calls wait for a disk or a network: make them in threads.

    Each start of a job has a lease, by number: Record.lease. Whoever runs a job changes it by the record that
    `claim` returned, and changes nothing once the job is no longer its own.

    A store that replicas share raises StorageAway if it cannot be reached. It is then not known whether a change
    was made, but every change can be repeated.
    """

    @property
    def lease_seconds(self) -> float | None:
        """How long a lease lasts unless it is renewed; None if no other process can use the store."""

    @property
    def threads(self) -> int:
        """How many threads may call the store at a time."""

    def close(self) -> None:
        """Releases the store."""

    def check_room(self, size: int) -> None:
        """Raises JobStoreFull unless there is room for `size` more bytes of uploads."""

    def upload_file(self, id_: str) -> AbstractContextManager[BinaryIO]:
        """An empty file, which becomes a job's upload at the end of the block, unless the block raises."""

    def admit(self, id_: str, job: JobRequest) -> Record:
        """Adds a job whose upload is stored; or finds the owner's job that has this key already.

        If no job is added, its upload is removed. Raises KeyReused if the job with this key is a different one.
        """

    def claim(self, task: Task = "denoise") -> Record | None:
        """Starts the next job of a task: the oldest job of the owner whose last claim is longest ago.

        A job whose lease has run out is started again, or fails if that has happened too often.
        """

    def renew(self, job: Record, progress: float, seconds_left: float | None, details: str | None = None) -> bool:
        """Makes a lease last longer, and stores the progress. Returns False if the lease is lost."""

    def put_back(self, job: Record) -> None:
        """Lets a running job wait again, as if it had not been started."""

    def open_upload(self, job: Record) -> AbstractContextManager[BinaryIO]:
        """The upload, until the end of the block. Raises FileNotFoundError."""

    def result_file(self, job: Record) -> AbstractContextManager[BinaryIO]:
        """An empty file, which becomes the result of this lease at the end of the block, unless it raises."""

    def finish(self, job: Record, result: Result) -> None:
        """Marks a job as done. Write its result first, which is removed if the lease is lost.

        The oldest results are removed to make room. Raises LeaseLost, and JobStoreFull for a result that alone
        exceeds the limit.
        """

    def fail(self, job: Record, status: int, error: str, details: str | None = None) -> None:
        """Marks a job as failed, and removes its files. Raises LeaseLost."""

    def find(self, id_: str, owner: str) -> Record | None:
        """The owner's job of this ID, if there is one."""

    def newest(self, owner: str, count: int) -> list[Record]:
        """The owner's newest jobs, the newest first."""

    def waiting(self) -> int:
        """How many jobs wait, without adaptations."""

    def remove(self, id_: str) -> None:
        """Removes a job in any state, and its files."""

    def result(self, job: Record) -> Path | StoredBlob:
        """The result of a job that is done. Raises FileNotFoundError if it was removed to make room."""

    def sweep(self) -> None:
        """Removes expired jobs, the oldest of too many, and files that belong to no job."""

    def listen(self, changed: Changed) -> None:
        """Tells of changes that other processes make. Messages can be lost."""


def open_job_store(settings: Settings, storage: Storage | None) -> JobStore | None:
    """The store that the settings name; None if they name none.

    Raises ValueError, or OSError if the folder cannot be created.
    """
    seconds = settings.job_hours * 3600
    if storage:
        # Here, because its packages are needed by replicas only.
        from service.jobs.shared_store import SharedJobStore

        return SharedJobStore(storage, settings.spool_bytes, seconds, settings.lease_seconds)
    if settings.spool:
        from service.jobs.spool_store import SpoolJobStore

        return SpoolJobStore(settings.spool, settings.spool_bytes, seconds)
    return None
