"""`denoise models`, `denoise ship` and `denoise export`."""

import sys

import pytest
from rich.console import Console

from engine.models import checkpoint
from engine.models.onnx_export import OPSET
from service.cli import models
from tests.support.adapted import PHOTONS, metadata_of


def test_models_lists_each_file_with_its_digest(denoise, model):
    code, text, _ = denoise("models", "--weights", model.parent)

    assert code == 0
    [row] = [line for line in text.splitlines() if "plain" in line]
    assert checkpoint.load(model).digest[:12] in row


def test_models_shows_the_use_and_no_psnr_of_other_images(denoise, model):
    code, text, _ = denoise("models")

    rows = {line.split("│")[1].strip(): line for line in text.splitlines() if line.startswith("│")}
    assert code == 0
    assert "For photos:" in rows["photo"]
    assert "For images without" in rows["photo-grey"]
    assert "For renders" in rows["paper"]
    assert "Measures the noise" in rows["auto"]
    assert "photo-gaussian-large" in rows, "names are whole"
    assert "PSNR" not in text
    assert "31.50" not in denoise("models", "--weights", model.parent)[1], "each PSNR is of another set of images"


def test_models_lists_the_others_beside_a_broken_file(denoise, save_tiny, tmp_path):
    save_tiny(tmp_path / "good.safetensors", recipe="no JSON")
    (tmp_path / "bad.safetensors").write_bytes(b"no tensors")
    (tmp_path / "dir.safetensors").mkdir()

    code, text, stderr = denoise("models", "--weights", tmp_path)

    assert code == 1
    assert "good" in text
    assert f"{tmp_path / 'bad.safetensors'}: cannot load weights: " in stderr
    assert f"{tmp_path / 'dir.safetensors'}: cannot load weights: this is a folder, not a file\n" in stderr
    assert "error: 2 of 3 files could not be read" in stderr


def test_models_shows_the_noise_of_adapted_weights(denoise, tmp_path, save_tiny, monkeypatch):
    save_tiny(tmp_path / "mine.safetensors", **metadata_of(PHOTONS))
    monkeypatch.setattr("service.cli.models.out", Console(width=300))

    _, of_folder, _ = denoise("models", "--weights", tmp_path)
    monkeypatch.setenv("DENOISE_WEIGHTS", str(tmp_path))
    _, of_all, _ = denoise("models")

    assert "Adapted to grey 16-bit images of brightness 95 to 570 with noise that grows" in of_folder
    assert "gain 2" in of_all
    assert "photo-grey" in of_all


def test_models_names_a_folder_without_weights(denoise, tmp_path):
    code, _, stderr = denoise("models", "--weights", tmp_path / "none")

    assert code == 1
    assert stderr == f"error: {tmp_path / 'none'}: no .safetensors files in this folder, or no such folder\n"


def test_ship_halves_weights_that_lose_nothing(denoise, model, photos, tmp_path):
    out = tmp_path / "out.safetensors"

    code, _, stderr = denoise("ship", model, "--clean", photos, "--sigma", 25, "--out", out)

    shipped = checkpoint.load(out)
    assert code == 0
    assert "by at most 0.000000 dB. Wrote float16" in stderr
    assert shipped.metadata["dtype"] == "float16"
    assert shipped.metadata["psnr"] == "31.50"
    assert out.stat().st_size < 0.7 * model.stat().st_size


def test_ship_keeps_float32_where_float16_would_lose_quality(denoise, save_tiny, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(models, "LARGEST_CHANGE", 0)
    out = tmp_path / "out.safetensors"

    code, _, stderr = denoise("ship", save_tiny(tmp_path / "tiny.safetensors"), "--clean", photos, "--out", out)

    assert code == 0
    assert "Wrote float32" in stderr
    assert checkpoint.load(out).metadata["dtype"] == "float32"


def test_export_writes_a_file_that_names_its_weights(denoise, model, tmp_path):
    onnx = pytest.importorskip("onnx", reason="comes with the extra onnx")

    code, _, stderr = denoise("export", model, "--out", tmp_path / "plain.onnx")

    exported = onnx.load(tmp_path / "plain.onnx")
    assert code == 0
    assert stderr.startswith(f"Wrote {tmp_path / 'plain.onnx'}, ")
    props = {prop.key: prop.value for prop in exported.metadata_props}
    assert props == {"name": "plain", "digest": checkpoint.load(model).digest, "stride": "2"}


def test_the_help_of_export_names_the_opset(denoise):
    _, text, _ = denoise("export", "--help")

    assert f"opset {OPSET}" in text


def test_export_without_its_package_says_how_to_install_it(denoise, model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)

    code, _, stderr = denoise("export", model, "--out", tmp_path / "plain.onnx")

    assert code == 1
    assert stderr == "error: ONNX export needs the package onnx: pip install 'denoise[onnx]'\n"
    assert not list(tmp_path.iterdir())
