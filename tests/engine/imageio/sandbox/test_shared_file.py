"""Shared files: what is written is read, and nobody can change it afterwards."""

import errno
import os
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
import pytest

from engine.imageio.sandbox.shared_file import MemoryFile, SharedFile, in_memory, read_only


def open_files():
    return sorted(Path("/proc/self/fd").iterdir())


def test_what_is_written_in_pieces_is_read_whole():
    with MemoryFile() as memory:
        for part in (b"im", b"", b"age", np.arange(4, dtype=np.uint16).reshape(2, 2).data):
            memory.write(part)
        file = memory.seal()

        assert file.size == 5 + 8
        assert file.read() == b"image" + np.arange(4, dtype=np.uint16).tobytes()
        assert file.read(2) == b"im"


def test_a_part_of_a_file_is_read_without_moving_its_position(tmp_path):
    (tmp_path / "file").write_bytes(b"0123456789")
    with (tmp_path / "file").open("rb") as file:
        part = SharedFile(file.fileno(), 4, 3)

        assert (part.read(), part.read(2), part.read(99)) == (b"3456", b"34", b"3456")
        assert file.tell() == 0


def test_an_empty_file_is_read_as_no_bytes():
    with in_memory(b"") as file:
        assert (file.size, file.read()) == (0, b"")


def test_a_sealed_file_cannot_be_changed():
    with in_memory(b"image") as file:
        for change in (lambda: os.pwrite(file.fd, b"x", 0), lambda: os.ftruncate(file.fd, 0)):
            with pytest.raises(PermissionError):
                change()
        assert file.read() == b"image"


def test_a_closed_file_leaves_no_descriptor():
    before = open_files()
    with in_memory(b"image"):
        assert len(open_files()) == len(before) + 1

    assert open_files() == before


def test_a_file_on_disk_cannot_be_changed_by_whoever_reads_it():
    with TemporaryFile() as disk:
        disk.write(b"0123456789")
        disk.flush()
        before = open_files()
        with read_only(disk, 2, 3) as part:
            assert part.read() == b"234"
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.pwrite(part.fd, b"x", 0)

        assert open_files() == before


def test_a_system_without_memory_is_a_memory_error(monkeypatch):
    def full(*args):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    with MemoryFile() as memory, monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(MemoryError, match="no memory for 5 bytes"):
            memory.write(b"image")


def test_a_file_is_shown_by_its_name():
    with MemoryFile("upload") as memory:
        fd = memory.seal().fd
        assert "memfd:upload" in str(Path(f"/proc/self/fd/{fd}").readlink())
