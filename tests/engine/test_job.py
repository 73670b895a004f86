"""`python -m engine.job`, alone and started by torchrun."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from PIL import Image

from engine import job
from engine.layers import kernels
from engine.models import checkpoint
from tests.support.bursts import scene, shots, white, write
from tests.support.processes import children
from tests.support.workers import PATIENCE, free_port

ROOT = Path(__file__).parents[2]
LOOPBACK = "lo" if sys.platform == "linux" else "lo0"
SMALL = ("--set", "steps=3", "--set", "channels=4 6", "--set", "blocks=1 1 1", "--set", "patch=8")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number in range(3):
        samples = np.random.default_rng(number).integers(256, size=(30, 24, 3), dtype=np.uint8)
        Image.fromarray(samples).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def main(monkeypatch):
    """main(*arguments): the exit code of `python -m engine.job`, or its message."""

    def start(*arguments):
        monkeypatch.setattr(sys, "argv", ["engine.job", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            job.main()
        return ended.value.code

    return start


def test_the_job_trains_by_a_recipes_name(main, tmp_path, photos, capsys):
    code = main("photo-small", "--out", tmp_path / "a.safetensors", "--data", photos, "--terms", "CC0", *SMALL)

    assert code == 0
    assert checkpoint.load(tmp_path / "a.safetensors").metadata["terms"] == "CC0"
    assert "step=3" in capsys.readouterr().out


def test_the_job_begins_from_weights(main, tmp_path, photos):
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    main("photo-small", "-o", first, "--data", photos, *SMALL)

    code = main("photo-small", "-o", second, "--data", photos, "--start", first, *SMALL)

    assert code == 0
    assert checkpoint.load(second).metadata["start"].startswith("a ")


def test_the_job_trains_on_camera_noise(main, tmp_path, photos):
    code = main("photo", "-o", tmp_path / "a.safetensors", "--data", photos, *SMALL)

    assert code == 0
    assert json.loads(checkpoint.load(tmp_path / "a.safetensors").metadata["recipe"])["noise"] == "camera"


def test_the_job_hands_shots_over_to_an_adaptation(main, tmp_path, capsys):
    for number in range(2):
        write(tmp_path / "shots", f"scene-{number}", shots(scene(number, 96), white(25), 2, number))
    command = ("photo-small", "-o", tmp_path / "a.safetensors", "--data", tmp_path / "shots", *SMALL)

    code = main(*command)

    assert code == 2
    assert f"denoise adapt {tmp_path / 'shots'} --out {tmp_path / 'a.safetensors'}" in capsys.readouterr().err


def test_the_job_says_what_is_wrong(main, tmp_path):
    code = main("photo-small", "-o", tmp_path / "a.safetensors", "--set", "epochs=3")

    assert code.startswith("error: photo-small.toml: unknown: epochs; a recipe takes ")


def test_the_job_warns_if_there_are_no_kernels(main, tmp_path, photos, monkeypatch, capsys):
    monkeypatch.delenv(kernels.SETTING, raising=False)
    monkeypatch.setattr(kernels, "chosen", lambda: None)

    main("photo-small", "-o", tmp_path / "a.safetensors", "--data", photos, *SMALL)

    assert capsys.readouterr().out.startswith(f"warning: {kernels.warning()}\n")


def test_a_value_without_its_key_is_refused(main, tmp_path, capsys):
    code = main("photo-small", "-o", tmp_path / "a.safetensors", "--set", "steps")

    assert code == 2
    assert "--set: expected KEY=VALUE; got 'steps'" in capsys.readouterr().err


# torchrun


def torchrun(out, photos, *arguments, **options):
    """torchrun with two workers of the job on this machine. options: of torchrun."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--local-addr=127.0.0.1"]
    command += ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{free_port()}"]
    command += [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    command += ["-m", "engine.job", "photo-small", "--out", out, "--data", photos, "--device=cpu", "--threads=1"]
    return subprocess.Popen(
        list(map(str, (*command, *arguments))),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": LOOPBACK},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def step_of(path):
    """The step at which a checkpoint was written, 0 without one."""
    if not path.exists():
        return 0
    with safetensors.safe_open(path, "pt") as file:
        return int(file.metadata()["step"])


def worker_of(process, rank):
    """The process of one of torchrun's workers."""
    for pid in children(process.pid):
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        if b"RANK=%d" % rank in variables:
            return pid
    raise AssertionError("torchrun has not started this worker")


def wait_until(happens, process):
    deadline = time.monotonic() + PATIENCE
    while not happens():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds workers by Linux's /proc")
def test_a_killed_worker_restarts_and_one_worker_resumes(main, tmp_path, photos):
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    # Photos alone are drawn fast. At a constant rate, a step does not depend on the length of the run.
    values = {"channels": "4 6", "blocks": "1 1 1", "patch": 8, "decay": 0, "measured": 0, "patterns": 0}
    recipe = [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
    state = two.with_suffix(".checkpoint")
    command = (*recipe, "--set", "steps=1000000", "--save-every=0")
    process = torchrun(two, photos, *command, rdzv_id=tmp_path.name, max_restarts=1)
    try:
        wait_until(lambda: step_of(state) >= 5, process)
        os.kill(worker_of(process, 0), signal.SIGKILL)
        killed = step_of(state)
        wait_until(lambda: step_of(state) >= killed + 5, process)
        process.terminate()
        output, _ = process.communicate(timeout=PATIENCE)
    finally:
        # Unlike SIGKILL, this ends the workers too.
        process.terminate()
        process.communicate()
    steps = step_of(state) + 5

    main("photo-small", "-o", two, "--data", photos, *recipe, "--set", f"steps={steps}", "--resume")
    main("photo-small", "-o", one, "--data", photos, *recipe, "--set", f"steps={steps}")

    # Worker 1 may be ended by torchrun before it says that it lost worker 0.
    assert "exitcode: -9" in output
    assert "stopped, and everything is saved; --resume continues" in output
    assert step_of(state) == steps
    first, second = (safetensors.torch.load_file(path) for path in (one, two))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=1e-5)
