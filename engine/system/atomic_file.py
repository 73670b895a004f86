"""Writing a file so that it is whole or not there."""

import glob
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic(path: Path, mode: int = 0o666) -> Iterator[BinaryIO]:
    """A file beside the name, that is renamed into place at the end: `path` is the old file or the new, whole.

    mode: who may read and write it, less what the umask takes away.
    Raises OSError (a full disk, say); after that, as after any error inside, what was at `path` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        # Made with its mode, so that nobody else has it open from before it was set.
        beside.touch(mode, exist_ok=False)
        with beside.open("r+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, data: bytes, mode: int = 0o666) -> None:
    """The same, of bytes that are there. Raises OSError."""
    with atomic(path, mode) as file:
        file.write(data)


def remove_parts(path: Path) -> None:
    """Remove what a write to `path` that was killed left beside it. No other may be on its way."""
    for part in path.parent.glob(f".{glob.escape(path.name)}.????????.part"):
        part.unlink(missing_ok=True)
