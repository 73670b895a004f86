"""The command as a whole: help, version, errors."""

import os
import subprocess
import sys

import pytest
from PIL import Image

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


def test_help_groups_the_commands_and_names_exit_codes(denoise):
    _, text, _ = denoise("--help")

    headings = [text.index(f"─ {name} ") for name in ("Denoise images", "Serve", "Train and measure networks")]
    assert headings == sorted(headings)
    assert "denoise run photo.jpg" in text
    assert "Exit codes: 0 success, 1 an error" in text
    assert "Exit codes: 0 if all images are done" in " ".join(denoise("run", "--help")[1].split())


def test_the_command_alone_shows_its_help(denoise):
    assert denoise() == denoise("--help")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["rnu"], "There is no command 'rnu'. Did you mean denoise run?"),
        (["trian"], "Did you mean denoise train?"),
        (["clean", "a.png"], "Did you mean denoise run?"),
        (["xyz"], "The commands are run, estimate,"),
        (["a photo.png"], "a photo.png is a file, not a command. To denoise it: denoise run 'a photo.png'"),
        (["run", "a photo.png", "--modle", "photo"], "--model"),
    ],
)
def test_a_mistyped_command_gets_a_suggestion(args, words, denoise, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a photo.png").touch()

    code, _, stderr = denoise(*args)

    assert code == 2
    assert words in " ".join(stderr.replace("│", " ").split())


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
    assert stderr.startswith("error: No weights are named 'none'. Shipped weights: ")
    assert stderr.count("\n") == 1


@pytest.mark.parametrize(
    "args",
    [
        ["run", "a.png", "-o", "--force"],
        ["run", "a.png", "--model", "-o", "x.png"],
        ["estimate", "a.png", "--page", "--json"],
        ["models", "--weights", "--help"],
        ["export", "photo", "--out", "--fores"],
        ["serve", "--host", "--port", "1"],
        ["evaluate", "photo", "--clean", "--sigma", "15", "25"],
        ["keys", "add", "scanner", "--keys-file", "--admin"],
    ],
)
def test_an_option_does_not_take_the_next_one_for_its_value(args, denoise, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    code, _, stderr = denoise(*args)

    assert code == 2
    assert "needs a value, but the option --" in " ".join(stderr.replace("│", " ").split()) or "-o" in args
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "args",
    [
        ["ship", "photo", "--clean", ".", "-o", "dir.png"],
        ["export", "photo", "-o", "my.onnx/"],
        ["demo", "photo", "--clean", ".", "-o", "dir.png"],
        ["plot", "my.jsonl", "-o", "dir.png"],
    ],
)
def test_a_folder_is_refused_where_a_file_is_written(args, denoise, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dir.png").mkdir()

    code, _, stderr = denoise(*args)

    assert code == 2
    assert "is a folder; give the name of a file" in " ".join(stderr.replace("│", " ").split())


def test_a_file_is_refused_where_a_folder_is_written(denoise, tmp_path):
    (tmp_path / "file").touch()

    code, _, stderr = denoise("evaluate", "photo", "--clean", tmp_path, "--report", tmp_path / "file")

    assert code == 2
    assert "is a file; give the name of a folder" in " ".join(stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    "args",
    [
        ["evaluate", "none", "--clean", "images"],
        ["demo", "none", "--clean", "images"],
        ["ship", "none", "--clean", "images", "-o", "x.safetensors"],
    ],
)
def test_weights_are_checked_before_images_are_read(args, denoise, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    code, _, stderr = denoise(*args)

    assert code == 1
    assert stderr.startswith("error: No weights are named 'none'")


@pytest.mark.parametrize(
    "args",
    [
        ["run", "folder", "-o", "clean", "--model", "dir.safetensors"],
        ["export", "dir.safetensors", "-o", "x.onnx"],
        ["plot", "dir.jsonl"],
        ["keys", "list", "--keys-file", "dir.keys"],
        ["train", "paper", "-o", "my.safetensors", "--data", "dir.pkl"],
    ],
)
def test_a_folder_in_place_of_a_file_is_named_in_words(args, denoise, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("folder", "dir.safetensors", "dir.jsonl", "dir.keys", "dir.pkl"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "folder" / "a.png")

    code, _, stderr = denoise(*args)

    assert code == 1
    assert "Errno" not in stderr
    assert "folder" in stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (
            ["run"],
            "Missing argument 'IN'. Image files, folders of images, s3://, gs:// or az:// URLs of these, or -",
        ),
        (["train", "paper"], "Missing option '-o' / '--out'. Weights file to write, .safetensors."),
    ],
)
def test_a_missing_argument_is_explained(args, words, denoise):
    code, _, stderr = denoise(*args)

    assert code == 2
    assert words in " ".join(stderr.replace("│", " ").split())
