"""What is made of a job's upload: an image, or a zip of many, as /denoise and /denoise/batch answer them."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from anyio import to_thread
from fastapi import Request
from fastapi.concurrency import contextmanager_in_threadpool

from engine.imageio.formats import FORMATS, SAME, Format, suffix_of
from engine.imageio.sandbox.shared_file import SharedFile
from engine.system.atomic_file import atomic, write_atomically
from service.archives.batch import denoise_batch
from service.archives.multipart import Part, read_entries, starts_as_zip, store_upload
from service.archives.zip_reader import safe_name
from service.archives.zip_writer import MEDIA_TYPE, NAME, write_zip
from service.jobs.store import LOST, Record, Result
from service.params import DenoiseParams
from service.problems import ClientError
from service.runtime.pipeline import Denoiser
from service.runtime.scheduler import Disconnected
from service.runtime.ticket import MemoryShare
from service.runtime.upload import BodyTooLarge, ImageSource
from service.settings import Settings

# Files of the spool are nobody else's to read.
PRIVATE = 0o600


class UploadLost(ClientError):
    """A job whose upload has gone from the spool."""

    status = 500


async def taken(request: Request, file: BinaryIO, params: DenoiseParams, settings: Settings) -> tuple[str, str]:
    """Writes the upload into `file`, an empty one: what the result is called, and the files of a batch, as JSON.

    Raises what `spooled` and `entries` raise, and BodyTooLarge.
    """
    parts = await store_upload(request, file, settings)
    if await to_thread.run_sync(_is_batch, file, parts):
        # A zip that is none is refused at once.
        await to_thread.run_sync(read_entries, file, parts, settings)
        return NAME, json.dumps([asdict(part) for part in parts])
    only = parts[0]
    if only.size > settings.max_bytes:
        raise BodyTooLarge(f"The image has {only.size} bytes; at most {settings.max_bytes} are allowed.")
    name = PurePosixPath(safe_name(only.name or "image")).name
    return name if params.target == SAME else named(name, FORMATS[params.target]), "[]"


def _is_batch(file: BinaryIO, parts: Sequence[Part]) -> bool:
    return len(parts) > 1 or starts_as_zip(file)


@dataclass(frozen=True)
class JobRunner:
    """What it takes to make a job's result of its upload.

    disconnected: as Scheduler.turn. charge: as Denoiser.file. told: called with the share that is done, up to 1.
    """

    denoiser: Denoiser
    record: Record
    upload: Path
    result: Path
    disconnected: Disconnected
    charge: Callable[[int], None]
    told: Callable[[float], None]

    async def make(self) -> Result:
        """The result is then in its place. Raises what Denoiser.file raises, UploadLost and OSError."""
        parts = [Part(**part) for part in json.loads(self.record.parts)]
        params = DenoiseParams.model_validate_json(self.record.params)
        try:
            with self.upload.open("rb") as file:
                return await (self._batch(file, parts, params) if parts else self._image(file, params))
        except FileNotFoundError as error:
            raise UploadLost(LOST) from error

    async def _image(self, file: BinaryIO, params: DenoiseParams) -> Result:
        source = ImageSource.of(SharedFile(file.fileno(), os.fstat(file.fileno()).st_size))
        with MemoryShare() as memory:
            made = await self.denoiser.file(source, params, memory, self.disconnected, self.charge, self.told)
            data, kind = made.written.data, made.written.kind
            await to_thread.run_sync(write_atomically, self.result, data, PRIVATE)
            digest = await to_thread.run_sync(lambda: hashlib.sha256(data).hexdigest())
        return Result(named(self.record.name, kind), kind.media_type, json.dumps(made.headers), digest)

    async def _batch(self, file: BinaryIO, parts: Sequence[Part], params: DenoiseParams) -> Result:
        batch = await to_thread.run_sync(read_entries, file, parts, self.denoiser.settings)
        digest = hashlib.sha256()
        results = denoise_batch(self.denoiser, batch, params, self.disconnected, self.charge, self.told)
        whole = contextmanager_in_threadpool(atomic(self.result, PRIVATE))
        async with whole as zip_, aclosing(write_zip(results)) as pieces:
            async for piece in pieces:
                await to_thread.run_sync(zip_.write, piece)
                digest.update(piece)
        return Result(NAME, MEDIA_TYPE, "{}", digest.hexdigest())


def named(name: str, kind: Format) -> str:
    """The file's name as one of that format has it."""
    path = PurePosixPath(name)
    return name if path.suffix.lower() in kind.suffixes else f"{path.stem}{suffix_of(kind)}"
