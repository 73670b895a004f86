"""POST /preview and the result cache: what was denoised for the view is not denoised again for a download."""

import io
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tifffile
from fastapi.testclient import TestClient
from PIL import Image

from service.app import create_app
from service.runtime import stages
from service.settings import Settings


@pytest.fixture
def client(tmp_path, save_tiny):
    for seed, name in enumerate(("photo", "photo-gaussian", "photo-grey")):
        save_tiny(tmp_path / f"{name}.safetensors", seed=seed)
    settings = Settings(weights=tmp_path, device="cpu", precision="float32", weights_interval=0)
    with TestClient(create_app(settings)) as client:
        yield client


@pytest.fixture
def large(samples, file_of, monkeypatch):
    """240 x 320 pixels, which count as large."""
    monkeypatch.setattr("service.runtime.preview.WHOLE_PIXELS", 1000)
    return file_of(np.tile(samples(60, 80), (4, 4, 1)))


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)))


def show(client, data, **params):
    """(view, answer) of the denoised image."""
    answer = client.post("/preview", params={"output": "clean", **params}, content=data)
    assert answer.status_code == 200, answer.text
    return json.loads(answer.headers["x-denoise-view"])["view"], answer


def download(client, data, **params):
    answer = client.post("/denoise", params=params, content=data)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-denoise-cache"], answer


def denoised(client):
    """How many images were denoised, by the metrics."""
    found = re.findall(r"^denoise_images_total\{.*\} (\S+)$", client.get("/metrics").text, re.MULTILINE)
    return sum(map(float, found))


def forbid_network(monkeypatch):
    monkeypatch.setattr(stages, "TiledDenoiser", lambda *args, **how: pytest.fail("the image was denoised again"))


@pytest.mark.parametrize("params", [{}, {"strength": 1.3}, {"grain": 0.2}, {"model": "photo"}])
def test_a_download_takes_the_image_of_the_view(params, client, noisy, monkeypatch):
    _, shown = show(client, noisy, **params)
    forbid_network(monkeypatch)
    found, saved = download(client, noisy, **params)

    assert found == "pages"
    np.testing.assert_array_equal(pixels(saved.content), pixels(shown.content))
    assert saved.headers["x-denoise-model"] == shown.headers["x-denoise-model"]
    assert denoised(client) == 1
    assert download(client, noisy, format="jpeg", **params)[0] == "pages"


def test_the_view_takes_the_image_of_a_download(client, noisy, monkeypatch):
    _, saved = download(client, noisy)
    forbid_network(monkeypatch)
    _, shown = show(client, noisy)

    np.testing.assert_array_equal(pixels(shown.content), pixels(saved.content))


def test_other_options_are_denoised_on_their_own(client, noisy):
    show(client, noisy)

    assert download(client, noisy, strength=0.5)[0] == "miss"
    assert denoised(client) == 2


def test_a_tiff_of_counts_is_kept_as_it_is_saved(client, file_of, monkeypatch):
    y, x = np.mgrid[:96, :128]
    photons = np.random.default_rng(0).poisson(4 + 3 * np.sin(x / 20) * np.cos(y / 15)).astype(np.uint16)
    data = file_of(photons, "TIFF")
    _, shown = show(client, data)
    forbid_network(monkeypatch)
    found, saved = download(client, data, format="same")

    assert found == "pages"
    # The file has floats, and PNG whole counts.
    expected = pixels(saved.content)
    assert expected.dtype == np.float32
    assert np.abs(pixels(shown.content) - expected.clip(0)).max() <= 0.5


def test_most_of_a_large_image_is_denoised_whole(client, large, monkeypatch):
    view, shown = show(client, large, crop="0,0,320,200")
    forbid_network(monkeypatch)
    found, saved = download(client, large)
    part = client.post("/preview", params={"view": view, "crop": "40,50,64,48", "output": "clean"})

    assert found == "pages"
    np.testing.assert_array_equal(pixels(shown.content), pixels(saved.content)[:200])
    np.testing.assert_array_equal(pixels(part.content), pixels(saved.content)[50:98, 40:104])


def test_a_part_of_a_large_image_is_denoised_alone(client, large):
    show(client, large, crop="40,50,64,48")

    assert download(client, large)[0] == "miss"


@pytest.mark.parametrize("crop", [None, "10,10,20,20"])
def test_a_camera_raw_file_is_shown_as_it_is_saved(crop, client, monkeypatch):
    pytest.importorskip("rawpy", reason="needs rawpy: pip install '.[raw]'")
    from tests.support.raw_files import dng

    monkeypatch.setattr("service.runtime.preview.WHOLE_PIXELS", 1000)
    data = dng(noise_profile=(1e-3, 1e-6))
    _, shown = show(client, data, **({"crop": crop} if crop else {}))
    forbid_network(monkeypatch)
    found, saved = download(client, data)

    assert found == "pages"
    assert "mosaic denoised before developing" in saved.headers["x-denoise-steps"]
    assert shown.headers["x-denoise-steps"] == saved.headers["x-denoise-steps"]
    expected = pixels(saved.content)
    np.testing.assert_array_equal(pixels(shown.content), expected[10:30, 10:30] if crop else expected)


@pytest.mark.parametrize("number", [1, 3])
def test_a_page_of_a_stack_is_shown_as_it_is_saved(number, client, monkeypatch):
    y, x = np.mgrid[:96, :128]
    scene = 60 + 50 * np.sin(x / 20) * np.cos(y / 15)
    rng = np.random.default_rng(0)
    # Brighter from page to page: each page alone would give another law.
    stack = np.stack([500 + 9 * rng.poisson(scene * gain) for gain in (0.2, 1, 2, 4)]).astype(np.uint16)
    tifffile.imwrite(file := io.BytesIO(), stack, photometric="minisblack")
    _, shown = show(client, file.getvalue(), page=number)
    _, saved = download(client, file.getvalue(), format="tiff")

    assert shown.headers["x-denoise-steps"] == saved.headers["x-denoise-steps"]
    expected = tifffile.imread(io.BytesIO(saved.content))[number - 1]
    assert np.abs(pixels(shown.content) - expected).max() <= 0.5


def test_a_stack_of_large_pages_is_measured_page_by_page(client, file_of, samples, monkeypatch):
    monkeypatch.setattr("service.runtime.preview.STACK_PIXELS", 1000)
    first, second = (Image.fromarray(samples(60, 80, seed=seed)) for seed in (0, 1))
    data = file_of(first, "TIFF", save_all=True, append_images=[second])
    _, shown = show(client, data, page=2)
    _, saved = download(client, data, page=2)

    np.testing.assert_array_equal(pixels(shown.content), pixels(saved.content))


def test_parts_that_are_asked_for_at_once_share_the_work(client, noisy, monkeypatch):
    view = json.loads(client.post("/preview", content=noisy).headers["x-denoise-view"])["view"]
    calls, real = [], stages.TiledDenoiser

    def noted(*args, **how):
        calls.append(args)
        time.sleep(0.2)
        return real(*args, **how)

    monkeypatch.setattr(stages, "TiledDenoiser", noted)
    crops = ["0,0,10,10", "10,0,10,10", "0,10,10,10"]
    with ThreadPoolExecutor(len(crops)) as threads:
        answers = threads.map(
            lambda crop: client.post("/preview", params={"view": view, "output": "clean", "crop": crop}), crops
        )

    assert [answer.status_code for answer in answers] == [200] * 3
    assert len(calls) == 1
