import errno
import os
import subprocess
import sys
from contextlib import nullcontext

import pytest

from engine.system.atomic_file import make_folder, remove_parts, sync_folder, write_atomically
from tests.support.power_cut import recorded_calls


@pytest.mark.parametrize("data", [b"", b"new", bytes(10**6)])
def test_a_file_is_written_without_leaving_a_temporary_one(tmp_path, data):
    path = tmp_path / "file"

    write_atomically(path, data)

    assert path.read_bytes() == data
    assert list(tmp_path.iterdir()) == [path]


def test_missing_folders_are_created(tmp_path):
    path = tmp_path / "a" / "b" / "file"

    write_atomically(path, b"x")

    assert path.read_bytes() == b"x"


def test_an_existing_file_is_replaced(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old and longer")

    write_atomically(path, b"new")

    assert path.read_bytes() == b"new"


def test_a_file_has_its_mode_from_the_beginning(tmp_path, monkeypatch):
    modes = []
    monkeypatch.setattr("os.fsync", lambda file: modes.append(os.fstat(file).st_mode & 0o777))

    write_atomically(tmp_path / "file", b"x", mode=0o600)

    assert [modes[0], (tmp_path / "file").stat().st_mode & 0o777] == [0o600, 0o600]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away")
def test_a_file_has_its_owner_before_its_name(tmp_path, monkeypatch):
    owners, replace = [], os.replace
    monkeypatch.setattr(
        os, "replace", lambda a, b: (owners.append((a.stat().st_uid, a.stat().st_gid)), replace(a, b))
    )

    write_atomically(tmp_path / "file", b"x", owner=(1234, 5678))

    assert owners == [(1234, 5678)]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch, step):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")

    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_write_leaves_no_temporary_file(tmp_path, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", b"new")

    assert not list(tmp_path.iterdir())


def test_data_rename_and_name_reach_the_disk_in_order(tmp_path, monkeypatch):
    calls = recorded_calls(monkeypatch, tmp_path)

    write_atomically(tmp_path / "file", b"new")

    assert calls == ["sync part", "rename to file", "sync ."]


def test_the_names_of_new_folders_reach_the_disk(tmp_path, monkeypatch):
    calls = recorded_calls(monkeypatch, tmp_path)

    make_folder(tmp_path / "a" / "b", mode=0o700)
    make_folder(tmp_path / "a" / "b")

    assert calls == ["sync .", "sync a"]
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(("number", "fails"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_only_a_failing_disk_is_an_error_of_a_folder(number, fails, tmp_path, monkeypatch):
    def fail(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)

    with pytest.raises(OSError, match="Input/output error") if fails else nullcontext():
        sync_folder(tmp_path)


def test_a_folder_cannot_be_made_where_a_file_is(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(FileExistsError):
        make_folder(tmp_path / "file")
    with pytest.raises(NotADirectoryError):
        make_folder(tmp_path / "file" / "folder")


def test_only_the_parts_of_killed_writes_are_removed(tmp_path):
    killed = "import os, sys; from pathlib import Path; from engine.system import atomic_file\n"
    killed += "os.fsync = lambda _: os._exit(9)\natomic_file.write_atomically(Path(sys.argv[1]), b'half')"
    others = {tmp_path / name for name in ("[1].png", ".[1].png.part", ".1.png.12345678.part", "[1].png.part")}
    for file in others:
        file.touch()

    subprocess.run([sys.executable, "-c", killed, tmp_path / "[1].png"], check=False)
    left = set(tmp_path.iterdir())
    remove_parts(tmp_path / "[1].png")

    assert len(left) == 5
    assert set(tmp_path.iterdir()) == others
