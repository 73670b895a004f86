"""POST /denoise: the steps before the network, and what the headers tell of them."""

import io

import numpy as np
import pytest
import tifffile
from fastapi.testclient import TestClient
from PIL import Image as PILImage

from service.app import create_app
from service.settings import Settings
from tests.support.measured import as_counts, cells, recorded


@pytest.fixture(scope="module")
def client(tmp_path_factory, save_tiny):
    """Limits as they are by default."""
    folder = tmp_path_factory.mktemp("weights")
    save_tiny(folder / "photo.safetensors")
    with TestClient(create_app(Settings(weights=folder, model="photo"))) as client:
        yield client


def steps_of(response):
    assert response.status_code == 200
    return response.headers.get("x-denoise-steps")


def test_a_drawing_comes_back_bit_for_bit_unless_it_is_forced(client, file_of):
    drawing = np.kron(np.arange(64, dtype=np.uint8).reshape(8, 8), np.ones((9, 9), np.uint8)) * 4

    kept = client.post("/denoise", content=file_of(drawing))
    forced = client.post("/denoise?force=true", content=file_of(drawing))

    assert steps_of(kept) == "unchanged: a drawing in few colours is certainly clean"
    assert kept.headers["x-denoise-noise"] == "white; sigma 0.0; luma correlated 0.00 0.00 0.00"
    assert (np.asarray(PILImage.open(io.BytesIO(kept.content))) == drawing).all()
    assert steps_of(forced) is None
    assert not (np.asarray(PILImage.open(io.BytesIO(forced.content))) == drawing).all()


def test_steps_before_the_network_are_told_and_can_be_switched_off(client):
    values = np.random.default_rng(0).normal(10_000, 60, (64, 96)) + np.arange(96) * 10
    dirty = values.round().astype(np.uint16)
    dirty[::9, ::7], dirty[4::9, 3::7] = 0, 65535
    data = io.BytesIO()
    tifffile.imwrite(data, dirty)

    def steps(query=""):
        return steps_of(client.post(f"/denoise{query}", content=data.getvalue()))

    assert steps().startswith("impulses replaced (3")
    assert "; offset 9" in steps()
    assert "impulses" not in (steps("?impulses=off") or "")
    assert "offset" not in steps("?normalise=off")
    assert steps("?impulses=off&normalise=off&banding=off") is None


def test_counts_of_photons_come_back_as_floats_only_in_tiff(client):
    shot = as_counts(recorded(cells(), 30)).squeeze(2).numpy()
    data = io.BytesIO()
    tifffile.imwrite(data, shot)

    tiff = client.post("/denoise?format=tiff", content=data.getvalue())
    png = client.post("/denoise?format=png", content=data.getvalue())

    assert "32-bit floats" in steps_of(tiff)
    result = tifffile.imread(io.BytesIO(tiff.content))
    assert result.dtype == np.float32
    assert result.mean() == pytest.approx(shot.mean(), rel=1e-4)
    assert "floats" not in steps_of(png)
    assert np.asarray(PILImage.open(io.BytesIO(png.content))).dtype == np.uint16
