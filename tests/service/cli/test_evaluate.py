"""`denoise evaluate`."""

import json
import pickle

import pytest
import torch

from engine.evaluation.evaluate import evaluate_pairs
from engine.evaluation.samples import gaussian_pairs
from engine.inference.self_ensemble import SelfEnsemble
from engine.models import checkpoint

EXACT = ["--precision", "float32"]


def test_evaluate_prints_a_list_of_one_row_for_pairs(denoise, model, tmp_path):
    clean = torch.full((2, 3, 32, 32), 100, dtype=torch.uint8)
    torch.save((clean + 10, clean), tmp_path / "val.pkl")

    code, text, _ = denoise("evaluate", model, "--pairs", tmp_path / "val.pkl", "--json", *EXACT)

    [found] = json.loads(text)
    assert code == 0
    assert (found["set"], found["noise"], found["images"]) == ("val.pkl", "recorded", 2)
    assert found["noisy_psnr"] == pytest.approx(28.13, abs=0.01)
    assert found["psnr"] == pytest.approx(28.13, abs=0.01)
    assert 0 < found["ssim"] < 1
    assert found["megapixels_per_second"] > 0
    assert found["digest"] == checkpoint.load(model).digest
    assert found["precision"] == "float32"


@pytest.mark.parametrize("levels", [["--sigma", "15", "25"], ["--sigma", "15", "--sigma", "25"]])
def test_evaluate_takes_several_noise_levels_in_two_notations(denoise, model, photos, levels):
    _, text, _ = denoise("evaluate", "--clean", photos, *levels, model, "--json", *EXACT)

    rows = json.loads(text)
    assert [(row["set"], row["noise"]) for row in rows] == [(photos.name, "white 15"), (photos.name, "white 25")]
    assert [row["noisy_psnr"] for row in rows] == [pytest.approx(24.6, abs=0.2), pytest.approx(20.2, abs=0.2)]


def test_evaluate_with_one_level_prints_a_list_of_one_row(denoise, model, photos):
    _, text, _ = denoise("evaluate", model, "--clean", photos, "--sigma", "25", "--limit", "2", "--json", *EXACT)

    assert [row["images"] for row in json.loads(text)] == [2]


def test_evaluate_prints_a_table_with_a_row_for_each_level(denoise, model, photos):
    code, text, _ = denoise("evaluate", model, "--clean", photos, *EXACT)

    assert code == 0
    rows = [line.split("│") for line in text.splitlines() if line.startswith("│")]
    assert [row[2].strip() for row in rows] == ["white 15", "white 25", "white 50"]


@pytest.mark.parametrize("command", [[], ["--pairs", "a", "--clean", "b"]])
def test_evaluate_needs_exactly_one_kind_of_images(denoise, model, command):
    code, _, stderr = denoise("evaluate", model, *command)

    assert code == 2
    assert "give one of the two" in stderr


def test_a_suite_cannot_be_combined_with_other_images(denoise, model, photos, tmp_path):
    code, _, stderr = denoise("evaluate", model, "--suite", tmp_path, "--clean", photos)

    assert code == 2
    assert "cannot be combined" in stderr


@pytest.fixture
def suite(photos, tmp_path):
    """A folder with two of the standard sets."""
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets" / "kodak24").symlink_to(photos)
    (tmp_path / "sets" / "cbsd68").symlink_to(photos)
    return tmp_path / "sets"


def test_a_suite_has_a_row_for_each_set_and_names_missing_ones(denoise, model, suite):
    code, text, stderr = denoise("evaluate", model, "--suite", suite, "--limit", 2, "--json", *EXACT)

    rows = json.loads(text)
    assert code == 0
    assert "skipped" in stderr
    assert "polyu, paper/val.pkl" in stderr
    assert [(row["set"], row["noise"]) for row in rows] == [
        *((name, f"white {sigma}") for name in ("cbsd68", "kodak24") for sigma in (15, 25, 50)),
        ("kodak24", "8-bit 25"), ("cbsd68", "grey 25"), ("kodak24", "none"),
        ("patterns", "white 25"), ("patterns", "none"),
        *(("microscope", f"{n} photons") for n in (5, 20, 50, 200)),
        *(("microscope", f"{n} photons + 100") for n in (5, 20, 50, 200)),
        ("stars", "photons"), ("offsets", "white 20"), ("offsets", "white 20, moved"),
        ("pixel art", "none"), ("screenshot", "none"), ("line art", "none"),
        ("impulses", "4 %"), ("impulses", "4 %, white 15"),
    ]  # fmt: skip
    assert all(row["images"] == 2 for row in rows)
    assert rows[1]["noisy_psnr"] == pytest.approx(20.2, abs=0.2)
    # These weights return their input.
    assert rows[1]["psnr"] >= rows[1]["noisy_psnr"]
    assert rows[10]["psnr"] == 100
    assert rows[0].keys() >= {"ssim", "megapixels_per_second"}
    about = {key: rows[0][key] for key in ("network", "precision", "digest", "self_ensemble")}
    digest = checkpoint.load(model).digest
    assert about == {"network": "plain", "precision": "float32", "digest": digest, "self_ensemble": False}


def test_measured_images_have_further_figures_and_others_none(denoise, model, suite, tmp_path):
    command = ("evaluate", model, "--suite", suite, "--limit", 1, *EXACT)
    _, text, _ = denoise(*command, "--json")
    _, table, _ = denoise(*command, "--report", tmp_path / "page")

    rows = {(row["set"], row["noise"]): row for row in json.loads(text)}
    names = {"rmse", "total", "flux", "ground", "bias", "changed", "fitted_gain"}
    assert not names & rows["kodak24", "none"].keys()
    assert names & rows["stars", "photons"].keys() == {"rmse", "flux", "ground", "bias"}
    # These weights return their input.
    assert rows["pixel art", "none"]["changed"] == 0
    assert rows["microscope", "20 photons + 100"]["total"] == pytest.approx(1, abs=0.02)
    assert rows["stars", "photons"]["ground"] == pytest.approx(800**0.5, rel=0.05)
    assert "changed 0" in table
    page = (tmp_path / "page" / "index.html").read_text()
    assert "Means over measured images" in page


def test_evaluate_prints_the_suite_as_a_table(denoise, model, suite):
    code, text, _ = denoise("evaluate", model, "--suite", suite, "--limit", 1, *EXACT)

    assert code == 0
    assert all(len(line) <= 80 for line in text.splitlines())
    assert sum(line.startswith("│ kodak24") for line in text.splitlines()) == 5


def test_evaluate_counts_the_weights_that_auto_chose(denoise, suite):
    code, text, _ = denoise("evaluate", "auto", "--suite", suite, "--limit", 1, "--json", *EXACT)
    rows = json.loads(text)
    _, table, _ = denoise("evaluate", "auto", "--suite", suite, "--limit", 1, *EXACT)

    assert code == 0
    assert all(sum(row["chosen"].values()) == row["images"] == 1 for row in rows)
    assert [row["chosen"] for row in rows if row["noise"] == "grey 25"] == [{"photo-grey": 1}]
    assert all(len(line) <= 80 for line in table.splitlines())
    [grey] = [line for line in table.splitlines() if "photo-grey" in line and "cbsd68" in line]
    assert [cell.strip() for cell in grey.strip("│").split("│")] == ["cbsd68", "grey 25", "photo-grey", "1"]


def test_evaluate_writes_a_report_beside_its_table(denoise, model, photos, tmp_path):
    code, text, _ = denoise("evaluate", model, "--clean", photos, "--report", tmp_path / "page", *EXACT)

    page = (tmp_path / "page" / "index.html").read_text()
    assert code == 0
    assert "│" in text
    assert checkpoint.load(model).digest in page
    assert page.count("<h3") == 9


def test_high_quality_is_the_mean_over_flips_and_rotations(denoise, save_tiny, photos, tmp_path):
    tiny = save_tiny(tmp_path / "tiny.safetensors")
    command = ["evaluate", tiny, "--clean", photos, "--sigma", 25, "--json", *EXACT]

    (_, plain, _), (_, high, _) = denoise(*command), denoise(*command, "--self-ensemble")

    pairs = list(gaussian_pairs(photos, 25))
    expected = evaluate_pairs(SelfEnsemble(checkpoint.load(tiny).net), pairs).psnr
    [plain_row], [high_row] = json.loads(plain), json.loads(high)
    assert high_row["psnr"] == pytest.approx(expected, abs=1e-4)
    assert high_row["psnr"] != plain_row["psnr"]
    assert (plain_row["self_ensemble"], high_row["self_ensemble"]) == (False, True)


def test_a_file_without_pairs_is_an_error_of_one_line(denoise, model, tmp_path):
    (tmp_path / "odd.pkl").write_bytes(pickle.dumps(print, protocol=2))

    code, _, stderr = denoise("evaluate", model, "--pairs", tmp_path / "odd.pkl")

    assert code == 1
    assert stderr.startswith("error: ")
    assert "odd.pkl" in stderr
    assert stderr.count("\n") == 1
