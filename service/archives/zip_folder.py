"""Zip folder: writes the files of an uploaded zip into a folder, for work that needs files by their names."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO
from zipfile import ZipFile, ZipInfo

from service.archives.zip_reader import (
    BadName,
    BrokenBatch,
    BrokenEntry,
    NotOpened,
    is_zip,
    read_directory,
    refuse_bad_name,
    refuse_unsupported,
    unpacked_chunks,
)

# The longest name of a file or folder that Linux takes, and of a path within the folder, in bytes.
MAX_PART_BYTES = 255
MAX_PATH_BYTES = 2000
# Folders in folders: each takes an inode of the disk.
MAX_PARTS = 20


def check_zip(file: IO[bytes], max_files: int, max_total: int, setting: str) -> None:
    """Raises the error of the first file that is not safe to unpack, by the directory and the files' beginnings.

    max_files, max_total, setting: as read_directory. Raises what that raises, BadName, NotOpened, BrokenEntry.
    """
    for _ in _files(file, max_files, max_total, setting):
        pass


def unpack_zip(
    file: IO[bytes], folder: Path, max_files: int, max_total: int, setting: str, check: Callable[[], None]
) -> None:
    """Writes the files into a folder, which is empty. check: called before each file; an error ends the work.

    Raises what check_zip raises, and OSError.
    """
    for archive, info, path in _files(file, max_files, max_total, setting):
        check()
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as unpacked, _naming(path):
            for chunk in unpacked_chunks(archive, info):
                unpacked.write(chunk)


def _files(
    file: IO[bytes], max_files: int, max_total: int, setting: str
) -> Iterator[tuple[ZipFile, ZipInfo, PurePosixPath]]:
    """Each file, and its path in the folder."""
    archive, names = read_directory(file, max_files, max_total, setting)
    paths = {info: _path(name) for info, name in names.items()}
    _refuse_clashes(list(paths.values()))
    for info, path in paths.items():
        with _naming(path):
            refuse_unsupported(info)
            _refuse_nested(archive, info)
        yield archive, info, path


@contextmanager
def _naming(path: PurePosixPath) -> Iterator[None]:
    """Puts the file's name before the error."""
    try:
        yield
    except (BrokenEntry, NotOpened) as error:
        raise type(error)(f"{path}: {error}") from error


def _path(name: str) -> PurePosixPath:
    refuse_bad_name(name)
    # Without empty parts and dots.
    path = PurePosixPath(name.replace("\\", "/"))
    sizes = [len(part.encode()) for part in path.parts]
    too_long = not sizes or max(sizes) > MAX_PART_BYTES or sum(sizes) + len(sizes) > MAX_PATH_BYTES
    if too_long or len(sizes) > MAX_PARTS:
        raise BadName(
            f"The name {name[:200]!r} is empty or too long. Send names of at most {MAX_PART_BYTES} bytes, and "
            f"{MAX_PATH_BYTES} with at most {MAX_PARTS} folders."
        )
    return path


def _refuse_clashes(paths: list[PurePosixPath]) -> None:
    """Raises BrokenBatch for two files of one name, and for a file with the name of a folder."""
    folders = {parent for path in paths for parent in path.parents}
    seen: set[PurePosixPath] = set()
    for path in paths:
        if path in seen or path in folders:
            raise BrokenBatch(f"The zip has {str(path)[:200]!r} twice. Send each file once.")
        seen.add(path)


def _refuse_nested(archive: ZipFile, info: ZipInfo) -> None:
    """Raises NotOpened for a zip in the zip."""
    with closing(unpacked_chunks(archive, info)) as chunks:
        if is_zip(next(chunks, b"")):
            raise NotOpened("This is a zip inside a zip, which is not opened. Send one zip of shots.")
