"""A batch's upload: written to disk as it arrives, and its files read back one at a time.

It is a form whose file field `image` comes once for each image, or a zip: as the raw body, or as the only file
of the form.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import IO

from anyio import to_thread
from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.archives.zips import (
    BatchTooLarge,
    BrokenBatch,
    Entry,
    begins_zip,
    refuse_zip,
    unpacked,
)
from service.problems import ProblemError
from service.runtime.upload import FIELD, BodyTooLarge, WrongField, counted, is_form
from service.settings import Settings


class NoRoom(ProblemError):
    """A disk that is full."""

    status = 507


@dataclass(frozen=True)
class Part:
    """Where a file of the upload lies in the spool, in bytes. name: None for a body that is no form."""

    name: str | None
    start: int
    size: int


async def spooled(request: Request, spool: IO[bytes], settings: Settings) -> tuple[Part, ...]:
    """Write the upload into `spool`, an empty file, as it arrives, and tell where its files lie there.

    Whoever keeps both can read them at any later time, with `entries`.
    Raises BodyTooLarge, BatchTooLarge, WrongField, BrokenBatch or NoRoom.
    """
    body = counted(request, settings.max_batch_bytes)
    form = _Form(request.headers["content-type"], settings.max_batch_files) if is_form(request) else None
    size = 0
    try:
        async for chunk in body.stream():
            data = form.files_in(chunk) if form else chunk
            size += len(data)
            if data:
                await to_thread.run_sync(spool.write, data)
        await to_thread.run_sync(spool.flush)
    except OSError as error:
        raise NoRoom(f"The batch cannot be kept while it arrives: {error.strerror}.") from error
    return form.whole() if form else (Part(None, 0, size),)


def entries(spool: IO[bytes], parts: Sequence[Part], settings: Settings) -> list[Entry]:
    """The files of an upload, in the order in which they came; for a thread, since it reads a zip's directory.

    spool: what `spooled` wrote, to stay open until the last of them is read. Raises BrokenBatch or BatchTooLarge.
    """
    only = parts[0]
    if only.name is None or (len(parts) == 1 and begins_zip(_start(spool))):
        return unpacked(spool, settings.max_batch_files, settings.max_batch_bytes, settings.max_bytes)
    return [Entry(part.name or "", partial(_read, spool, part, settings.max_bytes)) for part in parts]


def _start(spool: IO[bytes]) -> bytes:
    spool.seek(0)
    return spool.read(4)


def _read(spool: IO[bytes], part: Part, max_bytes: int) -> bytes:
    if part.size > max_bytes:
        raise BodyTooLarge(f"The file has {part.size} bytes; at most {max_bytes} are taken.")
    spool.seek(part.start)
    data = spool.read(part.size)
    refuse_zip(data)
    return data


class _Form:
    """Takes a form apart while it arrives, and keeps nothing of it but where its files will lie.

    Starlette's own parser keeps files up to 1 MiB in memory, and larger ones open: a batch has too many of both.
    """

    def __init__(self, content_type: str, max_files: int) -> None:
        self._max_files = max_files
        self._parts: list[Part] = []
        self._others: set[str] = set()
        self._size = 0
        self._data = bytearray()
        self._header, self._value, self._disposition = bytearray(), bytearray(), b""
        self._taken = self._ended = False
        boundary = parse_options_header(content_type)[1].get(b"boundary")
        if not boundary:
            raise BrokenBatch("The form cannot be taken apart: its Content-Type tells no boundary.")
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
                    "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._begin_part,
                    "on_part_data": self._take,
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            raise BrokenBatch(f"The form cannot be taken apart: {error}.") from error

    def files_in(self, chunk: bytes) -> bytes:
        """What of the next bytes belongs to files. Raises WrongField, BatchTooLarge or BrokenBatch."""
        self._data = bytearray()
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise BrokenBatch(f"The form cannot be taken apart: {error}.") from error
        return bytes(self._data)

    def whole(self) -> tuple[Part, ...]:
        """Its files. Raises BrokenBatch if its end has not come, WrongField if it has none."""
        if not self._ended:
            raise BrokenBatch("The form is cut short: the boundary at its end has not come.")
        if not self._parts:
            among = ", ".join(sorted(self._others)) or "nothing"
            raise WrongField(f"Images are taken from the file field {FIELD!r}, and those that came are: {among}.")
        return tuple(self._parts)

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _begin_part(self) -> None:
        told = parse_options_header(self._disposition)[1]
        self._disposition = b""
        field = told.get(b"name", b"").decode("utf-8", "replace")
        self._taken = field == FIELD
        if not self._taken:
            # As many as there is room for in a sentence.
            self._others |= {field[:100]} if len(self._others) < 10 else set()
            return
        if b"filename" not in told:
            raise WrongField(f"Images are taken from the file field {FIELD!r}, which came as text.")
        if len(self._parts) == self._max_files:
            raise BatchTooLarge(f"More than {self._max_files} files came, which are taken at most.")
        self._parts.append(Part(told[b"filename"].decode("utf-8", "replace"), self._size, 0))

    def _take(self, data: bytes, start: int, end: int) -> None:
        if self._taken:
            self._data += data[start:end]
            self._size += end - start
            self._parts[-1] = replace(self._parts[-1], size=self._size - self._parts[-1].start)

    def _end(self) -> None:
        self._ended = True
