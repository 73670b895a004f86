"""Zip reader: the files of an uploaded zip, without trust in what the zip says about itself."""

import re
import stat
import zlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import IO
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from engine.imageio.sandbox.shared_file import MemoryFile, SharedFile
from service.problems import LimitExceeded, ProblemError
from service.runtime.body import BodyTooLarge
from service.runtime.form import FIELD
from service.runtime.upload import ImageSource

# How much is unpacked at once, in bytes.
CHUNK = 2**18
# How many of a file's first bytes show whether it is a zip.
SIGNATURE_BYTES = 4
_SIGNATURES = (b"PK\3\4", b"PK\5\6", b"PK\7\b")
# How much of a zip's directory a file may take, in bytes: 46, its name, and what its writer adds. zipfile reads
# the whole directory at once.
_DIRECTORY_BYTES = 1024
# What stands before each file, beside its name, in bytes.
_HEADER_BYTES = 30
# Flags of a file in a zip.
_ENCRYPTED = 0x1
_UTF8 = 0x800
# What macOS adds to the files of a zip.
_NOT_FILES = re.compile(r"__MACOSX/|(.*/)?\.DS_Store$")
# The longest name allowed, in characters.
_MAX_NAME = 1000
# C0 and C1 controls, controls of the direction of writing, and what UTF-8 cannot hold.
_CONTROLS = re.compile("[\0-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_DRIVE = re.compile("^([A-Za-z]):")


class BrokenBatch(ProblemError):
    """An upload that cannot be taken apart."""


class BrokenEntry(ProblemError):
    """A file in a zip that cannot be unpacked, or differs from what the zip says about it."""


class BadName(ProblemError):
    """A file name that points outside its folder, or that is displayed as something else."""


class BatchTooLarge(LimitExceeded):
    """More files than allowed, or more bytes once they are unpacked."""


class NotOpened(ProblemError):
    """What is in a zip but is not a plain file, or is packed in a way that is not supported."""

    status = 415


@dataclass(frozen=True)
class Entry:
    """A file of a batch, and the name that it came with. Open one at a time."""

    name: str
    source: ImageSource


def is_zip(data: bytes) -> bool:
    """Whether a file that begins with these bytes is a zip."""
    return data.startswith(_SIGNATURES)


def refuse_zip(file: SharedFile) -> None:
    """Raises NotOpened for a file of a batch that is itself a zip."""
    if is_zip(file.read(SIGNATURE_BYTES)):
        raise NotOpened(
            "This is a zip inside a zip or among other files, which is not opened. Send images, or one zip."
        )


def read_zip(file: IO[bytes], max_files: int, max_total: int, max_bytes: int) -> list[Entry]:
    """The files of a zip in the order of its directory, without those that macOS adds.

    max_total: bytes of all files together. max_bytes: bytes of each file. Raises BrokenBatch or BatchTooLarge if
    the zip as a whole is refused.
    """
    archive, names = read_directory(file, max_files, max_total)
    return [Entry(name, _source(archive, info, max_bytes)) for info, name in names.items()]


def read_directory(
    file: IO[bytes], max_files: int, max_total: int, setting: str = "max_batch_bytes"
) -> tuple[ZipFile, dict[ZipInfo, str]]:
    """The files of a zip and their names, which may be unsafe, in the order of its directory.

    setting: the limit that max_total comes from. Raises as `read_zip`.
    """
    try:
        archive = ZipFile(_DirectoryGuard(file, max_files))
    except BatchTooLarge:
        raise
    # Beside BadZipFile: UnicodeDecodeError, NotImplementedError, struct.error, and what reading a file raises.
    except Exception as error:
        raise BrokenBatch(
            f"The zip is broken, cut short or not a zip: {error}. Send a zip, or a form with files as {FIELD!r}."
        ) from error
    infos = archive.infolist()
    _refuse_overlaps(infos, archive.start_dir)
    names = {info: _with_slashes(_name(info)) for info in infos}
    files = [info for info in infos if not names[info].endswith("/") and not _NOT_FILES.match(names[info])]
    if not files:
        raise BrokenBatch("There is no image in the zip.")
    if len(files) > max_files:
        raise BatchTooLarge(
            f"The zip has {len(files)} files; at most {max_files} are allowed.", "max_batch_files"
        )
    if (total := sum(info.file_size for info in files)) > max_total:
        raise BatchTooLarge(
            f"The zip's files have {total} bytes, unpacked; at most {max_total} are allowed.", setting
        )
    return archive, {info: names[info] for info in files}


def _source(archive: ZipFile, info: ZipInfo, max_bytes: int) -> ImageSource:
    return ImageSource(partial(_unpack, archive, info, max_bytes), info.file_size)


class _DirectoryGuard:
    """A zip's file. Reading refuses a directory that is larger than max_files files need."""

    def __init__(self, file: IO[bytes], max_files: int) -> None:
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable
        self._file = file
        self._max_files = max_files

    def read(self, size: int = -1) -> bytes:
        """Raises BatchTooLarge."""
        if size > max(self._max_files * _DIRECTORY_BYTES, CHUNK):
            raise BatchTooLarge(
                f"The zip's directory has {size} bytes, too many for {self._max_files} files, the limit.",
                "max_batch_files",
            )
        return self._file.read(size)


def _refuse_overlaps(infos: Sequence[ZipInfo], end_of_files: int) -> None:
    """A zip whose files share bytes unpacks to far more than it holds, however small each of its files is."""
    end = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        if info.header_offset < end:
            raise BrokenBatch(
                f"The zip is broken: a file starts at byte {info.header_offset}, but another ends at byte {end}."
            )
        end = info.header_offset + _HEADER_BYTES + info.compress_size
    if end > end_of_files:
        raise BrokenBatch(
            f"The zip is broken: a file ends at byte {end}, but its directory starts at byte {end_of_files}."
        )


def _name(info: ZipInfo) -> str:
    """The name as it was written. Some writers, such as macOS's, use UTF-8 without saying so."""
    name = info.orig_filename
    if info.flag_bits & _UTF8:
        return name
    try:
        return name.encode("cp437").decode("utf-8")
    except UnicodeError:
        return name


@contextmanager
def _unpack(archive: ZipFile, info: ZipInfo, max_bytes: int) -> Iterator[SharedFile]:
    """The file, unpacked in memory until the block ends."""
    refuse_unsupported(info)
    if info.file_size > max_bytes:
        raise BodyTooLarge(
            f"The file has {info.file_size} bytes, unpacked; at most {max_bytes} are allowed.", "max_bytes"
        )
    with MemoryFile() as unpacked:
        for chunk in unpacked_chunks(archive, info):
            unpacked.write(chunk)
        file = unpacked.seal()
        refuse_zip(file)
        yield file


def unpacked_chunks(archive: ZipFile, info: ZipInfo) -> Generator[bytes, None, None]:
    """The bytes of a file. Raises BrokenEntry."""
    size = 0
    try:
        with archive.open(info) as packed:
            # In chunks, each of which is checked against the announced size. Asked for everything, zipfile would
            # unpack everything, and cut it off then.
            while chunk := packed.read(CHUNK):
                size += len(chunk)
                yield chunk
    except (BadZipFile, EOFError, RuntimeError, ValueError, zlib.error) as error:
        raise BrokenEntry(f"The file cannot be unpacked: {error or type(error).__name__}") from error
    if size != info.file_size:
        raise BrokenEntry(f"The file has {size} bytes, unpacked; the zip says {info.file_size}.")


def refuse_unsupported(info: ZipInfo) -> None:
    """Raises NotOpened for what is no plain file, or is packed in a way that is not supported."""
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
        raise NotOpened("This is a link or a device. Send plain files.")
    if info.flag_bits & _ENCRYPTED:
        raise NotOpened("The file is encrypted. Send files that are not encrypted.")
    if info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        raise NotOpened(
            f"The file is packed by method {info.compress_type}; supported are {ZIP_STORED}, stored, and "
            f"{ZIP_DEFLATED}, deflated."
        )


def refuse_bad_name(name: str) -> None:
    """Raises BadName for a name that points outside its folder, or has control characters. See `safe_name`."""
    path = _with_slashes(name)
    if path.startswith("/") or _DRIVE.match(path) or ".." in path.split("/"):
        raise BadName(f"The name {name[:200]!r} points outside its folder. Send names within it.")
    if _CONTROLS.search(path) or len(path) > _MAX_NAME:
        raise BadName(
            f"The name {name[:200]!r} has {len(name)} characters or some control characters. Send names of "
            f"at most {_MAX_NAME} characters, without control characters."
        )


def safe_name(name: str) -> str:
    """A name within its folder that is not empty, whatever came."""
    parts = _CONTROLS.sub("_", _with_slashes(name)[-_MAX_NAME:]).split("/")
    path = "/".join(part for part in parts if part not in ("", ".", ".."))
    return _DRIVE.sub(r"\1_", path) or "image"


def _with_slashes(name: str) -> str:
    """Windows writes paths with backslashes, in zips too."""
    return name.replace("\\", "/")
