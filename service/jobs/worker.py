"""Does the spool's jobs, one after another, beside the requests, and tells how far they are."""

import asyncio
import errno
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from fastapi.concurrency import contextmanager_in_threadpool
from structlog.contextvars import bound_contextvars

from engine.system.atomic_file import atomic
from service.jobs.runner import PRIVATE, JobRunner
from service.jobs.store import JobRequest, JobStore, JobStoreFull, Record, Result
from service.problems import problem_of
from service.runtime.pipeline import Denoiser
from service.runtime.scheduler import Cancelled
from service.runtime.shutdown import GracefulShutdown
from service.telemetry import tracing
from service.telemetry.logs import log

T = TypeVar("T")
# By an owner: what counts pixels against that one's limit.
Spending = Callable[[str], Callable[[int], None]]

# Seconds between two looks at what has been kept for its time.
SWEEP = 60
# Seconds until what could not be written down is tried again.
RETRY = 5


@dataclass(eq=False)
class Running:
    """The job that is being done. share: of it that is done, 0 to 1. disconnected: set when nobody wants it."""

    id: str
    share: float = 0.0
    disconnected: asyncio.Event = field(default_factory=asyncio.Event)
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds_left(self) -> float | None:
        """An estimate, once there is a share to make it from."""
        return (time.monotonic() - self.began) * (1 / self.share - 1) if self.share else None


@asynccontextmanager
async def working(
    spool: JobStore, denoiser: Denoiser, closing: GracefulShutdown, charging: Spending
) -> AsyncIterator["Worker"]:
    """A worker at work until the service's end begins. Closes the spool in the end."""
    with ThreadPoolExecutor(1, "spool") as thread:
        worker = Worker(spool, denoiser, charging, thread)
        ending = asyncio.create_task(_end(worker, closing))
        tasks = [asyncio.create_task(worker.work()), asyncio.create_task(worker.sweep())]
        try:
            yield worker
        finally:
            ending.cancel()
            await worker.stop()
            await asyncio.gather(*tasks)
            thread.submit(spool.close)


async def _end(worker: "Worker", closing: GracefulShutdown) -> None:
    await closing.beginning()
    await worker.stop()


class Worker:
    """Stands between the event loop, on which it is to be used, and the spool, which waits for the disk."""

    def __init__(
        self, spool: JobStore, denoiser: Denoiser, charging: Spending, thread: ThreadPoolExecutor
    ) -> None:
        """thread: one, and the spool's alone."""
        self.running: Running | None = None
        self._spool, self._denoiser, self._spending, self._thread = spool, denoiser, charging, thread
        self._arriving = 0
        self._more, self._stopping = asyncio.Event(), asyncio.Event()
        # Of jobs that somebody listens to.
        self._changed: dict[str, asyncio.Event] = {}

    async def accept(self, size: int, receive: Callable[[BinaryIO], Awaitable[JobRequest]]) -> Record:
        """A new job. receive: writes its upload, of `size` bytes at most, and says what is wanted.

        Raises SpoolFull, and what `receive` raises; then nothing is kept.
        """
        id_ = secrets.token_urlsafe(16)
        # What arrives has its room from the beginning, and until it is counted among what is there.
        self._arriving += size
        try:
            with _full_in_words():
                await self._call(self._spool.check_room, self._arriving)
                async with contextmanager_in_threadpool(atomic(self._spool.upload(id_), PRIVATE)) as file:
                    order = await receive(file)
                record = await self._call(self._admit, id_, order)
        finally:
            self._arriving -= size
        self._more.set()
        return record

    def _admit(self, id_: str, order: JobRequest) -> Record:
        try:
            return self._spool.admit(id_, order)
        except BaseException:
            self._spool.upload(id_).unlink(missing_ok=True)
            raise

    async def find(self, id_: str, owner: str) -> Record | None:
        """A job of that owner's."""
        return await self._call(self._spool.find, id_, owner)

    async def newest(self, owner: str, count: int) -> list[Record]:
        """That owner's last jobs, the newest first."""
        return await self._call(self._spool.newest, owner, count)

    async def remove(self, id_: str) -> None:
        """A job and its files; if it runs, it ends at its next window. Raises SpoolFull."""
        with _full_in_words():
            await self._call(self._spool.remove, id_)
        if self.running and self.running.id == id_:
            self.running.disconnected.set()
        self._tell(id_)

    def result(self, record: Record) -> Path:
        """Where the result of a job lies that is done."""
        return self._spool.result(record.id)

    async def watch(self, record: Record) -> AsyncIterator[Record]:
        """The job as it is now, and again whenever it has changed, until it or the service ends."""
        while True:
            # Before it is looked at, so that no change falls between.
            changed = self._changed.setdefault(record.id, asyncio.Event())
            now = await self.find(record.id, record.owner)
            record = now or replace(record, state="cancelled", ended=time.time())
            yield record
            if record.ended or self._stopping.is_set():
                return
            await changed.wait()

    async def work(self) -> None:
        """Do jobs until told to stop."""
        while not self._stopping.is_set():
            self._more.clear()
            try:
                if record := await self._call(self._spool.claim):
                    # By the id of the request that left it: its own is nobody's to know but its owner's.
                    with bound_contextvars(request_id=record.request):
                        await self._do(record)
                    continue
            except Exception:
                log.exception("the spool cannot be used", retry_seconds=RETRY)
                await self._pause(RETRY)
            else:
                await self._more.wait()

    async def sweep(self) -> None:
        """Remove what has been kept for its time, now and again, until told to stop."""
        while not self._stopping.is_set():
            try:
                await self._call(self._spool.sweep)
            except Exception:
                log.exception("the spool cannot be swept", retry_seconds=SWEEP)
            await self._pause(SWEEP)

    async def stop(self) -> None:
        """Begin no other job. The one that runs is put back, and given up at its next window."""
        self._stopping.set()
        self._more.set()
        for changed in self._changed.values():
            changed.set()
        if running := self.running:
            # At once: to give it up may take longer than there is time.
            await self._put_back(running.id)
            running.disconnected.set()

    async def _put_back(self, id_: str) -> None:
        try:
            await self._call(self._spool.put_back, id_)
        except sqlite3.Error:
            # What is said to run when a process begins is done anew as well.
            log.exception("the spool cannot be written to")

    async def _do(self, record: Record) -> None:
        """Whatever comes of it, the spool and the log are told."""
        if self._stopping.is_set():
            # Since it was asked for.
            await self._put_back(record.id)
            return
        known = tracing.RequestRecord(record.request)
        tracing.begin_request(known)
        self.running = running = Running(record.id)
        self._tell(record.id)
        try:
            result = await self._make(record, running)
            await self._surely(self._spool.finish, record.id, result)
            self._denoiser.metrics.jobs.labels("done").inc()
        except Cancelled:
            # Whoever said so has told the spool.
            known.error = "Cancelled"
        except Exception as error:
            problem = problem_of(error).problem
            if problem.status == 500:
                log.exception("job failed")
            await self._surely(self._spool.fail, record.id, problem.status, problem.detail)
            self._denoiser.metrics.jobs.labels("failed").inc()
        finally:
            self.running = None
            self._tell(record.id)
        facts = {"pixels": known.pixels, "model": ",".join(known.models), "error": known.error}
        seconds = round(time.monotonic() - running.began, 4)
        log.info("job", seconds=seconds, **{name: value for name, value in facts.items() if value})

    async def _make(self, record: Record, running: Running) -> Result:
        making = JobRunner(
            self._denoiser.settled(),
            record,
            self._spool.upload(record.id),
            self._spool.result(record.id),
            running.disconnected.wait,
            self._spending(record.owner),
            partial(self._progress, running),
        )
        with _full_in_words():
            return await making.make()

    def _progress(self, running: Running, share: float) -> None:
        running.share = share
        self._tell(running.id)

    def _tell(self, id_: str) -> None:
        """All who listen to that job."""
        if changed := self._changed.pop(id_, None):
            changed.set()

    async def _call(self, work: Callable[..., T], *values: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *values)

    async def _surely(self, work: Callable[..., T], *values: Any) -> T:
        """Until it can be written down: what the spool says of a job has to be true."""
        while True:
            try:
                return await self._call(work, *values)
            except sqlite3.OperationalError:
                if self._stopping.is_set():
                    raise
                log.exception("the spool cannot be written to", retry_seconds=RETRY)
                await self._pause(RETRY)

    async def _pause(self, seconds: float) -> None:
        """Shorter, if told to stop."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)


@contextmanager
def _full_in_words() -> Iterator[None]:
    """Raises SpoolFull where the disk is."""
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        if not _is_full(error):
            raise
        log.error("the disk of the spool is full", error=str(error))
        raise JobStoreFull("The disk that jobs are kept on is full.") from error


def _is_full(error: OSError | sqlite3.OperationalError) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return error.sqlite_errorcode == sqlite3.SQLITE_FULL
