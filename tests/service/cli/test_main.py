"""The command as a whole: help, version, errors."""

import os
import subprocess
import sys

import pytest

from engine.layers import kernels
from service import version

COMMANDS = [
    "run",
    "estimate",
    "serve",
    "models",
    "train",
    "evaluate",
    "ship",
    "export",
    "sweep",
    "demo",
    "plot",
    "keys",
]


def test_help_names_every_command(denoise):
    code, text, _ = denoise("--help")

    assert code == 0
    assert all(f" {command} " in text for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_a_help_with_an_example(denoise, command):
    code, text, _ = denoise(command, "--help")

    assert code == 0
    assert text.count(f"denoise {command}") >= 2


def test_version_names_the_kernels(denoise):
    code, text, _ = denoise("--version")

    assert code == 0
    assert text == f"denoise {version()}, kernels {kernels.name()}\n"


def test_help_does_not_import_torch():
    loaded = subprocess.run(
        [sys.executable, "-c", "import service.cli, sys; print('torch' in sys.modules)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert loaded.stdout.strip() == "False"


@pytest.mark.parametrize(
    "command", [["--version"], ["serve", "--port", "0"], ["train", "paper", "-o", "w.safetensors"]]
)
def test_unknown_kernels_are_an_error_of_one_line(command):
    ended = subprocess.run(
        [sys.executable, "-m", "service.cli", *command],
        env=os.environ | {"DENOISE_KERNELS": "fast"}, capture_output=True, text=True,
    )  # fmt: skip

    assert ended.returncode == 1
    assert ended.stderr.startswith("error: ")
    assert "DENOISE_KERNELS" in ended.stderr
    assert "fast" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_an_error_is_one_line_without_a_traceback(denoise, photos, tmp_path):
    code, text, stderr = denoise("run", photos, "-o", tmp_path / "o", "--model", "none")

    assert code == 1
    assert text == ""
    assert stderr.startswith("error: no weights are named 'none'. Shipped weights: ")
    assert stderr.count("\n") == 1
