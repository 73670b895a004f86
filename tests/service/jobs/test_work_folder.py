"""Work folders: each is removed at its end, or by the next process if its own was killed."""

import subprocess
import sys
import tempfile

import pytest

from service.jobs.work_folder import PREFIX, remove_left_folders, work_folder

HOLDS = (
    "from service.jobs.work_folder import work_folder\n"
    "with work_folder() as folder:\n"
    "    (folder / 'a').write_text('a')\n"
    "    print(folder, flush=True)\n"
    "    input()\n"
)


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def test_a_work_folder_is_removed_with_its_files(temporary):
    with work_folder() as folder:
        (folder / "a").write_text("a")
        assert folder.parent == temporary
        assert folder.stat().st_mode & 0o777 == 0o700

    assert list(temporary.iterdir()) == []


def test_an_error_removes_the_folder(temporary):
    with pytest.raises(ZeroDivisionError), work_folder():
        raise ZeroDivisionError

    assert list(temporary.iterdir()) == []


def test_only_the_folders_of_dead_processes_are_removed(temporary):
    (temporary / "other").mkdir()
    (temporary / f"{PREFIX}file").write_text("a file")
    command = [sys.executable, "-c", HOLDS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        folder = process.stdout.readline().strip()
        remove_left_folders()
        during = {path.name for path in temporary.iterdir()}
        process.kill()
        process.wait()
        with work_folder():
            after = {path.name for path in temporary.iterdir()}

    name = folder.rpartition("/")[2]
    assert during == {"other", f"{PREFIX}file", name}
    assert after - during
    assert name not in after
    assert {"other", f"{PREFIX}file"} < after
