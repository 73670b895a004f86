"""Job runner: makes a job's result, an image or a zip of many, as /denoise and /denoise/batch answer them."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass
from io import BufferedReader
from pathlib import PurePosixPath
from typing import BinaryIO, cast

from anyio import to_thread
from fastapi import Request
from fastapi.concurrency import contextmanager_in_threadpool

from engine.imageio.formats import FORMATS, SAME, Format, suffix_of
from engine.imageio.sandbox.shared_file import SharedFile
from service.archives.batch import denoise_batch
from service.archives.upload import read_entries, starts_as_zip, store_upload
from service.archives.zip_reader import safe_name
from service.archives.zip_writer import MEDIA_TYPE, NAME, write_zip
from service.auth.rate_limit import Charge
from service.jobs.records import LOST, Record, Result
from service.jobs.store import JobStore
from service.params import DenoiseParams
from service.problems import ProblemError
from service.registry.snapshot import Snapshot
from service.runtime.body import BodyTooLarge
from service.runtime.form import Part
from service.runtime.parameters import with_fields
from service.runtime.pipeline import Pipeline, refuse_unknown
from service.runtime.scheduler import Disconnected
from service.runtime.ticket import MemoryShare
from service.runtime.upload import ImageSource
from service.settings import Settings


class UploadLost(ProblemError):
    """A job whose upload is missing."""

    status = 500


@dataclass(frozen=True)
class JobUpload:
    """A stored upload. name: of the result. parts: the files of a batch, as JSON; an empty list for an image.

    params: those of the query together with those in the fields of the form. bytes: of all files.
    """

    name: str
    parts: str
    params: DenoiseParams
    bytes: int


async def store_job_upload(
    request: Request, file: BinaryIO, params: DenoiseParams, settings: Settings, models: Snapshot
) -> JobUpload:
    """Writes the upload to `file`, which is empty. params: those of the query.

    Raises what store_upload, with_fields, refuse_unknown and read_entries raise, and BodyTooLarge.
    """
    stored = await store_upload(request, file, settings)
    params = with_fields(params, request, stored.fields)
    refuse_unknown(params, models)
    parts, size = stored.parts, await to_thread.run_sync(file.tell)
    if await to_thread.run_sync(_is_batch, file, parts):
        # Refuses a broken zip at once.
        await to_thread.run_sync(read_entries, file, parts, settings)
        return JobUpload(NAME, json.dumps([asdict(part) for part in parts]), params, size)
    only = parts[0]
    if only.size > settings.max_bytes:
        raise BodyTooLarge(
            f"The image has {only.size} bytes; at most {settings.max_bytes} are allowed.", "max_bytes"
        )
    name = PurePosixPath(safe_name(only.name or "image")).name
    name = name if params.target == SAME else with_suffix(name, FORMATS[params.target])
    return JobUpload(name, "[]", params, size)


def fingerprint(file: BinaryIO, upload: JobUpload) -> str:
    """A digest that is equal for equal requests, however their forms are written. file: the stored upload."""
    file.seek(0)
    content = hashlib.file_digest(cast(BufferedReader, file), "sha256").hexdigest()
    parts = (upload.name, upload.parts, upload.params.model_dump_json(), content)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _is_batch(file: BinaryIO, parts: Sequence[Part]) -> bool:
    return len(parts) > 1 or starts_as_zip(file)


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


def with_suffix(name: str, kind: Format) -> str:
    """The file's name with the format's suffix, unless it has one already."""
    path = PurePosixPath(name)
    return name if path.suffix.lower() in kind.suffixes else f"{path.stem}{suffix_of(kind)}"
