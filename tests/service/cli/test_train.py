"""`denoise train` and `denoise sweep`."""

import json

from engine.models import checkpoint

SMALL = ["--hidden", "4", "--patch=8", "--noise-range", "2,3", "--batch", "2", "--precision", "float32"]


def test_train_takes_every_value_of_the_recipe_as_a_flag(denoise, photos, tmp_path):
    out = tmp_path / "my.safetensors"

    code, _, stderr = denoise(
        "train", "--lr=0.25", "paper", "--data", photos, "--steps", 2, "--out", out, *SMALL, "--set", "seed=3"
    )

    recipe = json.loads(checkpoint.load(out).metadata["recipe"])
    assert code == 0
    assert "step 2 " in stderr
    assert {key: recipe[key] for key in ("lr", "hidden", "patch", "noise_range", "seed", "steps")} == {
        "lr": 0.25, "hidden": 4, "patch": 8, "noise_range": [2.0, 3.0], "seed": 3, "steps": 2,
    }  # fmt: skip
    assert out.with_suffix(".jsonl").read_text().count("\n") >= 1


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


def test_train_refuses_an_unknown_flag_by_name(denoise, tmp_path):
    code, _, stderr = denoise("train", "paper", "--out", tmp_path / "my.safetensors", "--learning-rate", "1")

    assert code == 1
    assert "learning_rate" in stderr
    assert not list(tmp_path.iterdir())


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
