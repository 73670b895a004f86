"""`denoise train` and `denoise sweep`."""

import json
import re
import shutil
import sys

import pytest

from engine.models import checkpoint
from tests.support.bursts import write_pairs

SMALL = ["--hidden", "4", "--patch=8", "--noise-range", "2,3", "--batch", "2", "--precision", "float32"]


def test_train_takes_every_value_of_the_recipe_as_a_flag(denoise, photos, tmp_path):
    out = tmp_path / "my.safetensors"

    code, _, stderr = denoise(
        "train", "--lr=0.25", "paper", "--data", photos, "--steps", 2, "--out", out, *SMALL, "--set", "seed=3"
    )

    recipe = json.loads(checkpoint.load(out).metadata["recipe"])
    assert code == 0
    assert "step 2 " in stderr
    assert "over the noisy input's" in stderr
    assert stderr.endswith(f"To use it: denoise run --model {tmp_path / 'my.safetensors'} IMAGE\n")
    assert {key: recipe[key] for key in ("lr", "hidden", "patch", "noise_range", "seed", "steps")} == {
        "lr": 0.25, "hidden": 4, "patch": 8, "noise_range": [2.0, 3.0], "seed": 3, "steps": 2,
    }  # fmt: skip
    assert out.with_suffix(".jsonl").read_text().count("\n") >= 1


def test_train_says_what_it_will_do_before_it_reads_data(denoise, photos, tmp_path, monkeypatch):
    monkeypatch.setattr("engine.training.trainer.run", lambda *_: True)

    _, _, with_photos = denoise(
        "train", "photo-small", "--data", photos, "--minutes", 3, "-o", tmp_path / "my.safetensors"
    )
    _, _, without = denoise("train", "paper", "--steps", 70, "-o", tmp_path / "my.safetensors")

    recipe, network, data, writes, expect, preparing, done = with_photos.splitlines()
    assert done.startswith("done: wrote ")
    assert recipe.startswith("recipe:  3 minutes of muon, learning rate 0.006, batches of 8 patches of 128 x 128")
    assert re.fullmatch(r"network: photo, [\d,]+ parameters", network)
    assert data == f"data:    3 images in {photos}"
    assert writes.endswith("beside it log my.jsonl, checkpoints my.checkpoint and my.constant.checkpoint")
    assert all(f"dB after {minutes} min" in expect for minutes in (1, 10, 60))
    assert preparing == "preparing the data; the first step follows"
    assert "recipe:  70 steps of sgd" in without
    assert "data:    synthetic images" in without


@pytest.fixture(scope="module")
def shots_folder(tmp_path_factory):
    """Two scenes of two shots."""
    return write_pairs(tmp_path_factory.mktemp("shots"), 2)


def test_train_hands_shots_over_to_adapt(denoise, shots_folder, tmp_path):
    out = tmp_path / "own.safetensors"

    code, _, stderr = denoise("train", "photo-small", "--data", shots_folder, "--minutes", 5, "--out", out)

    assert code == 2
    assert "holds pairs of shots, such as scene-0/frame-00.tif and scene-0/frame-01.tif" in stderr
    assert f"denoise adapt {shots_folder} --out {out} --minutes 5. " in stderr
    assert stderr.count("\n") == 1
    assert not out.with_suffix(".checkpoint").exists()


def test_train_takes_shots_for_photos_if_it_is_told_to(denoise, shots_folder, tmp_path):
    folder = shots_folder / "scene-0"
    command = ["train", "paper", "--data", folder, "--steps", 1, "--out", tmp_path / "own.safetensors", *SMALL]

    refused, _, _ = denoise(*command)
    code, _, _ = denoise(*command, "--as", "photos")
    other, _, stderr = denoise(*command, "--as", "movies")

    assert (refused, code, other) == (2, 0, 2)
    assert "none of auto, photos" in " ".join(stderr.split())


def test_sweep_hands_shots_over_to_adapt(denoise, shots_folder, tmp_path):
    code, _, stderr = denoise("sweep", "--data", shots_folder, "--out", tmp_path / "sweep")

    assert code == 2
    assert f"denoise adapt {shots_folder} --out own.safetensors" in stderr


def test_train_says_which_photos_it_left_out(denoise, photos, tmp_path):
    folder, out = tmp_path / "photos", tmp_path / "my.safetensors"
    shutil.copytree(photos, folder)
    (folder / "broken.png").write_text("this is no image")

    code, _, stderr = denoise("train", "paper", "--data", folder, "--steps", 2, "--out", out, *SMALL)

    words = "3 images, 1 of them held out; 1 file left out"
    assert code == 0
    assert f"left out {folder / 'broken.png'}: This is not an image" in stderr
    assert f"on {words}\n" in stderr
    assert checkpoint.load(out).metadata["images"] == words
    assert json.loads(out.with_suffix(".jsonl").read_text().splitlines()[0])["data"] == words


def test_train_continues_only_with_resume(denoise, photos, tmp_path):
    command = ["train", "paper", "--data", photos, "--out", tmp_path / "my.safetensors", *SMALL]
    denoise(*command, "--steps", 1)

    again, _, stderr = denoise(*command, "--steps", 2)
    resumed, _, _ = denoise(*command, "--steps", 2, "--resume")

    assert again == 1
    assert "resume" in stderr
    assert resumed == 0
    assert checkpoint.load(tmp_path / "my.safetensors").metadata["steps"] == "2"


def test_train_starts_from_existing_weights(denoise, photos, tmp_path):
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    command = ["train", "paper", "--data", photos, "--steps", 1, *SMALL]
    denoise(*command, "--out", first)

    code, _, _ = denoise(*command, "--out", second, "--start", first)

    assert code == 0
    assert checkpoint.load(second).metadata["start"] == f"first {checkpoint.load(first).digest}"


def test_train_starts_from_shipped_weights_by_name(denoise, photos, tmp_path):
    out = tmp_path / "my.safetensors"

    code, _, _ = denoise(
        *("train", "paper", "--data", photos, "--steps", 1, "--patch", 8, "--noise-range", "2,3", "--batch", 1),
        *("--start", "paper", "--out", out),
    )

    assert code == 0
    assert checkpoint.load(out).metadata["start"].startswith("paper ")


def test_train_refuses_an_unknown_flag_by_name(denoise, tmp_path):
    code, _, stderr = denoise("train", "paper", "--out", tmp_path / "my.safetensors", "--learning-rate", "1")

    assert code == 2
    assert "--learning-rate" in stderr
    assert "a recipe has " in stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["train", "sweep"])
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--thread", "--start", "x"], ["--thread", "no such option", "did you mean --threads?"]),
        (["--batchs=16"], ["--batchs", "did you mean --batch?"]),
        (["--lr", "--threads", "2"], ["--lr", "needs a value"]),
        (["--lr", "-o", "x"], ["--lr", "needs a value"]),
        (["--lr"], ["--lr", "needs a value"]),
        (["--data", "--lr", "0.4"], ["--data", "needs a value", "--lr follows"]),
    ],
)
def test_a_mistyped_flag_does_not_eat_the_next_one(command, flags, words, denoise, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    code, _, stderr = denoise(command, "paper", "--out", "my.safetensors", *flags)

    told = " ".join(stderr.replace("│", " ").split())
    assert code == 2
    assert all(word in told for word in words)
    assert not list(tmp_path.iterdir())


def test_a_flag_takes_a_negative_number(denoise, tmp_path):
    code, _, stderr = denoise("train", "paper", "--out", tmp_path / "my.safetensors", "--lr", "-1")

    assert (code, stderr) == (1, "error: lr must be more than 0; got -1\n")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--resume"], "no checkpoint to resume from: "),
        (["--start", "none.safetensors"], "cannot load weights: No such file or directory"),
        (["--start", "dir.safetensors"], "cannot load weights: this is a folder, not a file"),
    ],
)
def test_train_checks_its_start_before_it_reads_photos(flags, message, denoise, tmp_path, photos, monkeypatch):
    def opened(*args, **options):
        raise AssertionError("photos were read")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("engine.training.trainer.open_data", opened)
    (tmp_path / "dir.safetensors").mkdir()

    code, _, stderr = denoise("train", "paper", "--data", photos, "--out", "my.safetensors", *SMALL, *flags)

    assert code == 1
    assert message in stderr


@pytest.mark.parametrize("out", ["dir.safetensors", "my.safetensors/"])
def test_train_refuses_a_folder_as_its_output(out, denoise, tmp_path):
    (tmp_path / "dir.safetensors").mkdir()

    code, _, stderr = denoise("train", "paper", "--out", f"{tmp_path}/{out}")

    assert code == 2
    assert "is a folder; give the name of a" in " ".join(stderr.replace("│", " ").split())


def test_train_refuses_a_folder_that_is_a_file_before_it_trains(denoise, tmp_path):
    (tmp_path / "file").touch()

    code, _, stderr = denoise("train", "paper", "--out", tmp_path / "file" / "my.safetensors", *SMALL)

    assert (code, stderr) == (1, f"error: {tmp_path / 'file'}: this exists already, and is not a folder\n")


def test_sweep_checks_its_pairs_and_plots_before_it_trains(denoise, tmp_path, monkeypatch):
    def trained(*args):
        raise AssertionError("a network was trained")

    monkeypatch.setattr("engine.training.trainer.run", trained)
    command = ["sweep", "--steps", 2, "--out", tmp_path / "out", *SMALL]

    no_pairs, _, about_pairs = denoise(*command, "--pairs", tmp_path / "none.pkl")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    no_plots, _, about_plots = denoise(*command)

    assert (no_pairs, no_plots) == (1, 1)
    assert "none.pkl: expected a folder or a file of pairs" in about_pairs
    assert "plots need matplotlib" in about_plots


def test_a_stopped_training_says_how_to_continue(denoise, tmp_path, monkeypatch):
    monkeypatch.setattr("engine.training.trainer.run", lambda *_: False)

    code, _, stderr = denoise("train", "paper", "--out", tmp_path / "my.safetensors")

    assert code == 130
    assert "Use --resume to continue" in stderr


def test_sweep_writes_a_table_and_a_plot(denoise, photos, tmp_path, monkeypatch, pixels):
    monkeypatch.setattr("engine.evaluation.sweep.BATCHES", (2,))
    monkeypatch.setattr("engine.evaluation.sweep.RATES", (0.5,))
    monkeypatch.setattr("engine.evaluation.sweep.WIDTHS", (4,))

    code, _, _ = denoise("sweep", "--steps", 2, "--data", photos, *SMALL, "--lr", 0.5, "--out", tmp_path)

    assert code == 0
    assert "| 2 | " in (tmp_path / "sweep.md").read_text()
    assert pixels(tmp_path / "sweep.png").ndim == 3
