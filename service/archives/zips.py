"""Zips, in and out: read without trust in what they say of themselves, and written while they are sent."""

import re
import stat
import time
import zlib
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import IO
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from anyio import to_thread

from service.problems import ClientError
from service.runtime.upload import FIELD, BodyTooLarge

MEDIA_TYPE = "application/zip"
# What one is called that is answered.
NAME = "denoised.zip"
# What is unpacked, or sent, at once, in bytes.
PIECE = 2**18
# zipfile reads a zip's directory in one piece: of each file 46 bytes, its name, and what else its writer tells.
_DIRECTORY_BYTES = 1024
# Before each file, without its name.
_HEADER_BYTES = 30
_SIGNATURES = (b"PK\3\4", b"PK\5\6", b"PK\7\b")
_ENCRYPTED, _UTF8 = 0x1, 0x800
# What macOS puts beside the files of a zip.
_NO_FILES = re.compile(r"__MACOSX/|(.*/)?\.DS_Store$")
_LONGEST_NAME = 1000
# That a file in a zip can have: year to second.
_FIRST_TIME, _LAST_TIME = (1980, 1, 1, 0, 0, 0), (2107, 12, 31, 23, 59, 58)
# C0, C1, what turns the direction of writing, and what UTF-8 cannot hold.
_UNPRINTED = re.compile("[\0-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_DRIVE = re.compile("^([A-Za-z]):")


class BrokenBatch(ClientError):
    """An upload that cannot be taken apart."""


class BrokenEntry(ClientError):
    """A file in a zip that cannot be unpacked, or is not what the zip says of it."""


class BadName(ClientError):
    """A name that leads out of the folder that it is unpacked in, or shows as something else than it is."""


class BatchTooLarge(ClientError):
    """More files than are taken, or more bytes once they are unpacked."""

    status = 413


class NotOpened(ClientError):
    """What is in a zip and no plain file, or in a way that is not unpacked."""

    status = 415


@dataclass(frozen=True)
class Entry:
    """A file of a batch, by the name that it came with.

    read: gives its bytes, or raises ClientError saying why there are none; for a thread, and one at a time.
    """

    name: str
    read: Callable[[], bytes]


def begins_zip(data: bytes) -> bool:
    """Whether they are a zip's first bytes."""
    return data.startswith(_SIGNATURES)


def refuse_zip(data: bytes) -> None:
    """Raises NotOpened for a file of a batch that is a zip itself."""
    if begins_zip(data):
        raise NotOpened("This is a zip among other files or in a zip, which is not opened; taken are images.")


def unpacked(file: IO[bytes], max_files: int, max_total: int, max_bytes: int) -> list[Entry]:
    """The files of a zip in the order of its directory, less those that macOS adds.

    max_total: bytes of all; max_bytes: of each. Raises BrokenBatch or BatchTooLarge, for the zip as a whole.
    """
    try:
        archive = ZipFile(_Guarded(file, max_files))
    except BatchTooLarge:
        raise
    # Beside BadZipFile there are UnicodeDecodeError, NotImplementedError, struct.error and what reading raises.
    except Exception as error:
        raise BrokenBatch(
            f"The zip is broken, cut short or none: {error}; taken are zips, and forms with files as {FIELD!r}."
        ) from error
    infos = archive.infolist()
    _refuse_lies(infos, archive.start_dir)
    names = {info: _slashed(_name(info)) for info in infos}
    files = [info for info in infos if not names[info].endswith("/") and not _NO_FILES.match(names[info])]
    if not files:
        raise BrokenBatch("There is no image in the zip.")
    if len(files) > max_files:
        raise BatchTooLarge(f"The zip has {len(files)} files; at most {max_files} are taken.")
    if (total := sum(info.file_size for info in files)) > max_total:
        raise BatchTooLarge(f"The zip's files have {total} bytes, unpacked; at most {max_total} are taken.")
    return [Entry(names[info], partial(_unpack, archive, info, max_bytes)) for info in files]


class _Guarded:
    """A zip's file that does not give its directory in one piece, if that is larger than so many files need."""

    def __init__(self, file: IO[bytes], max_files: int) -> None:
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable
        self._file, self._max_files = file, max_files

    def read(self, size: int = -1) -> bytes:
        """Raises BatchTooLarge."""
        if size > max(self._max_files * _DIRECTORY_BYTES, PIECE):
            raise BatchTooLarge(
                f"The zip's directory has {size} bytes, more than for {self._max_files} files, which are taken."
            )
        return self._file.read(size)


def _refuse_lies(infos: Sequence[ZipInfo], end_of_files: int) -> None:
    """A zip whose files share bytes unpacks to far more than it holds, however little each of them unpacks to."""
    end = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        if info.header_offset < end:
            raise BrokenBatch(
                f"The zip is broken: a file begins at byte {info.header_offset}; the first that is free is {end}."
            )
        end = info.header_offset + _HEADER_BYTES + info.compress_size
    if end > end_of_files:
        raise BrokenBatch(f"The zip is broken: a file ends at byte {end}, the files at {end_of_files}.")


def _name(info: ZipInfo) -> str:
    """As it was written: a zip's writer may not have said that it is UTF-8, as on macOS."""
    name = info.orig_filename
    if info.flag_bits & _UTF8:
        return name
    try:
        return name.encode("cp437").decode("utf-8")
    except UnicodeError:
        return name


def _unpack(archive: ZipFile, info: ZipInfo, max_bytes: int) -> bytes:
    _refuse_unopened(info)
    if info.file_size > max_bytes:
        raise BodyTooLarge(f"The file has {info.file_size} bytes, unpacked; at most {max_bytes} are taken.")
    file = BytesIO()
    try:
        with archive.open(info) as packed:
            # In pieces, each of which is checked against the size that was told: asked for all, zipfile unpacks
            # all, and cuts then.
            while piece := packed.read(PIECE):
                file.write(piece)
    except (BadZipFile, EOFError, RuntimeError, ValueError, zlib.error) as error:
        raise BrokenEntry(f"The file cannot be unpacked: {error or type(error).__name__}") from error
    if file.tell() != info.file_size:
        raise BrokenEntry(f"The file has {file.tell()} bytes, unpacked; the zip says {info.file_size}.")
    data = file.getvalue()
    refuse_zip(data)
    return data


def _refuse_unopened(info: ZipInfo) -> None:
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
        raise NotOpened("This is a link or a device, and no file; taken are images.")
    if info.flag_bits & _ENCRYPTED:
        raise NotOpened("The file is encrypted; taken are files that are not.")
    if info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        raise NotOpened(
            f"The file is packed by the method {info.compress_type}; taken are {ZIP_STORED}, stored, and "
            f"{ZIP_DEFLATED}, deflated."
        )


def refuse_tricks(name: str) -> None:
    """Raises BadName for one that would not stay in the folder that it is unpacked in, as `safe` makes of it."""
    path = _slashed(name)
    if path.startswith("/") or _DRIVE.match(path) or ".." in path.split("/"):
        raise BadName(f"The name {name[:200]!r} leads out of its folder; taken are names within it.")
    if _UNPRINTED.search(path) or len(path) > _LONGEST_NAME:
        raise BadName(
            f"The name {name[:200]!r} of {len(name)} characters has some that control how it shows, or too many; "
            f"taken are {_LONGEST_NAME} without them."
        )


def safe(name: str) -> str:
    """A name within its folder and not empty, whatever came."""
    parts = _UNPRINTED.sub("_", _slashed(name)[-_LONGEST_NAME:]).split("/")
    path = "/".join(part for part in parts if part not in ("", ".", ".."))
    return _DRIVE.sub(r"\1_", path) or "image"


def _slashed(name: str) -> str:
    """Windows' way of writing paths gets into zips too."""
    return name.replace("\\", "/")


@dataclass(frozen=True)
class Result:
    """A file that goes into a zip. comment: what is told of it there."""

    name: str
    data: bytes
    comment: str = ""


async def packed(results: AsyncGenerator[Result, None]) -> AsyncGenerator[bytes, None]:
    """A zip, in pieces, as its files come; at most one of them is kept, until it is taken away.

    Its directory is its last piece: where `results` end in an error this does too, and what there was of it is no
    zip. Closes `results`.
    """
    sent = _Window()
    # At its end the directory is written, after an error too: but then it is not sent.
    with ZipFile(sent, "w") as archive:
        async with aclosing(results):
            while await _add_next(archive, results):
                for piece in sent.pieces():
                    yield piece
    for piece in sent.pieces():
        yield piece


async def _add_next(archive: ZipFile, results: AsyncGenerator[Result, None]) -> bool:
    """Adds the next file, which nothing here keeps. False: there is none."""
    try:
        result = await anext(results)
    except StopAsyncIteration:
        return False
    # In a thread: its checksum takes a while.
    await to_thread.run_sync(archive.writestr, _info(result), result.data)
    return True


def _info(result: Result) -> ZipInfo:
    # A machine without a clock of its own may begin in 1970, for which zips have no room.
    info = ZipInfo(result.name, min(max(_FIRST_TIME, time.localtime()[:6]), _LAST_TIME))
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    info.comment = result.comment.encode()
    return info


class _Window(BytesIO):
    """The end of a file: what of it is not taken away yet, at its place in the whole.

    Each file's header is written again once its checksum is known. If it could not be, the checksum would come
    after the file, and who unpacks a zip while it arrives could not tell where the file ends.
    """

    _taken = 0

    def tell(self) -> int:
        return self._taken + super().tell()

    def seek(self, offset: int, whence: int = 0) -> int:
        """whence: 0, as zipfile has it."""
        return self._taken + super().seek(offset - self._taken, whence)

    def pieces(self) -> Iterator[bytes]:
        """Take it away."""
        whole = self.getvalue()
        super().seek(0)
        self.truncate()
        self._taken += len(whole)
        for at in range(0, len(whole), PIECE):
            yield whole[at : at + PIECE]
