"""Files of tasks: reads sources and writes outputs, on disks, in buckets and through pipes.

An output appears once it is complete.
"""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory
from typing import BinaryIO, cast

from engine.batch.finding import PIPE, detected_format
from engine.batch.stack import STACK_FORMATS
from engine.imageio.formats import detect_format
from engine.imageio.mapped_file import map_file
from engine.storage.locations import Location, ObjectPath, file_stamp
from engine.system.atomic_file import atomic, write_atomically

# A file of at least so many bytes, in a format of stacks, is not read into memory.
MAPPED_BYTES = 64 * 2**20


@contextmanager
def source_bytes(source: Location) -> Iterator[bytes]:
    """The bytes of a file. A large file of a stack is read from the disk as it is used. Raises OSError."""
    if source == PIPE:
        yield sys.stdin.buffer.read()
        return
    stamp = file_stamp(source)
    if stamp and stamp[0] >= MAPPED_BYTES and detected_format(source) in STACK_FORMATS:
        with _on_disk(source) as path, map_file(path) as mapped:
            # All of a file may tell that it is camera raw.
            if detect_format(mapped) in STACK_FORMATS:
                yield mapped
                return
    yield source.read_bytes()


@contextmanager
def _on_disk(source: Location) -> Iterator[Path]:
    """The file, or a copy of the object."""
    if isinstance(source, Path):
        yield source
        return
    with TemporaryDirectory() as folder:
        path = Path(folder, "source")
        source.bucket.download(source.key, path)
        yield path


@contextmanager
def output_file(target: Location) -> Iterator[BinaryIO]:
    """A file to write and read, which becomes the target, or goes to standard output, at the end."""
    if isinstance(target, Path) and target != PIPE:
        with atomic(target) as file:
            yield file
        return
    # tifffile asks for its name.
    with NamedTemporaryFile() as file:
        yield cast(BinaryIO, file)
        file.flush()
        if isinstance(target, ObjectPath):
            target.write(Path(file.name))
            return
        file.seek(0)
        shutil.copyfileobj(file, sys.stdout.buffer)
        sys.stdout.buffer.flush()


def write_output(target: Location, data: bytes) -> None:
    """Write an output as a whole. Raises OSError."""
    if isinstance(target, ObjectPath):
        target.write(data)
    elif target == PIPE:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        write_atomically(target, data)
