"""Mapped files: a large file's bytes without a copy of them in memory."""

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, cast


class MappedFile(mmap.mmap):
    """Has slices, `find`, a length and the buffer protocol, as bytes do. path: of the file."""

    path: Path


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
    return mapped.path.open("rb") if isinstance(mapped, MappedFile) else BytesIO(data)


def forget_pages(data: bytes) -> None:
    """Free the memory of what was read of a mapped file. What is used again is read again."""
    mapped: object = data
    if isinstance(mapped, MappedFile) and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
