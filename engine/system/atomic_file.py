"""Atomic files: a file is written completely, or stays as it was. What was written survives a power cut."""

import errno
import glob
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic(path: Path, mode: int = 0o666, owner: tuple[int, int] | None = None) -> Iterator[BinaryIO]:
    """A temporary file beside `path` that is renamed to it at the end. Creates the folder if needed.

    mode: permissions, without those that the umask removes. owner: IDs of the file's user and group, if they are
    not those of this process.
    Raises OSError, for example when the disk is full. After an error, `path` is as it was, unless only the last
    step failed, which puts the rename on the disk.
    """
    make_folder(path.parent)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        # Created with its mode: if the mode were set later, others could have opened the file before.
        part.touch(mode, exist_ok=False)
        with part.open("r+b") as file:
            if owner:
                os.fchown(file.fileno(), *owner)
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_atomically(path: Path, data: bytes, mode: int = 0o666, owner: tuple[int, int] | None = None) -> None:
    """Write bytes to a file as `atomic` does. Raises OSError."""
    with atomic(path, mode, owner) as file:
        file.write(data)


def make_folder(path: Path, mode: int = 0o777) -> None:
    """Create a folder, and those above it, unless it exists. Its name survives a power cut. Raises OSError.

    mode: permissions of the folder itself, without those that the umask removes.
    """
    if path.is_dir():
        return
    if not path.parent.exists():
        make_folder(path.parent)
    path.mkdir(mode, exist_ok=True)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Put a folder's names on the disk. Syncing a file does not: after a power cut its name may be missing.

    Does nothing where the system cannot do it: on Windows, on some network disks, and in a folder whose names
    this user may not read. Raises OSError if the disk fails.
    """
    if os.name != "posix":
        return
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:
        return
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(folder)


def remove_parts(path: Path) -> None:
    """Remove the temporary files of writes to `path` that were killed. No write may be in progress."""
    for part in path.parent.glob(f".{glob.escape(path.name)}.????????.part"):
        part.unlink(missing_ok=True)
