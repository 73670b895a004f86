import io
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from engine.evaluation.evaluate import evaluate_pairs, gaussian_pairs
from engine.imageio.read import read as read_file
from engine.inference.self_ensemble import Ensemble
from engine.layers import kernels
from engine.models import checkpoint
from engine.models.networks import UNetConfig, build_network
from service import cli, version
from service.cli import evaluate
from service.params import DenoiseParams
from service.settings import Settings

EXACT = ["--precision", "float32"]
SMALL = ["--hidden", "4", "--patch=8", "--noise-range", "2,3", "--batch", "2", *EXACT]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Weights that give back their input."""
    path = tmp_path_factory.mktemp("weights") / "plain.safetensors"
    spec = UNetConfig((8,), (1,))
    checkpoint.save(path, build_network(spec, torch.Generator().manual_seed(0)), spec, {"psnr": "31.50"})
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of three images of 40 x 40."""
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(256, size=(40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{seed}.png")
    return folder


@pytest.fixture
def denoise(capsys):
    """Runs the command; gives its exit code and what it wrote to stdout and stderr."""

    def run(*args):
        with pytest.raises(SystemExit) as stopped:
            cli.main([str(arg) for arg in args])
        return stopped.value.code or 0, *capsys.readouterr()

    return run


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


COMMANDS = ["run", "estimate", "serve", "train", "evaluate", "ship", "sweep", "demo", "plot", "models", "keys"]


def test_help_names_every_command(denoise):
    code, text, _ = denoise("--help")

    assert code == 0
    assert all(f" {command} " in text for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_a_help_with_an_example(denoise, command):
    code, text, _ = denoise(command, "--help")

    assert code == 0
    assert text.count(f"denoise {command}") >= 2


def test_version_tells_the_kernels_too(denoise):
    code, text, _ = denoise("--version")

    assert code == 0
    assert text == f"denoise {version()}, kernels {kernels.name()}\n"


@pytest.mark.parametrize(
    "command", [["--version"], ["serve", "--port", "0"], ["train", "paper", "-o", "w.safetensors"]]
)
def test_a_choice_of_kernels_that_there_are_not_is_told_in_one_line(command):
    ended = subprocess.run(
        [sys.executable, "-m", "service.cli", *command],
        env=os.environ | {"DENOISE_KERNELS": "fast"}, capture_output=True, text=True,
    )  # fmt: skip

    assert ended.returncode == 1
    assert ended.stderr.startswith("error: DENOISE_KERNELS is one of auto, ")
    assert ended.stderr.endswith("; got 'fast'\n")
    assert ended.stderr.count("\n") == 1


def test_run_warns_once_if_there_are_no_kernels(denoise, model, photos, tmp_path, monkeypatch):
    monkeypatch.delenv(kernels.SETTING, raising=False)
    monkeypatch.setattr(kernels, "chosen", lambda: None)

    code, _, told = denoise("run", photos, "-o", tmp_path, "--model", model)

    assert (code, told) == (0, f"warning: {kernels.warning()}\n")


def test_help_does_not_wait_for_torch():
    loaded = subprocess.run(
        [sys.executable, "-c", "import service.cli, sys; print('torch' in sys.modules)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert loaded.stdout.strip() == "False"


def test_run_denoises_a_folder_and_keeps_names(denoise, model, photos, tmp_path):
    code, _, _ = denoise("run", photos, "-o", tmp_path / "clean", "--model", model)

    assert code == 0
    assert sorted(file.name for file in (tmp_path / "clean").glob("[!.]*")) == ["0.png", "1.png", "2.png"]
    assert (pixels(tmp_path / "clean" / "1.png") == pixels(photos / "1.png")).all()


def test_run_compresses_as_hard_as_it_is_told(denoise, model, tmp_path):
    Image.new("RGB", (40, 40)).save(tmp_path / "black.png")
    for level in ("0", "9"):
        given = (tmp_path / "black.png", "-o", tmp_path / f"{level}.png")
        denoise("run", *given, "--model", model, "--png-level", level)

    assert (tmp_path / "0.png").stat().st_size > 40 * 40 * 3 > (tmp_path / "9.png").stat().st_size
    assert (pixels(tmp_path / "0.png") == pixels(tmp_path / "9.png")).all()


def test_run_takes_every_wish_of_the_service(denoise):
    _, text, _ = denoise("run", "--help")

    assert all(f"--{name} " in text for name in DenoiseParams.model_fields)


def test_run_writes_what_it_is_asked_for_and_says_what_that_lacks(denoise, model, tmp_path):
    Image.fromarray(np.full((40, 40), 30000, np.uint16)).save(tmp_path / "deep.png")
    params = ["--strength=0", "--luma=0.5", "--chroma=0.5", "--output=compare", "--page=1", "--quality=80"]

    code, _, told = denoise("run", tmp_path / "deep.png", "-o", tmp_path / "o.jpg", "--model", model, *params)

    assert code == 0
    assert "deep.png: 16 bits a channel to 8 bits a channel" in told
    with Image.open(tmp_path / "o.jpg") as image:
        assert (image.format, image.size) == ("JPEG", (80, 40))


def test_run_refuses_a_format_that_is_not_written(denoise, model, photos, tmp_path):
    code, _, told = denoise("run", photos, "-o", tmp_path / "o", "--model", model, "--format", "heic")

    assert code == 1
    assert told.startswith(
        "error: HEIC can be read but not written. Output formats: jpeg, png, webp, tiff and avif"
    )


def test_run_reports_a_broken_image_finishes_the_rest_and_exits_with_1(denoise, model, photos, tmp_path):
    (tmp_path / "broken.png").write_bytes((photos / "0.png").read_bytes()[:200])

    code, _, told = denoise(
        "run", tmp_path / "broken.png", photos / "1.png", "-o", tmp_path / "o", "--model", model
    )

    assert code == 1
    assert "broken.png: " in told
    assert "error: 1 of 2 images not denoised" in told
    assert [file.name for file in (tmp_path / "o").glob("[!.]*")] == ["1.png"]


def test_run_writes_over_a_file_only_with_force(denoise, model, photos, tmp_path):
    target = tmp_path / "out.png"
    target.write_text("mine")

    refused, _, told = denoise("run", photos / "0.png", "-o", target, "--model", model)
    kept = target.read_text()
    allowed, _, _ = denoise("run", photos / "0.png", "-o", target, "--model", model, "--force")

    assert refused == 1
    assert told.startswith("error: already there")
    assert kept == "mine"
    assert allowed == 0
    assert pixels(target).shape == (40, 40, 3)


def test_run_with_resume_does_what_is_missing_and_what_has_changed(denoise, model, photos, tmp_path):
    scans, clean = shutil.copytree(photos, tmp_path / "scans"), tmp_path / "clean"
    given = ["run", scans, "-o", clean, "--model", model, "--resume"]
    denoise(*given[:-1])
    (clean / "0.png").unlink()
    shutil.copy(photos / "0.png", scans / "1.png")
    kept = (clean / "2.png").stat()

    code, _, told = denoise(*given)

    assert (code, told) == (0, "1 of 3 images are done already\n")
    assert (pixels(clean / "1.png") == pixels(clean / "0.png")).all()
    assert (clean / "2.png").stat() == kept


@pytest.mark.parametrize("other", [["--strength", "0.5"], ["--format", "jpeg"], ["--png-level", "9"]])
def test_run_with_resume_does_again_what_is_wanted_otherwise_now(denoise, model, photos, tmp_path, other):
    given = ["run", photos, "-o", tmp_path / "o", "--model", model]
    denoise(*given)

    _, _, told = denoise(*given, "--resume", *other)

    assert told == "0 of 3 images are done already\n"


def test_run_with_resume_writes_over_what_it_did_not_make_only_with_force(denoise, model, photos, tmp_path):
    given = ["run", photos, "-o", tmp_path, "--model", model, "--resume"]
    (tmp_path / "1.png").write_text("mine")

    refused, _, told = denoise(*given)
    kept, others = (tmp_path / "1.png").read_text(), (tmp_path / "0.png").exists()
    allowed, _, _ = denoise(*given, "--force")

    assert (refused, kept, others, allowed) == (1, "mine", False, 0)
    assert told.startswith("error: already there, not as made here, and written over only with force: ")
    assert (pixels(tmp_path / "1.png") == pixels(photos / "1.png")).all()


def test_run_refuses_to_watch_what_it_cannot(denoise, model, photos, tmp_path):
    within, _, told_within = denoise("run", "--watch", photos, "-o", photos / "clean", "--model", model)
    several, _, told_several = denoise("run", "--watch", photos, photos, "-o", tmp_path / "o", "--model", model)

    assert (within, several) == (1, 2)
    assert told_within.startswith(f"error: {photos / 'clean'} is in {photos}, ")
    assert "takes one folder" in told_several
    assert not (photos / "clean").exists()


def test_run_with_resume_needs_a_folder(denoise, photos, tmp_path):
    code, _, told = denoise("run", photos / "0.png", "-o", tmp_path / "x.png", "--resume")

    assert code == 2
    assert "takes a folder after -o" in told


def test_run_that_is_stopped_ends_after_the_image_in_hand_and_goes_on(
    denoise, model, photos, tmp_path, monkeypatch
):
    def decode(data, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        return read(data, **options)

    read = read_file
    given = ["run", photos, "-o", tmp_path / "o", "--model", model]
    with monkeypatch.context() as patched:
        patched.setattr("engine.batch.tasks.read", decode)
        stopped, _, told = denoise(*given)
    made = [file.name for file in (tmp_path / "o").glob("[!.]*")]
    ended, _, _ = denoise(*given, "--resume")

    assert (stopped, told) == (130, "stopped; 2 of 3 images are left: go on with --resume\n")
    assert made == ["0.png"]
    assert ended == 0
    assert len(list((tmp_path / "o").glob("[!.]*"))) == 3


def test_run_reads_and_writes_pipes(model, photos, monkeypatch, capsysbinary):
    sent = SimpleNamespace(buffer=io.BytesIO((photos / "0.png").read_bytes()))
    monkeypatch.setattr("sys.stdin", sent)

    with pytest.raises(SystemExit) as stopped:
        cli.main(["run", "-", "--model", str(model)])

    assert not stopped.value.code
    assert (pixels(io.BytesIO(capsysbinary.readouterr().out)) == pixels(photos / "0.png")).all()


@pytest.fixture
def noisy(tmp_path):
    """Two files in a folder: white noise of 25, and white noise of 10 in grey, then compressed as JPEG."""
    folder = tmp_path / "noisy"
    folder.mkdir()
    for name, sigma, size in (("colour.png", 25, (256, 256, 3)), ("grey.jpg", 10, (256, 256))):
        values = 128 + np.random.default_rng(0).normal(0, sigma, size)
        Image.fromarray(values.clip(0, 255).round().astype(np.uint8)).save(folder / name, quality=80)
    return folder


def test_estimate_tells_the_noise_of_each_image_and_what_auto_takes(denoise, noisy):
    code, text, _ = denoise("estimate", noisy)

    rows = [line.split("│")[1:-1] for line in text.splitlines() if line.startswith("│")]
    images, words, takes = ("".join(cells).replace(" ", "") for cells in zip(*rows, strict=True))
    assert code == 0
    assert images == f"{noisy / 'colour.png'}{noisy / 'grey.jpg'}"
    assert words.endswith("compressedasJPEG.")
    assert takes.startswith("photo-gaussian")


def test_estimate_gives_all_it_found_as_json(denoise, noisy):
    code, text, _ = denoise("estimate", noisy, "--json")

    colour, grey = json.loads(text)
    assert code == 0
    assert colour["image"] == str(noisy / "colour.png")
    assert colour["sigma"] == pytest.approx([25, 25, 25], rel=0.1)
    assert (colour["correlated"], colour["jpeg_blocks"], colour["model"]) == (False, False, "photo-gaussian")
    assert len(grey["sigma"]) == 1
    assert grey["jpeg_blocks"]
    assert grey["words"].endswith("compressed as JPEG.")


def test_estimate_tells_of_a_broken_image_and_ends_with_1(denoise, noisy):
    (noisy / "broken.png").write_bytes(b"no image")

    code, text, told = denoise("estimate", noisy, "--json")

    assert code == 1
    assert len(json.loads(text)) == 2
    assert "broken.png: This is not an image" in told
    assert told.endswith("error: 1 of 3 images not looked at\n")


def test_estimate_looks_at_the_page_it_is_told_to(denoise, tmp_path):
    flat, noise = np.zeros((64, 64), np.uint8), np.random.default_rng(0).integers(256, size=(64, 64))
    pages = [Image.fromarray(flat), Image.fromarray(noise.astype(np.uint8))]
    pages[0].save(tmp_path / "two.tif", save_all=True, append_images=pages[1:])

    (_, first, _), (_, second, _) = (
        denoise("estimate", tmp_path / "two.tif", "--json", *p) for p in ([], ["--page", 2])
    )

    assert json.loads(first)[0]["sigma"] is None
    assert json.loads(second)[0]["sigma"]


def test_run_without_a_place_to_write_to_is_wrong_usage(denoise, photos):
    code, _, told = denoise("run", photos)

    assert code == 2
    assert "say where to" in told


def test_an_error_is_one_line_without_a_traceback(denoise, photos, tmp_path):
    code, text, told = denoise("run", photos, "-o", tmp_path / "o", "--model", "none")

    assert code == 1
    assert text == ""
    assert told.startswith("error: no weights 'none'; there are ")
    assert told.count("\n") == 1


def test_evaluate_prints_one_json_object_for_pairs(denoise, model, tmp_path):
    clean = torch.full((2, 3, 32, 32), 100, dtype=torch.uint8)
    torch.save((clean + 10, clean), tmp_path / "val.pkl")

    code, text, _ = denoise("evaluate", model, "--pairs", tmp_path / "val.pkl", "--json", *EXACT)

    found = json.loads(text)
    assert code == 0
    assert found["images"] == 2
    assert found["noisy_psnr"] == pytest.approx(28.13, abs=0.01)
    assert found["psnr"] == pytest.approx(28.13, abs=0.01)
    assert 0 < found["ssim"] < 1
    assert found["megapixels_per_second"] > 0
    assert found["digest"] == checkpoint.load(model).digest
    assert found["precision"] == "float32"


@pytest.mark.parametrize("levels", [["--sigma", "15", "25"], ["--sigma", "15", "--sigma", "25"]])
def test_evaluate_takes_several_levels_of_noise_either_way(denoise, model, photos, levels):
    _, text, _ = denoise("evaluate", "--clean", photos, *levels, model, "--json", *EXACT)

    found = json.loads(text)["sigma"]
    assert set(found) == {"15", "25"}
    assert found["15"]["noisy_psnr"] == pytest.approx(24.6, abs=0.2)
    assert found["25"]["noisy_psnr"] == pytest.approx(20.2, abs=0.2)


def test_evaluate_with_one_level_has_its_numbers_at_the_top(denoise, model, photos):
    _, text, _ = denoise("evaluate", model, "--clean", photos, "--sigma", "25", "--limit", "2", "--json", *EXACT)

    assert json.loads(text)["images"] == 2


def test_evaluate_prints_a_table_with_a_row_for_each_level(denoise, model, photos):
    code, text, _ = denoise("evaluate", model, "--clean", photos, *EXACT)

    assert code == 0
    assert [line.split("│")[1].strip() for line in text.splitlines() if line.startswith("│")] == [
        "15",
        "25",
        "50",
    ]


@pytest.mark.parametrize("given", [[], ["--pairs", "a", "--clean", "b"]])
def test_evaluate_without_images_or_with_two_kinds_is_wrong_usage(denoise, model, given):
    code, _, told = denoise("evaluate", model, *given)

    assert code == 2
    assert "give one of the two" in told


@pytest.fixture
def suite(photos, tmp_path):
    """A folder with two of the standard sets."""
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets" / "kodak24").symlink_to(photos)
    (tmp_path / "sets" / "cbsd68").symlink_to(photos)
    return tmp_path / "sets"


def test_evaluate_gives_a_row_for_each_set_of_the_suite_and_names_the_missing(denoise, model, suite):
    code, text, told = denoise("evaluate", model, "--suite", suite, "--limit", 2, "--json", *EXACT)

    rows = json.loads(text)
    assert code == 0
    assert "left out" in told
    assert "polyu, paper/val.pkl" in told
    assert [(row["set"], row["noise"]) for row in rows] == [
        *((name, f"white {sigma}") for name in ("cbsd68", "kodak24") for sigma in (15, 25, 50)),
        ("kodak24", "8-bit 25"), ("cbsd68", "grey 25"), ("kodak24", "none"),
        ("prints", "white 25"), ("prints", "none"),
    ]  # fmt: skip
    assert all(row["images"] == 2 for row in rows)
    assert rows[1]["noisy_psnr"] == pytest.approx(20.2, abs=0.2)
    # These weights give back their input.
    assert rows[1]["psnr"] >= rows[1]["noisy_psnr"]
    assert rows[-1]["psnr"] == 100
    assert rows[0].keys() >= {"ssim", "megapixels_per_second"}
    about = {key: rows[0][key] for key in ("network", "precision", "digest", "quality")}
    digest = checkpoint.load(model).digest
    assert about == {"network": "plain", "precision": "float32", "digest": digest, "quality": "normal"}


def test_evaluate_prints_the_suite_as_a_table(denoise, model, suite):
    code, text, _ = denoise("evaluate", model, "--suite", suite, "--limit", 1, *EXACT)

    assert code == 0
    assert all(len(line) <= 80 for line in text.splitlines())
    assert sum(line.startswith("│ kodak24") for line in text.splitlines()) == 5


def test_evaluate_says_how_many_images_each_of_the_chosen_weights_had(denoise, suite):
    code, text, _ = denoise("evaluate", "auto", "--suite", suite, "--limit", 1, "--json", *EXACT)
    rows = json.loads(text)
    _, table, _ = denoise("evaluate", "auto", "--suite", suite, "--limit", 1, *EXACT)

    assert code == 0
    assert all(sum(row["chosen"].values()) == row["images"] == 1 for row in rows)
    assert [row["chosen"] for row in rows if row["noise"] == "grey 25"] == [{"photo-grey": 1}]
    assert all(len(line) <= 80 for line in table.splitlines())
    [grey] = [line for line in table.splitlines() if "photo-grey" in line]
    assert [cell.strip() for cell in grey.strip("│").split("│")] == ["cbsd68", "grey 25", "photo-grey", "1"]


def test_evaluate_writes_a_page_beside_its_table(denoise, model, photos, tmp_path):
    code, text, _ = denoise("evaluate", model, "--clean", photos, "--report", tmp_path / "page", *EXACT)

    page = (tmp_path / "page" / "index.html").read_text()
    assert code == 0
    assert "│" in text
    assert checkpoint.load(model).digest in page
    assert page.count("<h3") == 9


def test_evaluate_in_high_quality_is_the_mean_over_flips_and_turns(denoise, save_tiny, photos, tmp_path):
    tiny = save_tiny(tmp_path / "tiny.safetensors")
    given = ["evaluate", tiny, "--clean", photos, "--sigma", 25, "--json", *EXACT]

    (_, plain, _), (_, high, _) = denoise(*given), denoise(*given, "--quality", "high")

    pairs = list(gaussian_pairs(photos, 25))
    expected = evaluate_pairs(Ensemble(checkpoint.load(tiny).net), pairs).psnr
    assert json.loads(high)["psnr"] == pytest.approx(expected, abs=1e-4)
    assert json.loads(high)["psnr"] != json.loads(plain)["psnr"]
    assert (json.loads(plain)["quality"], json.loads(high)["quality"]) == ("normal", "high")


def test_ship_halves_weights_that_lose_nothing_by_it(denoise, model, photos, tmp_path):
    out = tmp_path / "out.safetensors"

    code, _, told = denoise("ship", model, "--clean", photos, "--sigma", 25, "--out", out)

    shipped = checkpoint.load(out)
    assert code == 0
    assert "changes an image by up to 0.000000 dB: written in float16" in told
    assert shipped.metadata["dtype"] == "float16"
    assert shipped.metadata["psnr"] == "31.50"
    assert out.stat().st_size < 0.7 * model.stat().st_size


def test_ship_keeps_weights_in_float32_that_would_lose_by_less(denoise, save_tiny, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "LARGEST_CHANGE", 0)
    out = tmp_path / "out.safetensors"

    code, _, told = denoise("ship", save_tiny(tmp_path / "tiny.safetensors"), "--clean", photos, "--out", out)

    assert code == 0
    assert "written in float32" in told
    assert checkpoint.load(out).metadata["dtype"] == "float32"


@pytest.fixture
def served(monkeypatch):
    """The settings that the service was started with, and where it was to listen."""
    seen = SimpleNamespace(settings=None, host=None, port=None)

    def serve(settings, host, port):
        vars(seen).update(settings=settings, host=host, port=port)

    monkeypatch.setattr("service.server.server.serve", serve)
    return seen


def test_serve_takes_settings_from_flags_and_else_from_the_environment(denoise, served, tmp_path, monkeypatch):
    monkeypatch.setenv("DENOISE_MAX_PIXELS", "1000")
    monkeypatch.setenv("DENOISE_MAX_BYTES", "2000")

    code, _, _ = denoise("serve", "--port", 9000, "--weights", tmp_path, "--max-pixels", 300, "--device", "cpu")

    assert code == 0
    assert served.settings.weights == tmp_path
    assert served.settings.device == "cpu"
    assert served.settings.max_pixels == 300
    assert served.settings.max_bytes == 2000
    assert served.settings.model == "auto"
    assert (served.host, served.port) == ("127.0.0.1", 9000)


def test_every_setting_is_a_flag_of_serve_with_its_description(denoise):
    _, text, _ = denoise("serve", "--help")

    assert all(f"--{name.replace('_', '-')} " in text for name in Settings.model_fields if name != "keys")
    assert "Largest request body" in text


def test_serve_refuses_a_setting_out_of_bounds_by_name(denoise, served):
    code, _, told = denoise("serve", "--max-pixels", 0)

    assert code == 1
    assert told == "error: max_pixels: Input should be greater than or equal to 1\n"
    assert served.settings is None


def test_keys_themselves_are_no_flag_for_everyone_to_read(denoise):
    code, _, told = denoise("serve", "--keys", "web:" + "x" * 40)

    assert code == 2
    assert "No such option" in told


def test_serve_refuses_a_file_that_holds_keys_themselves_without_repeating_them(denoise, tmp_path, monkeypatch):
    monkeypatch.setattr("service.telemetry.logs.configure", lambda settings: None)
    (tmp_path / "keys").write_text("x" * 40)

    code, _, told = denoise("serve", "--port", 0, "--keys-file", tmp_path / "keys")

    assert code == 1
    assert told.startswith(f"error: {tmp_path}/keys: line 1: ")
    assert "x" * 32 not in told
    assert told.count("\n") == 1


def test_keys_are_made_listed_and_revoked(denoise, tmp_path, monkeypatch):
    monkeypatch.setenv("DENOISE_KEYS_FILE", str(tmp_path / "keys"))

    _, secret, _ = denoise("keys", "add", "scanner")
    denoise("keys", "add", "web", "--admin", "--rate", 60, "--pixels", 500_000_000)
    _, both, _ = denoise("keys", "list")
    denoise("keys", "revoke", "scanner")
    _, left, _ = denoise("keys", "list")
    code, _, told = denoise("keys", "revoke", "scanner")

    assert secret.strip().startswith("denoise_")
    assert secret.strip() not in both
    assert all(word in both for word in ("scanner", "web", "yes", "60", "500,000,000"))
    assert "scanner" not in left
    assert code == 1
    assert "has no key 'scanner'; there are: web" in told


def test_keys_says_which_file_is_missing(denoise, monkeypatch):
    monkeypatch.delenv("DENOISE_KEYS_FILE", raising=False)

    code, _, told = denoise("keys", "add", "scanner")

    assert code == 2
    assert "--keys-file" in told


def test_serve_without_weights_says_so_in_one_line(denoise, tmp_path, monkeypatch):
    monkeypatch.setattr("service.telemetry.logs.configure", lambda settings: None)

    code, _, told = denoise("serve", "--port", 0, "--weights", tmp_path)

    assert code == 1
    assert told.startswith("error: ")
    assert "photo-gaussian.safetensors" in told
    assert told.count("\n") == 1


def test_what_is_no_file_of_pairs_is_an_error_of_one_line(denoise, model, tmp_path):
    (tmp_path / "odd.pkl").write_bytes(pickle.dumps(print, protocol=2))

    code, _, told = denoise("evaluate", model, "--pairs", tmp_path / "odd.pkl")

    assert code == 1
    assert told.startswith("error: ")
    assert "odd.pkl" in told
    assert told.count("\n") == 1


def test_train_takes_every_value_of_the_recipe_as_a_flag(denoise, photos, tmp_path):
    out = tmp_path / "my.safetensors"

    code, _, told = denoise(
        "train", "--lr=0.25", "paper", "--data", photos, "--steps", 2, "--out", out, *SMALL, "--set", "seed=3"
    )

    recipe = json.loads(checkpoint.load(out).metadata["recipe"])
    assert code == 0
    assert "step 2 " in told
    assert {key: recipe[key] for key in ("lr", "hidden", "patch", "noise_range", "seed", "steps")} == {
        "lr": 0.25, "hidden": 4, "patch": 8, "noise_range": [2.0, 3.0], "seed": 3, "steps": 2,
    }  # fmt: skip
    assert out.with_suffix(".jsonl").read_text().count("\n") >= 1


def test_train_goes_on_with_resume(denoise, photos, tmp_path):
    given = ["train", "paper", "--data", photos, "--out", tmp_path / "my.safetensors", *SMALL]
    denoise(*given, "--steps", 1)

    again, _, told = denoise(*given, "--steps", 2)
    resumed, _, _ = denoise(*given, "--steps", 2, "--resume")

    assert again == 1
    assert "resume that run" in told
    assert resumed == 0
    assert checkpoint.load(tmp_path / "my.safetensors").metadata["steps"] == "2"


def test_train_begins_from_weights_that_exist(denoise, photos, tmp_path):
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    given = ["train", "paper", "--data", photos, "--steps", 1, *SMALL]
    denoise(*given, "--out", first)

    code, _, _ = denoise(*given, "--out", second, "--start", first)

    assert code == 0
    assert checkpoint.load(second).metadata["start"] == f"first {checkpoint.load(first).digest}"


def test_train_refuses_an_unknown_flag_by_name(denoise, tmp_path):
    code, _, told = denoise("train", "paper", "--out", tmp_path / "my.safetensors", "--learning-rate", "1")

    assert code == 1
    assert "unknown: learning_rate; a recipe takes" in told
    assert not list(tmp_path.iterdir())


def test_train_that_is_stopped_says_how_to_go_on(denoise, tmp_path, monkeypatch):
    monkeypatch.setattr("engine.training.trainer.run", lambda *_: False)

    code, _, told = denoise("train", "paper", "--out", tmp_path / "my.safetensors")

    assert code == 130
    assert "go on with --resume" in told


def test_sweep_leaves_a_table_and_a_plot(denoise, photos, tmp_path, monkeypatch):
    monkeypatch.setattr("engine.evaluation.figures.BATCHES", (2,))
    monkeypatch.setattr("engine.evaluation.figures.RATES", (0.5,))
    monkeypatch.setattr("engine.evaluation.figures.WIDTHS", (4,))

    code, _, _ = denoise("sweep", "--steps", 2, "--data", photos, *SMALL, "--lr", 0.5, "--out", tmp_path)

    assert code == 0
    assert "| 2 | " in (tmp_path / "sweep.md").read_text()
    assert pixels(tmp_path / "sweep.png").ndim == 3


def test_demo_draws_as_many_images_as_wanted(denoise, model, photos, tmp_path):
    for count in (1, 2):
        denoise("demo", model, "--clean", photos, "--count", count, "--out", tmp_path / f"{count}.png")

    assert pixels(tmp_path / "2.png").shape[0] == 2 * pixels(tmp_path / "1.png").shape[0]


def test_plot_draws_beside_the_log(denoise, tmp_path):
    (tmp_path / "my.jsonl").write_text('{"step": 1, "megapixels": 0.1, "loss": 0.5, "psnr": 20}\n')

    code, _, _ = denoise("plot", tmp_path / "my.jsonl")

    assert code == 0
    assert pixels(tmp_path / "my.png").ndim == 3


def test_models_lists_each_with_its_digest_and_psnr(denoise, model):
    code, text, _ = denoise("models", "--weights", model.parent)

    assert code == 0
    [row] = [line for line in text.splitlines() if "plain" in line]
    assert "photo" in row
    assert checkpoint.load(model).digest[:12] in row
    assert "31.50" in row
