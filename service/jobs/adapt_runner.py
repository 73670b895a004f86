"""Adapt runner: makes a job's result by training on its shots: a zip with weights and the report about them."""

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import ZIP_DEFLATED, ZipFile

from anyio import CancelScope, to_thread
from fastapi.concurrency import contextmanager_in_threadpool

from engine.models.checkpoint import SUFFIX
from service.archives.zip_folder import unpack_zip
from service.archives.zip_writer import MEDIA_TYPE
from service.jobs.adapt_process import OUTCOME, RESULTS, STOPPED, AdaptTask, Failure, command, environment
from service.jobs.records import LOST, Record, Result
from service.jobs.runner import UploadLost
from service.jobs.store import JobStore
from service.jobs.submission import AdaptOff
from service.jobs.work_folder import work_folder
from service.params import AdaptParams
from service.problems import LimitExceeded, ProblemError
from service.registry.registry import ModelRegistry
from service.runtime.scheduler import Cancelled, Disconnected
from service.settings import Settings
from service.telemetry.logs import log

# How often to look whether images wait or are in work, in seconds.
POLL_SECONDS = 0.05
# Training goes on once nothing has been in work for so long, in seconds.
QUIET_SECONDS = 0.5
# What each stage begins at, as a share of the whole.
STAGES = {"examining": 0.0, "preparing": 0.1, "training": 0.12, "judging": 0.95, "end": 1.0}
# Where the standard error of the process goes, in the work folder, and how much of its end is logged, in bytes.
ERRORS = "errors.txt"
LOGGED_BYTES = 4000
# How much is copied at once, in bytes.
CHUNK = 2**20


class NotLearnable(ProblemError):
    """Shots that nothing can be learnt from. report: values of the doctor's report, if there are any."""

    status = 422

    def __init__(self, detail: str, report: dict[str, Any] | None) -> None:
        super().__init__(detail)
        self.report = report


class TrainingEnded(ProblemError):
    """A training process that was killed."""

    status = 500


class TooMuchMemoryToTrain(LimitExceeded):
    """Shots that need more memory than the process that trains may use."""


@dataclass(frozen=True)
class AdaptRunner:
    """Makes the result of one adaptation from its upload.

    is_busy: whether images wait or are in work, which go first. disconnected: as JobRunner. on_progress: called
    with the share that is done, up to 1, the seconds left if nothing pauses it, and details, as in Record.
    """

    settings: Settings
    store: JobStore
    registry: ModelRegistry
    record: Record
    is_busy: Callable[[], bool]
    disconnected: Disconnected
    on_progress: Callable[[float, float | None, str], None]

    async def run(self) -> Result:
        """Writes the result. Raises ProblemError, StorageAway and OSError."""
        if not self.settings.adapt:
            raise AdaptOff
        params = AdaptParams.model_validate_json(self.record.params)
        leaving = asyncio.ensure_future(self.disconnected())
        try:
            async with contextmanager_in_threadpool(work_folder()) as work:
                task = await to_thread.run_sync(self._prepare, work, params, leaving)
                outcome = await self._train(task, work, leaving)
                return await to_thread.run_sync(self._pack, work, outcome)
        finally:
            leaving.cancel()

    def _prepare(self, work: Path, params: AdaptParams, leaving: "asyncio.Future[object]") -> AdaptTask:
        """Unpacks the upload. Raises Cancelled, UploadLost, and what unpack_zip and ModelRegistry.copy raise."""

        def check() -> None:
            if leaving.done():
                raise Cancelled

        shots = work / "shots"
        shots.mkdir()
        limits = (self.settings.max_batch_files, self.settings.adapt_bytes, "adapt_bytes")
        try:
            with self.store.open_upload(self.record) as file:
                unpack_zip(file, shots, *limits, check)
        except FileNotFoundError as error:
            raise UploadLost(LOST) from error
        shots = _without_outer_folder(shots)
        start = params.start
        if start != "auto":
            start = f"{start}{SUFFIX}"
            self.registry.copy(params.start, work / start)
        (work / STOPPED).write_text("0")
        return AdaptTask(
            work=str(work),
            shots=str(shots.relative_to(work)),
            name=params.name,
            minutes=params.minutes or self.settings.adapt_minutes,
            kind=params.kind,
            start=start,
            seed=params.seed,
            threads=self.settings.adapt_threads,
            memory=self.settings.adapt_memory,
            parent=os.getpid(),
        )

    async def _train(self, task: AdaptTask, work: Path, leaving: "asyncio.Future[object]") -> dict[str, Any]:
        """Runs the process. Raises Cancelled, NotLearnable, TooMuchMemoryToTrain and TrainingEnded."""
        with (work / ERRORS).open("wb") as errors:
            # Not by asyncio, which loses the exit code if a signal is sent at the end. And not in a thread: the
            # process ends with the thread that started it.
            process = subprocess.Popen(
                command(task),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                # A process group of its own, which Ctrl-C does not reach.
                start_new_session=True,
                env=environment(task.threads),
            )
        training = Training(process, work / STOPPED, task.minutes, self.is_busy, self.on_progress)
        try:
            await training.run(leaving)
        finally:
            process.kill()
            with CancelScope(shield=True):
                await to_thread.run_sync(process.wait)
            assert process.stdout
            process.stdout.close()
        return await to_thread.run_sync(self._outcome, work, process.returncode)

    def _outcome(self, work: Path, code: int | None) -> dict[str, Any]:
        try:
            outcome: dict[str, Any] = json.loads((work / OUTCOME).read_text())
        except (FileNotFoundError, ValueError):
            words = (work / ERRORS).read_bytes()[-LOGGED_BYTES:].decode(errors="replace")
            log.error("training process ended", code=code, errors=words)
            how = signal.Signals(-code).name if code and code < 0 else f"exit code {code}"
            raise TrainingEnded(
                f"The process that trained ended with {how}. The log of the service has the reason."
            ) from None
        if "text" not in outcome:
            return outcome
        failure = Failure(**outcome)
        if failure.kind == "memory":
            limit = self.settings.adapt_memory
            raise TooMuchMemoryToTrain(
                f"The training needs more than {limit} bytes of memory. Send fewer or smaller shots.",
                "adapt_memory",
            )
        raise NotLearnable(failure.text, failure.report)

    def _pack(self, work: Path, outcome: dict[str, Any]) -> Result:
        """Writes the zip as the job's result."""
        packed = work / "result.zip"
        with ZipFile(packed, "w", ZIP_DEFLATED) as archive:
            for file in sorted((work / RESULTS).iterdir()):
                archive.write(file, file.name)
        with packed.open("rb") as source, self.store.result_file(self.record) as result:
            digest = _copy(source, result)
        return Result(
            self.record.name,
            MEDIA_TYPE,
            "{}",
            digest,
            packed.stat().st_size,
            json.dumps({"stage": None, **outcome}),
        )


@dataclass
class Training:
    """The process that trains, which is stopped while images wait or are in work. stopped: see adapt_process."""

    process: "subprocess.Popen[bytes]"
    stopped: Path
    minutes: float
    is_busy: Callable[[], bool]
    on_progress: Callable[[float, float | None, str], None]
    stage: str = "examining"
    done: float = 0.0
    gain: float | None = None
    paused: bool = False
    # Set by the first line: then the process ends with the service, even while it is stopped.
    ready: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, leaving: "asyncio.Future[object]") -> None:
        """Returns when the process closes its output. Raises Cancelled."""
        reading = asyncio.create_task(self._read())
        pausing = asyncio.create_task(self._pause())
        try:
            waited: set[asyncio.Future[Any]] = {reading, pausing, leaving}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if leaving.done():
                raise Cancelled
            for each in (pausing, reading):
                if each.done():
                    each.result()
        finally:
            reading.cancel()
            pausing.cancel()
            await asyncio.gather(reading, pausing, return_exceptions=True)

    async def _read(self) -> None:
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, self.process.stdout)
        with closing(transport):
            await self._read_lines(reader)

    async def _read_lines(self, reader: asyncio.StreamReader) -> None:
        async for line in reader:
            self.ready.set()
            said = json.loads(line)
            self.stage, self.done, self.gain = said["stage"], said["done"], said["gain"]
            self._tell()

    async def _pause(self) -> None:
        """Stops the process while images wait or are in work. Its minutes stand still meanwhile."""
        seconds = 0.0
        await self.ready.wait()
        while True:
            while not self.is_busy():
                await asyncio.sleep(POLL_SECONDS)
            began = quiet_since = time.monotonic()
            self._signal(signal.SIGSTOP)
            while time.monotonic() < quiet_since + QUIET_SECONDS:
                await asyncio.sleep(POLL_SECONDS)
                if self.is_busy():
                    quiet_since = time.monotonic()
            seconds += time.monotonic() - began
            # Before it goes on, so that it never sees the time without the pause.
            await to_thread.run_sync(self.stopped.write_text, str(seconds))
            self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)
        self.paused = number == signal.SIGSTOP
        self._tell()

    def _tell(self) -> None:
        names = list(STAGES)
        first, last = STAGES[self.stage], STAGES[names[names.index(self.stage) + 1]]
        training = 60 * self.minutes
        left = {"training": (1 - self.done) * training, "judging": None}.get(self.stage, training)
        share = first + self.done * (last - first)
        details = {"stage": self.stage, "paused": self.paused, "gain": self.gain}
        self.on_progress(share, left, json.dumps(details))


def _without_outer_folder(folder: Path) -> Path:
    """The folder in which the shots lie: a zip of a folder often holds that folder alone."""
    while len(found := list(folder.iterdir())) == 1 and found[0].is_dir():
        folder = found[0]
    return folder


def _copy(source: BinaryIO, target: BinaryIO) -> str:
    """Copies a file. Returns the SHA-256 of its bytes."""
    digest = hashlib.sha256()
    while chunk := source.read(CHUNK):
        digest.update(chunk)
        target.write(chunk)
    return digest.hexdigest()
