"""`denoise train --workers`: processes of this machine that train together.

Workers import this module, so it does not import torch.
"""

import os
import signal
import threading
import time
from functools import partial

import pytest

from service.cli import train_workers
from service.cli.train_workers import run_workers

SMALL = ["--hidden", "4", "--patch=8", "--noise-range", "2,3", "--batch", "3", "--precision", "float32"]


def test_workers_train_one_network_together(denoise, photos, tmp_path):
    out = tmp_path / "my.safetensors"

    from engine.models import checkpoint

    code, _, stderr = denoise(
        *("train", "paper", "--data", photos, "--steps", 3, "--out", out, "--workers", 2, "--threads", 2), *SMALL
    )

    assert code == 0
    assert "workers: 2 processes, each with 1 thread, share every batch\npreparing the data" in stderr
    assert checkpoint.load(out).metadata["steps"] == "3"
    assert out.with_suffix(".checkpoint").exists()


def test_an_error_of_all_workers_is_shown_once(denoise, photos, tmp_path):
    one_photo = tmp_path / "one"
    one_photo.mkdir()
    (one_photo / "0.png").write_bytes((photos / "0.png").read_bytes())

    code, _, stderr = denoise(
        *("train", "paper", "--data", one_photo, "--out", tmp_path / "my.safetensors", "--workers", 2), *SMALL
    )

    assert code == 1
    errors = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert errors == ["error: at least 2 photos are needed, 1 of them for validation; found 1"]


def test_torchrun_has_started_the_workers_already(denoise, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")

    code, _, stderr = denoise("train", "paper", "--out", tmp_path / "my.safetensors", "--workers", 2)

    assert (code, stderr) == (1, "error: torchrun has started the workers already; leave out --workers\n")


def test_a_stop_is_no_failure_to_torchrun(denoise, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("engine.training.trainer.run", lambda *_: False)
    command = ["train", "paper", "--out", tmp_path / "my.safetensors"]

    first, _, told = denoise(*command)
    monkeypatch.setenv("RANK", "1")
    second, _, not_told = denoise(*command)

    assert (first, second) == (0, 0)
    assert "stopped, and everything is saved" in told
    assert not_told == ""


def crash(folder):
    """Worker 1 is killed once worker 0 works, which would work for a minute."""
    if os.environ["RANK"] == "0":
        (folder / "working").touch()
        time.sleep(60)
    while not (folder / "working").exists():
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_named_and_ends_the_others(tmp_path):
    begin = time.monotonic()

    with pytest.raises(ValueError, match=r"^worker 1 was ended by SIGKILL$"):
        run_workers(2, partial(crash, tmp_path))

    assert time.monotonic() - begin < 50


def work_until_told_to_stop(folder):
    """As a training that a signal stops."""
    told = []
    signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
    (folder / os.environ["RANK"]).touch()
    while not told:
        time.sleep(0.01)
    (folder / f"{os.environ['RANK']} saved").touch()
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_all_workers_and_waits_for_them(tmp_path, number):
    def send():
        while len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    threading.Thread(target=send).start()

    assert not run_workers(2, partial(work_until_told_to_stop, tmp_path))
    assert sorted(file.name for file in tmp_path.glob("* saved")) == ["0 saved", "1 saved"]


def test_workers_stop_when_their_parent_is_gone(monkeypatch):
    class Gone:
        def join(self):
            pass

    sent = []
    monkeypatch.setattr(train_workers.multiprocessing, "parent_process", Gone)
    monkeypatch.setattr(train_workers.os, "kill", lambda *call: sent.append(call))

    train_workers._stop_with_parent()

    assert sent == [(os.getpid(), signal.SIGTERM)]
