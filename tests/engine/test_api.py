"""The Python API: what `import engine` gives."""

import doctest
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import engine
from engine import api
from engine.imageio.metadata import Metadata
from engine.imageio.read import read
from engine.models import checkpoint
from tests.support.adapted import PHOTONS, metadata_of, shot_of
from tests.support.bursts import photons, white
from tests.support.raw_files import dng

ROOT = Path(__file__).parents[2]
TYPES = ("uint8", "uint16", "float16", "float32", "float64")
SHAPES = ((9, 7), (9, 7, 1), (9, 7, 2), (9, 7, 3), (9, 7, 4), (2, 9, 7), (2, 9, 7, 3))


@pytest.fixture
def model(tmp_path, save_tiny):
    return engine.load_model(save_tiny(tmp_path / "tiny.safetensors"), "cpu", "float32")


def noisy(shape, dtype="float32", seed=0):
    """Noise around mid-grey in the range of the type."""
    values = np.random.default_rng(seed).uniform(0.2, 0.8, shape)
    white = {"uint8": 255, "uint16": 65535}.get(dtype, 1)
    return (values * white).astype(dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_result_has_the_shape_and_type_of_the_input(shape, dtype, model):
    array = noisy(shape, dtype)

    clean, tensor = engine.denoise(array, model), engine.denoise(torch.from_numpy(array), model)

    assert (clean.shape, clean.dtype) == (array.shape, array.dtype)
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_array_equal(tensor.numpy(), clean)
    assert not np.array_equal(clean, array)


def test_an_array_is_denoised_as_a_file_with_it_is(model, tmp_path):
    array = noisy((40, 50, 3), "uint16")
    engine.write_image(tmp_path / "noisy.png", array)

    (page,) = read((tmp_path / "noisy.png").read_bytes()).pages
    expected = api.denoise_one(model.select([page.samples]).net, page).samples

    np.testing.assert_array_equal(engine.denoise(array, model), expected.numpy())


def test_a_stack_is_denoised_image_by_image(model):
    stack = noisy((3, 20, 30))

    together = engine.denoise(stack, model)

    np.testing.assert_array_equal(together, np.stack([engine.denoise(each, model) for each in stack]))


def test_the_callers_array_is_left_as_it_is(model):
    array = noisy((20, 30, 3))
    kept = array.copy()
    array.setflags(write=False)

    engine.denoise(array, model)

    np.testing.assert_array_equal(array, kept)


def test_strength_mixes_the_result_with_the_input(model):
    array = noisy((20, 30, 3))

    none, half, whole = (engine.denoise(array, model, strength) for strength in (0, 0.5, 1))

    np.testing.assert_array_equal(none, array)
    np.testing.assert_allclose(half, (array + whole) / 2, atol=1e-6)


def test_transparency_is_kept(model):
    array = noisy((20, 30, 4), "uint8")

    np.testing.assert_array_equal(engine.denoise(array, model)[..., 3], array[..., 3])


def test_any_memory_layout_and_byte_order_will_do(model):
    array = noisy((20, 30, 3), "uint16")

    turned = engine.denoise(np.asfortranarray(array)[::-1].astype(">u2"), model)

    assert turned.dtype == np.dtype(">u2")
    np.testing.assert_array_equal(turned, engine.denoise(array[::-1].copy(), model))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        ("noisy.png", "a numpy array or a torch tensor; got str"),
        (np.zeros((4, 4), np.int64), "samples are one of uint8, .*; got int64"),
        (torch.zeros(4, 4, dtype=torch.int64), "samples are one of uint8, .*; got torch.int64"),
        (np.zeros((0, 4), np.uint8), r"no pixels: its shape is \(0, 4\)"),
        (np.zeros(4, np.uint8), r"an image is \(H, W\) .* got \(4,\)"),
        (np.zeros((2, 4, 4, 5), np.uint8), r"1 to 4 channels; got \(2, 4, 4, 5\)"),
        (np.full((4, 4), 1e12, np.float32), "samples beyond 1e"),
    ],
)
def test_what_is_no_image_is_refused(array, message, model):
    with pytest.raises(ValueError, match=message):
        engine.denoise(array, model)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.uint32])
def test_other_integers_keep_their_type_and_units(dtype, model):
    values = np.random.default_rng(0).normal(50, 10, (64, 64)).round().astype(dtype)

    clean = engine.denoise(values, model)

    assert clean.dtype == dtype
    assert abs(clean.mean() - values.mean()) < 2


def test_missing_samples_stay_and_harm_no_others(model):
    noisy = np.random.default_rng(0).normal(0.5, 0.05, (96, 96)).astype(np.float32)
    gaps = noisy.copy()
    gaps[30:60, 40:70] = np.nan
    gaps[5, 7] = np.inf

    clean = engine.denoise(gaps, model)

    np.testing.assert_array_equal(clean[30:60, 40:70], np.nan)
    assert clean[5, 7] == np.inf
    present = np.isfinite(gaps)
    assert abs(clean[present] - noisy[present]).max() < 0.5
    assert engine.estimate_noise(gaps).sigma == pytest.approx(engine.estimate_noise(noisy).sigma, rel=0.1)


def test_a_value_out_of_range_is_refused(model):
    with pytest.raises(ValueError, match=r"strength is from 0 to 1\.5; got 1\.6"):
        engine.denoise(noisy((4, 4)), model, strength=1.6)
    with pytest.raises(ValueError, match=r"grain is from 0 to 1; got -0\.1"):
        engine.denoise(noisy((4, 4)), model, grain=-0.1)


def test_grain_puts_noise_back_in_arrays_and_files(model, tmp_path):
    array = noisy((40, 50, 3), "uint16")
    engine.write_image(tmp_path / "noisy.png", array)

    smooth, grainy = engine.denoise(array, model), engine.denoise(array, model, grain=0.5)
    engine.denoise_file(tmp_path / "noisy.png", tmp_path / "clean.png", model, grain=0.5)

    assert not np.array_equal(smooth, grainy)
    np.testing.assert_array_equal(engine.read_image(tmp_path / "clean.png"), grainy)


def test_unknown_weights_are_refused_with_those_that_exist(tmp_path):
    with pytest.raises(
        ValueError,
        match=r"No weights are named 'photograph'. Did you mean photo\? Shipped weights: .*photo-small",
    ):
        engine.load_model("photograph")
    with pytest.raises(ValueError, match=r"missing\.safetensors: cannot be read"):
        engine.load_model(tmp_path / "missing.safetensors")


def test_auto_holds_every_model_that_it_chooses_among():
    auto = engine.load_model("auto", "cpu", "float32")
    white = torch.from_numpy(noisy((128, 128, 3)))

    shipped = checkpoint.load(checkpoint.find("photo-gaussian"))

    assert auto.name == "auto"
    assert shipped.digest in auto.digest.split("+")
    assert torch.equal(auto.select([white]).net.forward(white[None]), shipped.net.forward(white[None]))


def test_a_file_that_was_trained_anew_is_loaded_anew(tmp_path, save_tiny):
    path = tmp_path / "tiny.safetensors"
    first = engine.load_model(save_tiny(path, seed=0), "cpu", "float32")
    second = engine.load_model(save_tiny(path, seed=1), "cpu", "float32")

    assert first.digest != second.digest
    assert engine.load_model(path, "cpu", "float32") is not None


def test_the_noise_of_an_array_is_estimated():
    grey = np.random.default_rng(0).normal(128, 10, (256, 256)).round().astype(np.uint8)

    found = engine.estimate_noise(grey)

    assert found.luma.sigma == pytest.approx(10, abs=0.5)
    assert found == engine.estimate_noise(torch.from_numpy(grey))


@pytest.mark.parametrize("shape", [(9, 7), (9, 7, 3), (9, 7, 4), (2, 9, 7), (2, 9, 7, 3)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_what_is_written_is_read_again(shape, dtype, tmp_path):
    array = noisy(shape, dtype)

    engine.write_image(tmp_path / "a.tif", array)

    np.testing.assert_array_equal(engine.read_image(tmp_path / "a.tif"), array)


def test_one_page_of_several_is_read(tmp_path):
    engine.write_image(tmp_path / "a.tif", noisy((3, 9, 7)))

    np.testing.assert_array_equal(engine.read_image(tmp_path / "a.tif", page=2), noisy((3, 9, 7))[1])


def test_pages_that_differ_are_refused(tmp_path):
    import tifffile

    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for side in (8, 9):
            writer.write(np.zeros((side, side), np.uint8))

    with pytest.raises(ValueError, match="its 2 pages differ in size or kind"):
        engine.read_image(tmp_path / "a.tif")


def test_metadata_is_copied_from_another_file(tmp_path, file_of, samples):
    noted = tmp_path / "noted.png"
    noted.write_bytes(file_of(samples(9, 7), "PNG", dpi=(300, 300)))

    engine.write_image(tmp_path / "a.png", noisy((9, 7, 3), "uint8"), metadata_from=noted)
    engine.write_image(tmp_path / "b.png", noisy((9, 7, 3), "uint8"))

    with_it, without = (read((tmp_path / name).read_bytes()).pages[0].metadata for name in ("a.png", "b.png"))
    assert with_it.resolution == pytest.approx((300, 300), abs=0.1)
    assert without == Metadata()


def test_camera_raw_is_read_in_either_colour_space(tmp_path, file_of, samples):
    raw, png = tmp_path / "a.dng", tmp_path / "a.png"
    raw.write_bytes(dng())
    png.write_bytes(file_of(samples(9, 7)))

    for colour in ("srgb", "prophoto"):
        developed = engine.read_image(raw, colour=colour)
        engine.write_image(tmp_path / "a.tif", developed, metadata_from=raw, colour=colour)

        written = read((tmp_path / "a.tif").read_bytes()).pages[0]
        np.testing.assert_array_equal(written.samples.numpy(), developed)
        assert (developed.dtype, bool(written.metadata.icc_profile)) == (np.uint16, colour == "prophoto")
    with pytest.raises(ValueError, match="for camera raw files only"):
        engine.read_image(png, colour="prophoto")


def test_a_suffix_that_is_not_written_is_refused_and_no_file_left(tmp_path):
    with pytest.raises(ValueError, match=r"no format is written with this suffix. Choose one of .jpg, .png"):
        engine.write_image(tmp_path / "a.bmp", noisy((4, 4), "uint8"))
    with pytest.raises(ValueError, match="transparency"):
        engine.write_image(tmp_path / "a.jpg", noisy((4, 4, 4), "uint8"))

    assert not list(tmp_path.iterdir())


def test_importing_the_engine_imports_neither_torch_nor_codecs():
    program = "import engine, sys; print({'torch', 'numpy', 'PIL', 'tifffile', 'imagecodecs'} & set(sys.modules))"

    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)

    assert ran.stdout.strip() == "set()"


def test_the_names_are_those_that_the_package_announces():
    assert set(engine.__all__) <= set(dir(engine))
    with pytest.raises(AttributeError, match="module 'engine' has no attribute 'nothing'"):
        _ = engine.nothing


def test_the_examples_in_the_docstrings_are_true(tmp_path, monkeypatch):
    engine.write_image(tmp_path / "noisy.png", noisy((64, 48, 3), "uint8"))
    monkeypatch.chdir(tmp_path)

    failed, tried = doctest.testmod(api)

    assert (failed, tried > 5) == (0, True)
    assert Path("clean.png").exists()


def test_a_camera_raw_file_is_denoised_before_and_after_developing(tmp_path):
    (tmp_path / "a.dng").write_bytes(dng(noise_profile=(1e-3, 1e-6)))

    words = engine.denoise_file(tmp_path / "a.dng", tmp_path / "a.tif")

    assert any("mosaic denoised before developing" in each for each in words)
    assert engine.read_image(tmp_path / "a.tif").shape == (48, 64, 3)


def test_denoising_a_file_refuses_a_suffix_that_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="no format is written with this suffix"):
        engine.denoise_file(tmp_path / "a.dng", tmp_path / "a.dng")


def test_auto_takes_ones_own_weights_for_their_noise(tmp_path, save_tiny, monkeypatch):
    save_tiny(tmp_path / "mine.safetensors", **metadata_of(PHOTONS))
    monkeypatch.setattr("engine.inference.model_selection.may_replace", lambda *_: True)
    shot, other = shot_of(photons(200)).numpy(), shot_of(white(60)).numpy()
    before = engine.denoise(shot), engine.denoise(other)
    monkeypatch.setenv("DENOISE_WEIGHTS", str(tmp_path))

    after = engine.denoise(shot), engine.denoise(other)

    own = engine.denoise(shot, model="mine")
    assert np.abs(after[0].astype(float) - own).mean() < np.abs(before[0].astype(float) - own).mean()
    assert np.array_equal(before[1], after[1])
