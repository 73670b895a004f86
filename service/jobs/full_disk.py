"""Full disk: what a job is told when there is no room to store it."""

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from service.jobs.records import JobStoreFull
from service.telemetry.logs import log


@contextmanager
def refusing_if_disk_full() -> Iterator[None]:
    """Raises JobStoreFull if the disk is full."""
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        if not _is_full(error):
            raise
        log.error("the disk of the job store is full", error=str(error))
        raise JobStoreFull("The disk that jobs are stored on is full. Try again later.") from error


def _is_full(error: OSError | sqlite3.OperationalError) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return error.sqlite_errorcode == sqlite3.SQLITE_FULL
