"""Job runner: makes a job's result, an image or a zip of many, as /denoise and /denoise/batch answer them."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import BinaryIO

from anyio import to_thread
from fastapi.concurrency import contextmanager_in_threadpool

from engine.imageio.sandbox.shared_file import SharedFile
from service.archives.batch import denoise_batch
from service.archives.upload import read_entries
from service.archives.zip_writer import MEDIA_TYPE, NAME, write_zip
from service.auth.rate_limit import Charge
from service.jobs.records import LOST, Record, Result
from service.jobs.store import JobStore
from service.jobs.submission import with_suffix
from service.params import DenoiseParams
from service.problems import ProblemError
from service.runtime.form import Part
from service.runtime.pipeline import Pipeline
from service.runtime.scheduler import Disconnected
from service.runtime.ticket import MemoryShare
from service.runtime.upload import ImageSource
from service.settings import Settings


class UploadLost(ProblemError):
    """A job whose upload is missing."""

    status = 500


@dataclass(frozen=True)
class JobRunner:
    """Makes one job's result from its upload.

    disconnected: as Scheduler.admit; nobody wants the job any more. charge: as Pipeline.denoise. on_progress:
    called with the share that is done, up to 1.
    """

    pipeline: Pipeline
    settings: Settings
    store: JobStore
    record: Record
    disconnected: Disconnected
    charge: Charge
    on_progress: Callable[[float], None]

    async def run(self) -> Result:
        """Writes the result. Raises what Pipeline.denoise raises, UploadLost, StorageAway and OSError."""
        parts = [Part(**part) for part in json.loads(self.record.parts)]
        params = DenoiseParams.model_validate_json(self.record.params)
        try:
            async with contextmanager_in_threadpool(self.store.open_upload(self.record)) as file:
                return await (self._batch(file, parts, params) if parts else self._image(file, params))
        except FileNotFoundError as error:
            raise UploadLost(LOST) from error

    async def _image(self, file: BinaryIO, params: DenoiseParams) -> Result:
        source = ImageSource.of(SharedFile(file.fileno(), os.fstat(file.fileno()).st_size))
        with MemoryShare() as memory:
            denoised = await self.pipeline.denoise(
                source, params, memory, self.disconnected, self.charge, self.on_progress
            )
            data, kind = denoised.written.data, denoised.written.kind
            async with contextmanager_in_threadpool(self.store.result_file(self.record)) as result:
                await to_thread.run_sync(result.write, data)
            digest = await to_thread.run_sync(lambda: hashlib.sha256(data).hexdigest())
        name = with_suffix(self.record.name, kind)
        return Result(name, kind.media_type, json.dumps(denoised.headers), digest, len(data))

    async def _batch(self, file: BinaryIO, parts: Sequence[Part], params: DenoiseParams) -> Result:
        entries = await to_thread.run_sync(read_entries, file, parts, self.settings)
        members = denoise_batch(self.pipeline, entries, params, self.disconnected, self.charge, self.on_progress)
        digest, size = hashlib.sha256(), 0
        writing = contextmanager_in_threadpool(self.store.result_file(self.record))
        async with writing as result, aclosing(write_zip(members)) as chunks:
            async for chunk in chunks:
                await to_thread.run_sync(result.write, chunk)
                digest.update(chunk)
                size += len(chunk)
        return Result(NAME, MEDIA_TYPE, "{}", digest.hexdigest(), size)
