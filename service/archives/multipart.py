"""A batch's upload: written to a file as it arrives, and read back from there one image at a time.

It is a form whose file field `image` comes once for each image, or a zip: as the whole body, or as the only file
of the form.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import IO

from anyio import to_thread
from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from engine.imageio.sandbox.shared_file import SharedFile, read_only
from service.archives.zip_reader import (
    SIGNATURE_BYTES,
    BatchTooLarge,
    BrokenBatch,
    Entry,
    is_zip,
    read_zip,
    refuse_zip,
)
from service.problems import ProblemError
from service.runtime.upload import FIELD, BodyTooLarge, ImageSource, WrongField, counted, is_form
from service.settings import Settings


class NoRoom(ProblemError):
    """A disk that is full."""

    status = 507


@dataclass(frozen=True)
class Part:
    """Where a file of the upload lies in the stored upload, in bytes. name: None for a body that is no form."""

    name: str | None
    start: int
    size: int


async def store_upload(request: Request, file: IO[bytes], settings: Settings) -> tuple[Part, ...]:
    """Writes the upload to `file`, which is empty, as it arrives. Returns where the upload's files lie in it.

    `read_entries` reads them at any later time.
    Raises BodyTooLarge, BatchTooLarge, WrongField, BrokenBatch or NoRoom.
    """
    body = counted(request, settings.max_batch_bytes)
    form = _Form(request.headers["content-type"], settings.max_batch_files) if is_form(request) else None
    size = 0
    try:
        async for chunk in body.stream():
            data = form.feed(chunk) if form else chunk
            size += len(data)
            if data:
                await to_thread.run_sync(file.write, data)
        await to_thread.run_sync(file.flush)
    except OSError as error:
        raise NoRoom(f"The batch cannot be stored: {error.strerror}.") from error
    return form.finish() if form else (Part(None, 0, size),)


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
        raise BodyTooLarge(f"The file has {part.size} bytes; at most {max_bytes} are allowed.")
    with read_only(file, part.start, part.size) as opened:
        refuse_zip(opened)
        yield opened


class _Form:
    """Parses a form as it arrives. Keeps nothing but where its files lie.

    Starlette's parser keeps files up to 1 MiB in memory and larger ones open: a batch has too many of both.
    """

    def __init__(self, content_type: str, max_files: int) -> None:
        self._max_files = max_files
        self._parts: list[Part] = []
        # The other fields of the form, for an error's text.
        self._other_fields: set[str] = set()
        self._size = 0
        self._data = bytearray()
        self._header = bytearray()
        self._value = bytearray()
        self._disposition = b""
        self._in_image = False
        self._ended = False
        boundary = parse_options_header(content_type)[1].get(b"boundary")
        if not boundary:
            raise BrokenBatch("The form cannot be parsed: its Content-Type has no boundary.")
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
                    "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._begin_part,
                    "on_part_data": self._add_data,
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            raise BrokenBatch(f"The form cannot be parsed: {error}.") from error

    def feed(self, chunk: bytes) -> bytes:
        """Parses the next bytes. Returns those that belong to files of the image field.

        Raises WrongField, BatchTooLarge or BrokenBatch.
        """
        self._data = bytearray()
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise BrokenBatch(f"The form cannot be parsed: {error}.") from error
        return bytes(self._data)

    def finish(self) -> tuple[Part, ...]:
        """Its files. Raises BrokenBatch if the form's end has not come, WrongField if it has no files."""
        if not self._ended:
            raise BrokenBatch("The form is cut short: its final boundary is missing.")
        if not self._parts:
            fields = ", ".join(sorted(self._other_fields)) or "nothing"
            raise WrongField(f"The form's file field {FIELD!r} is missing; the form has: {fields}.")
        return tuple(self._parts)

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _begin_part(self) -> None:
        options = parse_options_header(self._disposition)[1]
        self._disposition = b""
        field = options.get(b"name", b"").decode("utf-8", "replace")
        self._in_image = field == FIELD
        if not self._in_image:
            # A sentence has room for a few.
            self._other_fields |= {field[:100]} if len(self._other_fields) < 10 else set()
            return
        if b"filename" not in options:
            raise WrongField(f"The form's file field {FIELD!r} is text, not a file.")
        if len(self._parts) == self._max_files:
            raise BatchTooLarge(f"The form has more than {self._max_files} files, the limit.")
        self._parts.append(Part(options[b"filename"].decode("utf-8", "replace"), self._size, 0))

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if self._in_image:
            self._data += data[start:end]
            self._size += end - start
            self._parts[-1] = replace(self._parts[-1], size=self._size - self._parts[-1].start)

    def _end(self) -> None:
        self._ended = True
