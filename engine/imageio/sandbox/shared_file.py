"""Shared files: image files that a decoder process reads through a descriptor, so that none is copied to it.

Linux only.
"""

import errno
import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Self

if sys.platform == "linux":
    SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
# What a system without free memory answers.
_NO_MEMORY = (errno.ENOMEM, errno.ENOSPC)


@dataclass(frozen=True)
class SharedFile:
    """Bytes `start` to `start + size` of the open file `fd`. Whoever opened the file closes it."""

    fd: int
    size: int
    start: int = 0

    def read(self, size: int | None = None) -> bytes:
        """Its bytes, or only the first `size`. Does not move the file's position, which processes share."""
        end = self.start + (self.size if size is None else min(size, self.size))
        at, parts = self.start, []
        # One call reads 2 GiB at most.
        while at < end and (part := os.pread(self.fd, end - at, at)):
            parts.append(part)
            at += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


class MemoryFile:
    """A file that lies in memory and has no name. To be written, sealed and closed.

    Once it is sealed no process can change it: not even a decoder process that a file has taken over.
    """

    def __init__(self, name: str = "image") -> None:
        """name: what /proc shows."""
        self.size = 0
        self._fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Frees the memory, unless another process still has the file open."""
        os.close(self._fd)

    def write(self, data: bytes | memoryview) -> None:
        """Appends bytes. Raises MemoryError."""
        left = memoryview(data)
        left = left.cast("B") if left.nbytes else left[:0]
        while len(left):
            try:
                written = os.write(self._fd, left)
            except OSError as error:
                if error.errno in _NO_MEMORY:
                    raise MemoryError(f"no memory for {len(left)} bytes of a file") from error
                raise
            self.size += written
            left = left[written:]

    def seal(self) -> SharedFile:
        """The finished file."""
        fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, SEALS)
        return SharedFile(self._fd, self.size)


@contextmanager
def in_memory(data: bytes) -> Iterator[SharedFile]:
    """A file in memory with these bytes, until the block ends."""
    with MemoryFile() as file:
        file.write(data)
        yield file.seal()


@contextmanager
def read_only(file: IO[bytes], start: int, size: int) -> Iterator[SharedFile]:
    """A part of an open file by another descriptor, through which no process can change the file."""
    fd = os.open(f"/proc/self/fd/{file.fileno()}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield SharedFile(fd, size, start)
    finally:
        os.close(fd)
