"""Worker: runs the stored jobs beside the requests, one of each task at a time, and reports their progress."""

import asyncio
import json
import secrets
import sqlite3
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from fastapi.concurrency import contextmanager_in_threadpool
from structlog.contextvars import bound_contextvars

from service.auth.rate_limit import Charge
from service.jobs.adapt_runner import AdaptRunner, NotLearnable
from service.jobs.full_disk import refusing_if_disk_full
from service.jobs.records import JobRequest, LeaseLost, Record, Result, Task
from service.jobs.runner import JobRunner
from service.jobs.running import Running
from service.jobs.store import Changed, JobStore, StoredBlob
from service.problems import problem_of
from service.registry.registry import ModelRegistry
from service.runtime.pipeline import Pipeline
from service.runtime.scheduler import Cancelled
from service.runtime.shutdown import GracefulShutdown
from service.settings import Settings
from service.storage.away import StorageAway
from service.telemetry import tracing
from service.telemetry.logs import log
from service.telemetry.metrics import Metrics

T = TypeVar("T")
# For an owner's name, what counts pixels against the owner's limit.
Charging = Callable[[str], Charge]

# How often expired jobs are removed, in seconds.
SWEEP = 60
# How long to wait before a failed access to the store is tried again, in seconds.
RETRY = 5
# How often to look for jobs and changes of other processes, in seconds: the messages about them can be lost.
POLL = 2


@asynccontextmanager
async def working(
    store: JobStore,
    pipeline: Pipeline,
    settings: Settings,
    metrics: Metrics,
    shutdown: GracefulShutdown,
    charging: Charging,
    registry: ModelRegistry,
) -> AsyncIterator["Worker"]:
    """Runs a worker until the service begins to shut down. Closes the store at the end."""
    with ThreadPoolExecutor(store.threads, "jobs") as threads:
        worker = Worker(store, pipeline, settings, metrics, charging, threads, registry)
        loop = asyncio.get_running_loop()
        store.listen(partial(_in_loop, loop, worker.heard))
        ending = asyncio.create_task(_stop_at_shutdown(worker, shutdown))
        tasks = [asyncio.create_task(worker.work(task)) for task in worker.more]
        tasks.append(asyncio.create_task(worker.sweep()))
        try:
            yield worker
        finally:
            ending.cancel()
            await worker.stop()
            await asyncio.gather(*tasks)
            await loop.run_in_executor(threads, store.close)


def _in_loop(loop: asyncio.AbstractEventLoop, heard: Changed, id_: str, state: str) -> None:
    loop.call_soon_threadsafe(heard, id_, state)


async def _stop_at_shutdown(worker: "Worker", shutdown: GracefulShutdown) -> None:
    await shutdown.beginning()
    await worker.stop()


class Worker:
    """Calls the job store, which waits for a disk or a network, from threads. Use it in the event loop only."""

    def __init__(
        self,
        store: JobStore,
        pipeline: Pipeline,
        settings: Settings,
        metrics: Metrics,
        charging: Charging,
        threads: ThreadPoolExecutor,
        registry: ModelRegistry,
    ) -> None:
        """threads: as many as the store takes, for the store alone."""
        # By ID.
        self.running: dict[str, Running] = {}
        self._store = store
        self._pipeline = pipeline
        self._settings = settings
        self._metrics = metrics
        self._charging = charging
        self._threads = threads
        self._registry = registry
        # None: nobody else changes the store.
        self._poll = None if store.lease_seconds is None else POLL
        # Bytes of uploads that are still arriving.
        self._arriving = 0
        # For each task that is done here, an event that is set when a job may wait. Jobs of a store that nobody
        # else has fail if the service does not adapt any more.
        tasks: tuple[Task, ...] = ("denoise", "adapt")
        adapts = settings.adapt or store.lease_seconds is None
        self.more = {task: asyncio.Event() for task in tasks if task == "denoise" or adapts}
        self._stopping = asyncio.Event()
        # One event for each listener, by the IDs of the jobs.
        self._listeners: dict[str, set[asyncio.Event]] = {}

    async def accept(self, size: int, receive: Callable[[BinaryIO], Awaitable[JobRequest]]) -> Record:
        """Adds a job, or finds the one with the same Idempotency-Key.

        receive: writes its upload, of at most `size` bytes, and returns the request.
        Raises what JobStore.admit raises, JobStoreFull, StorageAway, and what `receive` raises; then nothing is
        kept.
        """
        id_ = secrets.token_urlsafe(16)
        # An upload's room is reserved while it arrives; afterwards the store counts it.
        self._arriving += size
        try:
            with refusing_if_disk_full():
                await self._call(self._store.check_room, self._arriving)
                # In this order nothing that happens loses an accepted job: the upload, its name, then the row.
                async with contextmanager_in_threadpool(self._store.upload_file(id_)) as file:
                    job = await receive(file)
                record = await self._call(self._store.admit, id_, job)
        finally:
            self._arriving -= size
        self._look_for_jobs()
        return record

    def _look_for_jobs(self) -> None:
        for more in self.more.values():
            more.set()

    async def find(self, id_: str, owner: str) -> Record | None:
        """The owner's job of this ID, if there is one."""
        record = await self._call(self._store.find, id_, owner)
        return self._with_progress(record) if record else None

    async def newest(self, owner: str, count: int) -> list[Record]:
        """The owner's newest jobs, the newest first."""
        return [self._with_progress(record) for record in await self._call(self._store.newest, owner, count)]

    async def waiting(self) -> int:
        """How many jobs wait; of several replicas, for all of them."""
        return await self._call(self._store.waiting)

    def _with_progress(self, record: Record) -> Record:
        """The newest progress, if the job runs here."""
        running = self.running.get(record.id)
        if running is None or running.record.lease != record.lease or record.ended:
            return record
        left, details = running.seconds_left, running.details
        return replace(record, progress=running.share, seconds_left=left, details=details)

    async def remove(self, id_: str) -> None:
        """Removes a job and its files. If it runs, it stops at its next window. Raises JobStoreFull."""
        with refusing_if_disk_full():
            await self._call(self._store.remove, id_)
        if id_ in self.running:
            self.running[id_].disconnected.set()
        self._notify(id_)

    def heard(self, id_: str, state: str) -> None:
        """Another process has changed a job. See Changed."""
        # Not at every progress of another replica: that would be many claims for nothing.
        if state in ("waiting", ""):
            self._look_for_jobs()
        for running in self.running.values():
            if id_ in (running.id, ""):
                running.news.set()
        for each in [id_] if id_ else self._listeners:
            self._notify(each)

    async def result(self, record: Record) -> Path | StoredBlob:
        """A finished job's result. Raises FileNotFoundError if it was removed to make room."""
        return await self._call(self._store.result, record)

    async def watch(self, record: Record) -> AsyncGenerator[Record, None]:
        """The job now, and again after each change, until the job ends or the service does. Close it.

        While the storage is away, it does not change.
        """
        with self._listening(record.id) as changed:
            while True:
                # Cleared before the job is read, so that no change is missed.
                changed.clear()
                try:
                    now = await self.find(record.id, record.owner)
                except StorageAway:
                    now = record
                record = now or replace(record, state="cancelled", ended=time.time())
                yield record
                if record.ended or self._stopping.is_set():
                    return
                await _wait(changed, self._poll)

    @contextmanager
    def _listening(self, id_: str) -> Iterator[asyncio.Event]:
        """An event that is set after each change of the job, until the block ends."""
        changed = asyncio.Event()
        listeners = self._listeners.setdefault(id_, set())
        listeners.add(changed)
        try:
            yield changed
        finally:
            listeners.remove(changed)
            if not listeners:
                del self._listeners[id_]

    async def work(self, task: Task) -> None:
        """Runs the jobs of a task until `stop` is called."""
        while not self._stopping.is_set():
            self.more[task].clear()
            try:
                if record := await self._call(self._store.claim, task):
                    # Logged by the ID of its request: the job's own ID gives access to its result.
                    with bound_contextvars(request_id=record.request):
                        await self._run(record)
                    continue
            except StorageAway:
                # Logged by the storage.
                await self._pause(RETRY)
            except Exception:
                log.exception("the job store cannot be used", retry_seconds=RETRY)
                await self._pause(RETRY)
            else:
                await _wait(self.more[task], self._poll)

    async def sweep(self) -> None:
        """Removes expired jobs every SWEEP seconds, until `stop` is called."""
        while not self._stopping.is_set():
            try:
                with suppress(StorageAway):
                    await self._call(self._store.sweep)
            except Exception:
                log.exception("expired jobs cannot be removed", retry_seconds=SWEEP)
            await self._pause(SWEEP)

    async def stop(self) -> None:
        """Starts no other job. Those that run wait again, and stop at their next window."""
        self._stopping.set()
        self._look_for_jobs()
        for id_ in self._listeners:
            self._notify(id_)
        for running in list(self.running.values()):
            # Put back first: the process may be killed before the job has stopped.
            await self._put_back(running.record)
            running.disconnected.set()

    async def _put_back(self, record: Record) -> None:
        try:
            await self._call(self._store.put_back, record)
        except (sqlite3.Error, StorageAway):
            # The next process also repeats jobs that are stored as running.
            log.exception("the job store cannot be written to")

    async def _run(self, record: Record) -> None:
        """Runs a job. However it ends, the store and the log say so."""
        if self._stopping.is_set():
            # Stopped while the job was claimed.
            await self._put_back(record)
            return
        known = tracing.RequestRecord(record.request)
        tracing.begin_request(known)
        running = self.running[record.id] = Running(record)
        self._notify(record.id)
        try:
            async with self._lease(running):
                await self._run_to_end(running)
        except (Cancelled, LeaseLost) as error:
            # Whoever cancelled it, or took it over, has changed the store already.
            known.error = type(error).__name__
        finally:
            del self.running[record.id]
            self._notify(record.id)
        task = "" if record.task == "denoise" else record.task
        facts = {"task": task, "pixels": known.pixels, "model": ",".join(known.models), "error": known.error}
        seconds = round(time.monotonic() - running.began, 4)
        log.info("job", seconds=seconds, **{name: value for name, value in facts.items() if value})

    async def _run_to_end(self, running: Running) -> None:
        """Raises Cancelled and LeaseLost."""
        record = running.record
        try:
            result = await self._make_result(running)
            await self._until_written(self._store.finish, record, result)
            self._metrics.jobs.labels("done").inc()
        except (Cancelled, LeaseLost):
            raise
        except StorageAway:
            # Not the job's fault: it is done once the storage is back.
            await self._until_written(self._store.put_back, record)
            await self._pause(RETRY)
        except Exception as error:
            problem = problem_of(error).problem
            if problem.status == 500:
                log.exception("job failed")
            details = json.dumps({"report": error.report}) if isinstance(error, NotLearnable) else None
            await self._until_written(self._store.fail, record, problem.status, problem.detail, details)
            self._metrics.jobs.labels("failed").inc()

    @asynccontextmanager
    async def _lease(self, running: Running) -> AsyncIterator[None]:
        """Keeps the job's lease until the block ends."""
        seconds = self._store.lease_seconds
        if seconds is None:
            yield
            return
        renew = partial(self._call, self._store.renew, running.record)
        keeping = asyncio.create_task(running.keep_lease(seconds, renew))
        try:
            yield
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)

    async def _make_result(self, running: Running) -> Result:
        runner: JobRunner | AdaptRunner
        if running.record.task == "adapt":
            runner = AdaptRunner(
                self._settings,
                self._store,
                self._registry,
                running.record,
                self._is_busy,
                running.disconnected.wait,
                partial(self._on_progress, running),
            )
        else:
            runner = self._job_runner(running)
        with refusing_if_disk_full():
            return await runner.run()

    def _job_runner(self, running: Running) -> JobRunner:
        return JobRunner(
            self._pipeline.for_one_request(),
            self._settings,
            self._store,
            running.record,
            running.disconnected.wait,
            self._charging(running.record.owner),
            partial(self._on_progress, running),
        )

    def _is_busy(self) -> bool:
        """Whether images wait or are in work, of requests or of jobs."""
        return bool(self._pipeline.scheduler.in_work or self._pipeline.scheduler.waiting)

    def _on_progress(
        self, running: Running, share: float, left: float | None = None, details: str | None = None
    ) -> None:
        running.share, running.left, running.details = share, left, details
        running.news.set()
        self._notify(running.id)

    def _notify(self, id_: str) -> None:
        """Wakes all who listen to the job."""
        for changed in self._listeners.get(id_, ()):
            changed.set()

    async def _call(self, work: Callable[..., T], *values: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *values)

    async def _until_written(self, work: Callable[..., T], *values: Any) -> T:
        """Retries until the store has been written: what it says about a job has to be true."""
        while True:
            try:
                return await self._call(work, *values)
            except (sqlite3.OperationalError, StorageAway) as error:
                if self._stopping.is_set():
                    raise
                # A storage that is away has been logged by itself, and is no bug.
                unexpected = not isinstance(error, StorageAway)
                log.error("the job store cannot be written to", retry_seconds=RETRY, exc_info=unexpected)
                await self._pause(RETRY)

    async def _pause(self, seconds: float) -> None:
        """Returns early if `stop` is called."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)


async def _wait(event: asyncio.Event, seconds: float | None) -> None:
    """Returns when the event is set, and after some seconds in any case."""
    with suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
