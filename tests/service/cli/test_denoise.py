"""`denoise run`."""

import inspect
import io
import os
import re
import shutil
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
from PIL import Image, JpegImagePlugin

from engine.batch import stack
from engine.imageio.formats import WRITABLE_FORMATS
from engine.imageio.read import read as read_file
from engine.layers import kernels
from service import cli
from service.cli.denoise import run
from service.params import DenoiseParams
from tests.support.raw_files import dng


def test_run_denoises_a_folder_and_keeps_names(denoise, model, photos, tmp_path, pixels):
    code, _, _ = denoise("run", photos, "-o", tmp_path / "clean", "--model", model)

    assert code == 0
    assert sorted(file.name for file in (tmp_path / "clean").glob("[!.]*")) == ["0.png", "1.png", "2.png"]
    assert (pixels(tmp_path / "clean" / "1.png") == pixels(photos / "1.png")).all()


def test_run_warns_once_if_there_are_no_kernels(denoise, model, photos, tmp_path, monkeypatch):
    monkeypatch.delenv(kernels.SETTING, raising=False)
    monkeypatch.setattr(kernels, "chosen", lambda: None)

    code, _, stderr = denoise("run", photos, "-o", tmp_path, "--model", model)

    assert code == 0
    assert stderr.startswith(f"warning: {kernels.warning()}\n")
    assert stderr.count("warning") == 1


def test_run_compresses_with_the_given_png_level(denoise, model, tmp_path, pixels):
    Image.new("RGB", (40, 40)).save(tmp_path / "black.png")
    for level in ("0", "9"):
        command = (tmp_path / "black.png", "-o", tmp_path / f"{level}.png")
        denoise("run", *command, "--model", model, "--png-level", level)

    assert (tmp_path / "0.png").stat().st_size > 40 * 40 * 3 > (tmp_path / "9.png").stat().st_size
    assert (pixels(tmp_path / "0.png") == pixels(tmp_path / "9.png")).all()


def test_run_has_every_option_of_the_http_api(denoise):
    _, text, _ = denoise("run", "--help")

    assert all(f"--{name} " in text for name in DenoiseParams.model_fields)


@pytest.mark.parametrize("name", ["quality", "strength", "luma", "chroma", "grain", "output", "page", "colour"])
def test_run_and_the_http_api_have_the_same_defaults(name):
    assert inspect.signature(run).parameters[name].default == DenoiseParams.model_fields[name].default


def test_run_reports_what_the_format_could_not_hold(denoise, model, tmp_path):
    Image.fromarray(np.full((40, 40), 30000, np.uint16)).save(tmp_path / "deep.png")
    params = ["--strength=0", "--luma=0.5", "--chroma=0.5", "--output=compare", "--page=1", "--quality=80"]

    code, _, stderr = denoise("run", tmp_path / "deep.png", "-o", tmp_path / "o.jpg", "--model", model, *params)

    assert code == 0
    assert "deep.png: " in stderr
    assert "8 bits" in stderr
    with Image.open(tmp_path / "o.jpg") as image:
        assert (image.format, image.size) == ("JPEG", (80, 40))


def test_run_refuses_a_format_that_is_not_written(denoise, model, photos, tmp_path):
    code, _, stderr = denoise("run", photos, "-o", tmp_path / "o", "--model", model, "--format", "heic")

    assert code == 2
    assert "HEIC can be read but not written" in stderr
    assert all(name in stderr for name in WRITABLE_FORMATS)


def test_run_reports_a_broken_image_and_does_the_others(denoise, model, photos, tmp_path):
    (tmp_path / "broken.png").write_bytes((photos / "0.png").read_bytes()[:200])

    code, _, stderr = denoise(
        "run", tmp_path / "broken.png", photos / "1.png", "-o", tmp_path / "o", "--model", model
    )

    assert code == 1
    assert "broken.png: " in stderr
    assert "error: 1 of 2 images could not be denoised" in stderr
    assert [file.name for file in (tmp_path / "o").glob("[!.]*")] == ["1.png"]


def test_run_overwrites_a_file_only_with_force(denoise, model, photos, tmp_path, pixels):
    target = tmp_path / "out.png"
    target.write_text("mine")

    refused, _, stderr = denoise("run", photos / "0.png", "-o", target, "--model", model)
    kept = target.read_text()
    allowed, _, _ = denoise("run", photos / "0.png", "-o", target, "--model", model, "--force")

    assert refused == 1
    assert stderr.startswith("error: ")
    assert str(target) in stderr
    assert kept == "mine"
    assert allowed == 0
    assert pixels(target).shape == (40, 40, 3)


def test_resume_does_missing_and_changed_images(denoise, model, photos, tmp_path, pixels):
    scans, clean = shutil.copytree(photos, tmp_path / "scans"), tmp_path / "clean"
    command = ["run", scans, "-o", clean, "--model", model, "--resume"]
    denoise(*command[:-1])
    (clean / "0.png").unlink()
    shutil.copy(photos / "0.png", scans / "1.png")
    kept = (clean / "2.png").stat()

    code, _, stderr = denoise(*command)

    assert code == 0
    assert stderr.startswith("skipping 1 of 3 images, which are done\n")
    assert (pixels(clean / "1.png") == pixels(clean / "0.png")).all()
    assert (clean / "2.png").stat() == kept


@pytest.mark.parametrize(
    "other", [["--strength", "0.5"], ["--grain", "0.5"], ["--format", "jpeg"], ["--png-level", "9"]]
)
def test_resume_repeats_images_whose_options_changed(denoise, model, photos, tmp_path, other):
    command = ["run", photos, "-o", tmp_path / "o", "--model", model]
    denoise(*command)

    _, _, stderr = denoise(*command, "--resume", *other)

    assert stderr.startswith("skipping 0 of 3 images, which are done\n")


def test_resume_overwrites_unknown_files_only_with_force(denoise, model, photos, tmp_path, pixels):
    command = ["run", photos, "-o", tmp_path, "--model", model, "--resume"]
    (tmp_path / "1.png").write_text("mine")

    refused, _, stderr = denoise(*command)
    kept, others = (tmp_path / "1.png").read_text(), (tmp_path / "0.png").exists()
    allowed, _, _ = denoise(*command, "--force")

    assert (refused, kept, others, allowed) == (1, "mine", False, 0)
    assert stderr.startswith("error: ")
    assert str(tmp_path / "1.png") in stderr
    assert (pixels(tmp_path / "1.png") == pixels(photos / "1.png")).all()


def test_resume_needs_a_folder(denoise, photos, tmp_path):
    code, _, stderr = denoise("run", photos / "0.png", "-o", tmp_path / "x.png", "--resume")

    assert code == 2
    assert "give a folder after -o" in stderr


def test_watch_needs_one_folder_outside_the_output(denoise, model, photos, tmp_path):
    within, _, stderr_within = denoise("run", "--watch", photos, "-o", photos / "clean", "--model", model)
    several, _, stderr_several = denoise("run", "--watch", photos, photos, "-o", tmp_path / "o", "--model", model)

    assert (within, several) == (1, 2)
    assert stderr_within.startswith("error: ")
    assert str(photos / "clean") in stderr_within
    assert "give exactly one folder" in stderr_several
    assert not (photos / "clean").exists()


def test_a_stopped_run_finishes_its_image_and_can_continue(denoise, model, photos, tmp_path, monkeypatch):
    def decode(data, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        return read(data, **options)

    read = read_file
    command = ["run", photos, "-o", tmp_path / "o", "--model", model]
    with monkeypatch.context() as patched:
        patched.setattr("engine.batch.reading.read", decode)
        stopped, _, stderr = denoise(*command)
    made = [file.name for file in (tmp_path / "o").glob("[!.]*")]
    ended, _, _ = denoise(*command, "--resume")

    assert stopped == 130
    assert stderr.endswith("stopped: 2 of 3 images are left. Use --resume to continue.\n")
    assert made == ["0.png"]
    assert ended == 0
    assert len(list((tmp_path / "o").glob("[!.]*"))) == 3


def test_a_folder_of_raw_and_jpeg_pairs_is_denoised(denoise, model, photos, tmp_path):
    scans = shutil.copytree(photos, tmp_path / "scans")
    (scans / "dir.png").mkdir()
    (scans / "0.dng").write_bytes(dng())

    target = f"{tmp_path}/scans.clean/"
    code, _, stderr = denoise("run", scans, "-o", target, "--model", model, "--format", "png")

    clean = tmp_path / "scans.clean"
    assert code == 0
    assert sorted(file.name for file in clean.glob("[!.]*")) == ["0.dng.png", "0.png.png", "1.png", "2.png"]
    assert stderr.startswith(
        "2 images have names that differ only in the suffix, so their outputs keep it:\n"
        f"{scans / '0.dng'}: {clean / '0.dng.png'}\n{scans / '0.png'}: {clean / '0.png.png'}\n"
    )


def test_run_reads_and_writes_pipes(model, photos, monkeypatch, capsysbinary, pixels):
    sent = SimpleNamespace(buffer=io.BytesIO((photos / "0.png").read_bytes()))
    monkeypatch.setattr("sys.stdin", sent)

    with pytest.raises(SystemExit) as stopped:
        cli.main(["run", "-", "--model", str(model)])

    assert not stopped.value.code
    assert (pixels(io.BytesIO(capsysbinary.readouterr().out)) == pixels(photos / "0.png")).all()


def test_run_without_an_output_is_wrong_usage(denoise, photos):
    code, _, stderr = denoise("run", photos)

    assert code == 2
    assert "give a folder for the results, such as -o clean/" in " ".join(stderr.replace("│", " ").split())


def test_one_image_without_an_output_is_written_beside_it(denoise, model, photos, tmp_path, pixels):
    shutil.copy(photos / "0.png", tmp_path / "a.png")

    code, _, stderr = denoise("run", tmp_path / "a.png", "--model", model)
    again, _, refused = denoise("run", tmp_path / "a.png", "--model", model)

    assert (code, again) == (0, 1)
    assert (pixels(tmp_path / "a.denoised.png") == pixels(tmp_path / "a.png")).all()
    assert stderr.startswith(f"{tmp_path / 'a.png'}: {tmp_path / 'a.denoised.png'}; ")
    assert "these outputs exist already" in refused


def test_a_jpeg_stays_one_in_its_own_quality(denoise, model, photos, tmp_path):
    with Image.open(photos / "0.png") as image:
        image.save(tmp_path / "a.jpg", quality=63, subsampling="4:2:2")

    code, _, stderr = denoise("run", tmp_path / "a.jpg", "--model", model)

    with Image.open(tmp_path / "a.jpg") as before, Image.open(tmp_path / "a.denoised.jpg") as after:
        assert after.format == "JPEG"
        assert after.quantization == before.quantization
        assert JpegImagePlugin.get_sampling(after) == JpegImagePlugin.get_sampling(before) == 1
    assert code == 0
    assert "JPEG quality 63, chroma 4:2:2, as in the source" in stderr


def test_each_file_has_a_line_and_the_end_a_summary(denoise, model, photos, tmp_path):
    scans = shutil.copytree(photos, tmp_path / "scans")
    (scans / "notes.txt").touch()
    (scans / "broken.png").write_bytes((photos / "0.png").read_bytes()[:200])

    code, _, stderr = denoise("run", scans, "-o", tmp_path / "o", "--model", model)

    lines = stderr.splitlines()
    assert code == 1
    assert lines[0] == f"{scans}: left out 1 file that is not an image; -v names it"
    assert re.fullmatch(rf"{scans}/0\.png: {tmp_path}/o/0\.png; Noise of .*; model plain", lines[1])
    assert re.fullmatch(r"3 images denoised in [\d.]+ s, [\d.]+ megapixels a second", lines[-2])
    assert lines[-1] == f"error: 1 of 4 images could not be denoised: {scans / 'broken.png'}"


def test_quiet_prints_only_what_failed_and_verbose_names_files(denoise, model, photos, tmp_path):
    scans = shutil.copytree(photos, tmp_path / "scans")
    (scans / "notes.txt").touch()
    (scans / "sub").mkdir()
    command = ("run", scans, "-o", tmp_path / "o", "--model", model, "--force")

    _, _, quiet = denoise(*command, "-q")
    _, _, verbose = denoise(*command, "-v")

    assert quiet == ""
    assert f"left out: {scans / 'notes.txt'}\nleft out: {scans / 'sub'}\n" in verbose
    assert f"{scans}: left out 1 subfolder; --recursive includes it\n" in verbose


def test_recursive_keeps_the_tree(denoise, model, photos, tmp_path):
    shutil.copytree(photos, tmp_path / "scans" / "a" / "b")
    command = ("run", tmp_path / "scans", "-o", tmp_path / "o", "--model", model, "--recursive")

    code, _, _ = denoise(*command)
    again, _, stderr = denoise(*command, "--resume")

    assert (code, again) == (0, 0)
    assert sorted(file.name for file in (tmp_path / "o" / "a" / "b").iterdir()) == ["0.png", "1.png", "2.png"]
    assert stderr.startswith("skipping 3 of 3 images, which are done\n")


def test_run_develops_camera_raw_to_the_chosen_colours(denoise, model, photos, tmp_path):
    (tmp_path / "a.dng").write_bytes(dng())
    params = ["--model", model, "--strength=0", "--colour", "prophoto"]

    code, _, stderr = denoise("run", tmp_path / "a.dng", "-o", tmp_path / "a.tif", *params)

    words = " ".join(stderr.split())
    assert code == 0
    assert "developed from a camera's raw file (camera white balance, ProPhoto RGB)" in words
    code, _, stderr = denoise("run", photos, "-o", tmp_path / "o", *params)
    assert code == 1
    assert "camera raw files only" in " ".join(stderr.split())


def test_run_denoises_the_mosaic_of_camera_raw_first(denoise, tmp_path):
    (tmp_path / "a.dng").write_bytes(dng(noise_profile=(1e-3, 1e-6)))

    code, _, stderr = denoise("run", tmp_path / "a.dng", "-o", tmp_path / "a.tif", "--model", "auto")

    assert code == 0
    assert "mosaic denoised before developing (stated gain 15.4" in " ".join(stderr.split())


def test_a_drawing_is_kept_and_told_unless_forced(denoise, tmp_path, pixels, save_tiny):
    drawing = np.kron(np.arange(64, dtype=np.uint8).reshape(8, 8), np.ones((9, 9), np.uint8)) * 4
    Image.fromarray(drawing).save(tmp_path / "in.png")
    command = (
        "run",
        tmp_path / "in.png",
        "-o",
        tmp_path / "out.png",
        "--model",
        save_tiny(tmp_path / "m.safetensors"),
    )

    code, _, told = denoise(*command)
    kept = pixels(tmp_path / "out.png")
    forced, _, silent = denoise(*command, "--even-clean", "--force")

    assert (code, forced) == (0, 0)
    unchanged = "unchanged: a drawing in few colours is certainly clean"
    assert told.startswith(f"{tmp_path / 'in.png'}: {tmp_path / 'out.png'}; {unchanged}\n")
    assert (kept == pixels(tmp_path / "in.png")).all()
    assert "unchanged" not in silent
    assert not (pixels(tmp_path / "out.png") == kept).all()


@pytest.mark.parametrize("name", ["JPEG", "jpg", ".JPG"])
def test_formats_may_be_written_in_other_ways(name, denoise, model, photos, tmp_path):
    code, _, stderr = denoise("run", photos / "0.png", "-o", tmp_path / "o/", "--format", name, "--model", model)

    assert code == 0, stderr
    assert (tmp_path / "o" / "0.jpg").read_bytes().startswith(b"\xff\xd8")


def test_earlier_results_are_left_out_and_counted(denoise, model, photos, tmp_path):
    scans = shutil.copytree(photos, tmp_path / "scans")
    shutil.copy(scans / "0.png", scans / "0.denoised.png")

    code, _, stderr = denoise("run", scans, "-o", tmp_path / "clean", "--model", model)

    assert code == 0
    assert f"{scans}: left out 1 earlier result, NAME.denoised.EXT beside NAME; -v names them" in stderr
    assert sorted(file.name for file in (tmp_path / "clean").glob("[!.]*")) == ["0.png", "1.png", "2.png"]
    _, _, named = denoise("run", scans, "-o", tmp_path / "named", "--model", model, "-v")
    assert f"left out: {scans / '0.denoised.png'}" in named


@pytest.mark.parametrize("in_folder", [False, True])
def test_a_signal_stops_a_stack_between_pages(in_folder, denoise, model, tmp_path, monkeypatch):
    def denoise_page(*args, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        return denoise_image(*args, **options)

    denoise_image = stack.denoise
    monkeypatch.setattr(stack, "denoise", denoise_page)
    pages = np.random.default_rng(0).integers(0, 255, (5, 40, 40), np.uint8)
    tifffile.imwrite(tmp_path / "stack.tif", pages, photometric="minisblack")
    out = tmp_path / ("clean/" if in_folder else "clean.tif")

    code, _, stderr = denoise(
        "run", tmp_path / "stack.tif", "-o", f"{out}/" if in_folder else out, "--model", model
    )

    assert code == 130
    ended = (
        "1 of 1 images are left. Use --resume to continue."
        if in_folder
        else (f"{tmp_path / 'stack.tif'} is not done, and nothing was written. Run the command again.")
    )
    assert stderr.endswith(f"stopped: {ended}\n")
    assert (
        not list(tmp_path.glob("clean*.tif*"))
        + list(tmp_path.glob("clean/*.tif"))
        + list(tmp_path.rglob("*.part"))
    )
