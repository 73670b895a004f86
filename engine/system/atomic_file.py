"""Atomic files: a file is written completely, or stays as it was."""

import glob
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic(path: Path, mode: int = 0o666) -> Iterator[BinaryIO]:
    """A temporary file beside `path` that is renamed to it at the end. Creates the folder if needed.

    mode: permissions, without those that the umask removes.
    Raises OSError, for example when the disk is full. After any error, `path` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        # Created with its mode: if the mode were set later, others could have opened the file before.
        part.touch(mode, exist_ok=False)
        with part.open("r+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Write bytes to a file as `atomic` does. Raises OSError."""
    with atomic(path, mode) as file:
        file.write(data)


def remove_parts(path: Path) -> None:
    """Remove the temporary files of writes to `path` that were killed. No write may be in progress."""
    for part in path.parent.glob(f".{glob.escape(path.name)}.????????.part"):
        part.unlink(missing_ok=True)
