"""A batch's upload: written to a file as it arrives, and read back from there one image at a time.

It is a form whose file field `image` comes once for each image, or a zip: as the whole body, or as the only file
of the form.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import IO

from anyio import to_thread
from fastapi import Request

from engine.imageio.sandbox.shared_file import SharedFile, read_only
from service.archives.zip_reader import (
    SIGNATURE_BYTES,
    BatchTooLarge,
    Entry,
    is_zip,
    read_zip,
    refuse_zip,
)
from service.problems import ProblemError
from service.runtime.body import BodyLimit, BodyTooLarge, counted
from service.runtime.form import HEAD_BYTES, Form, Part, is_form, refuse_unannounced_form
from service.runtime.upload import ImageSource
from service.settings import Settings


class NoRoom(ProblemError):
    """A disk that is full."""

    status = 507


@dataclass(frozen=True)
class StoredUpload:
    """Where the files of an upload lie in the stored upload, and the text fields of its form."""

    parts: tuple[Part, ...]
    fields: Mapping[str, str]


async def store_upload(request: Request, file: IO[bytes], settings: Settings) -> StoredUpload:
    """Writes the upload to `file`, which is empty, as it arrives. `read_entries` reads it at any later time.

    Raises NoRoom, BatchTooLarge, and what `counted` and Form raise.
    """
    body = counted(request, BodyLimit.of(settings, "max_batch_bytes"))
    max_files = settings.max_batch_files
    too_many = BatchTooLarge(f"The form has more than {max_files} files, the limit.", "max_batch_files")
    form = Form(request.headers["content-type"], max_files, too_many) if is_form(request) else None
    size, head = 0, b""
    try:
        async for chunk in body.stream():
            head += chunk[: HEAD_BYTES - len(head)]
            data = form.feed(chunk) if form else chunk
            size += len(data)
            if data:
                await to_thread.run_sync(file.write, data)
        await to_thread.run_sync(file.flush)
    except OSError as error:
        raise NoRoom(f"The batch cannot be stored: {error.strerror}.") from error
    if form:
        return StoredUpload(form.finish(), form.fields)
    refuse_unannounced_form(request.headers.get("content-type"), head)
    return StoredUpload((Part(None, 0, size),), {})


def read_entries(file: IO[bytes], parts: Sequence[Part], settings: Settings) -> list[Entry]:
    """The files of a stored upload, in order. Call it in a thread, because it reads a zip's directory.

    file: what `store_upload` wrote; it has to stay open until the last entry is read.
    Raises BrokenBatch or BatchTooLarge.
    """
    first = parts[0]
    if first.name is None or (len(parts) == 1 and starts_as_zip(file)):
        return read_zip(file, settings.max_batch_files, settings.max_batch_bytes, settings.max_bytes)
    return [
        Entry(part.name or "", ImageSource(partial(_open_part, file, part, settings.max_bytes))) for part in parts
    ]


def starts_as_zip(file: IO[bytes]) -> bool:
    """Whether a stored upload is a zip, or a form whose first file is one."""
    file.seek(0)
    return is_zip(file.read(SIGNATURE_BYTES))


@contextmanager
def _open_part(file: IO[bytes], part: Part, max_bytes: int) -> Iterator[SharedFile]:
    if part.size > max_bytes:
        raise BodyTooLarge(f"The file has {part.size} bytes; at most {max_bytes} are allowed.", "max_bytes")
    with read_only(file, part.start, part.size) as opened:
        refuse_zip(opened)
        yield opened
