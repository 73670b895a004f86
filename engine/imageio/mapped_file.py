"""Mapped files: a large file's bytes without a copy of them in memory."""

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import BinaryIO, cast


class MappedFile(mmap.mmap):
    """Has slices, `find`, a length and the buffer protocol, as bytes do. path: of the file."""

    path: Path


class _BoundedReader(BufferedReader):
    """A file that is never asked for more bytes than it has: a broken file may tell any length of its parts."""

    def __init__(self, path: Path) -> None:
        super().__init__(path.open("rb", buffering=0))
        self._size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(size if size is None else min(size, self._size))


@contextmanager
def map_file(path: Path) -> Iterator[bytes]:
    """The bytes of a file that is not empty, read from the disk as they are used. Raises OSError."""
    with path.open("rb") as file, MappedFile(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        mapped.path = path
        # Where bytes are expected, only what a mapped file has too is used.
        yield cast(bytes, mapped)


def open_stream(data: bytes) -> BinaryIO:
    """The bytes as a file to read from. Those of a mapped file are not copied."""
    mapped: object = data
    return _BoundedReader(mapped.path) if isinstance(mapped, MappedFile) else BytesIO(data)


def forget_pages(data: bytes) -> None:
    """Free the memory of what was read of a mapped file. What is used again is read again."""
    mapped: object = data
    if isinstance(mapped, MappedFile) and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
