"""`denoise estimate`."""

import json
import shutil

import numpy as np
import pytest
import tifffile
from PIL import Image
from rich.console import Console

from service.api.estimate import Estimate
from tests.support.adapted import PHOTONS, metadata_of, shot_of
from tests.support.bursts import photons, white


@pytest.fixture
def noisy(tmp_path):
    """A folder of two files: white noise of 25 in colour, and white noise of 10 in grey as JPEG."""
    folder = tmp_path / "noisy"
    folder.mkdir()
    for name, sigma, size in (("colour.png", 25, (256, 256, 3)), ("grey.jpg", 10, (256, 256))):
        values = 128 + np.random.default_rng(0).normal(0, sigma, size)
        Image.fromarray(values.clip(0, 255).round().astype(np.uint8)).save(folder / name, quality=80)
    return folder


def test_estimate_shows_the_noise_and_the_weights_of_each_image(denoise, noisy):
    code, text, _ = denoise("estimate", noisy)

    colour, grey = text.splitlines()
    assert code == 0
    assert colour.startswith(f"{noisy / 'colour.png'}: Noise of about 24.6 of 255")
    assert colour.endswith("; auto chooses photo-gaussian: its noise differs from pixel to pixel")
    assert grey.startswith(f"{noisy / 'grey.jpg'}: ")
    assert "JPEG" in grey


def test_estimate_prints_a_table_in_a_terminal(denoise, noisy, monkeypatch):
    monkeypatch.setattr("service.cli.estimate.out", Console(force_terminal=True, color_system=None, width=200))

    code, text, _ = denoise("estimate", noisy)

    rows = [line.split("│")[1:-1] for line in text.splitlines() if line.startswith("│")]
    images, words, weights, reasons = ("".join(cells).replace(" ", "") for cells in zip(*rows, strict=True))
    assert code == 0
    assert images == f"{noisy / 'colour.png'}{noisy / 'grey.jpg'}"
    assert "JPEG" in words
    assert weights.startswith("photo-gaussian")
    assert reasons.startswith("itsnoisediffers")


def test_estimate_leaves_out_earlier_results(denoise, noisy):
    shutil.copy(noisy / "colour.png", noisy / "colour.denoised.png")

    _, text, stderr = denoise("estimate", noisy)

    assert len(text.splitlines()) == 2
    assert f"{noisy}: left out 1 earlier result" in stderr


def test_estimate_prints_all_measurements_as_json(denoise, noisy):
    code, text, _ = denoise("estimate", noisy, "--json")

    colour, grey = json.loads(text)
    assert code == 0
    assert colour["image"] == str(noisy / "colour.png")
    assert colour["sigma"] == pytest.approx([25, 25, 25], rel=0.1)
    assert (colour["correlated"], colour["jpeg_blocks"], colour["model"]) == (False, False, "photo-gaussian")
    assert len(grey["sigma"]) == 1
    assert grey["jpeg_blocks"]
    assert "JPEG" in grey["words"]


def test_estimate_reports_a_broken_image_and_exits_with_1(denoise, noisy):
    (noisy / "broken.png").write_bytes(b"no image")

    code, text, stderr = denoise("estimate", noisy, "--json")

    assert code == 1
    assert len(json.loads(text)) == 2
    assert "broken.png: " in stderr
    assert stderr.endswith("error: 1 of 3 images could not be read\n")


def test_estimate_reads_the_given_page(denoise, tmp_path):
    flat, noise = np.zeros((64, 64), np.uint8), np.random.default_rng(0).integers(256, size=(64, 64))
    pages = [Image.fromarray(flat), Image.fromarray(noise.astype(np.uint8))]
    pages[0].save(tmp_path / "two.tif", save_all=True, append_images=pages[1:])

    (_, first, _), (_, second, _) = (
        denoise("estimate", tmp_path / "two.tif", "--json", *p) for p in ([], ["--page", 2])
    )

    assert json.loads(first)[0]["sigma"] == [0]
    assert json.loads(second)[0]["sigma"][0] > 0


def test_json_has_null_where_there_is_no_number(denoise, tmp_path):
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8)).save(tmp_path / "tiny.png")

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    _, text, _ = denoise("estimate", tmp_path / "tiny.png", "--json")

    (row,) = json.loads(text, parse_constant=refuse)
    assert row["luma"] is None
    assert row["sigma"] is None


def test_json_has_the_fields_of_the_http_api(denoise, noisy):
    _, text, _ = denoise("estimate", noisy, "--json")

    row = json.loads(text)[0]
    assert set(row) == {"image", *Estimate.model_fields} - {"models"}


def test_estimate_makes_the_trial_that_run_makes(denoise, tmp_path, monkeypatch):
    """Nothing is removed from what looks like a camera's noise, so it is taken for texture."""
    noise = np.random.default_rng(0).normal(0, 20, (258, 258, 3))
    smeared = sum(noise[dy : dy + 256, dx : dx + 256] for dy in range(3) for dx in range(3)) / 9
    Image.fromarray((128 + smeared).round().astype(np.uint8)).save(tmp_path / "soft.png")
    monkeypatch.setattr("engine.inference.model_selection.removed_where_calm", lambda *_: 0.1)

    _, text, _ = denoise("estimate", tmp_path / "soft.png", "--json")

    [found] = json.loads(text)
    assert (found["correlated"], found["model"]) == (True, "photo-gaussian")


def test_weights_adapted_to_the_noise_are_named_with_the_reason(denoise, tmp_path, save_tiny, monkeypatch):
    save_tiny(tmp_path / "own" / "mine.safetensors", **metadata_of(PHOTONS))
    for name, noise in (("mine", photons(200)), ("other", white(60))):
        tifffile.imwrite(tmp_path / f"{name}.tif", shot_of(noise)[..., 0].numpy())
    monkeypatch.setenv("DENOISE_WEIGHTS", str(tmp_path / "own"))
    monkeypatch.setattr("engine.inference.model_selection.may_replace", lambda *_: True)

    _, text, _ = denoise("estimate", tmp_path / "mine.tif", tmp_path / "other.tif")

    mine, other = text.splitlines()
    assert "auto chooses mine: its noise is that of mine: gain 2, level within a factor of 1" in mine
    assert "; mine, the nearest of the adapted weights, was not chosen: level within a factor of " in other


def test_run_takes_weights_adapted_to_the_noise(denoise, tmp_path, save_tiny, monkeypatch):
    save_tiny(tmp_path / "own" / "mine.safetensors", **metadata_of(PHOTONS))
    tifffile.imwrite(tmp_path / "shot.tif", shot_of(photons(200))[..., 0].numpy())
    monkeypatch.setenv("DENOISE_WEIGHTS", str(tmp_path / "own"))
    monkeypatch.setattr("engine.inference.model_selection.may_replace", lambda *_: True)

    _, _, err = denoise("run", "-v", tmp_path / "shot.tif", "-o", tmp_path / "clean.tif")

    assert "model mine" in err
    assert "photon noise made even (gain 2, read noise 2.02)" in err
