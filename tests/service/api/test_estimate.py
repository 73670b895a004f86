"""POST /estimate: the answers, their ranges and their refusals."""

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from service.app import create_app
from service.settings import Settings


@pytest.fixture(scope="module")
def folder(tmp_path_factory, save_tiny):
    folder = tmp_path_factory.mktemp("weights")
    for seed, name in enumerate(("photo", "photo-gaussian", "photo-grey")):
        save_tiny(folder / f"{name}.safetensors", seed=seed)
    return folder


@pytest.fixture(scope="module")
def client(folder):
    configured = Settings(
        weights=folder, device="cpu", precision="float32", max_pixels=100_000, max_bytes=400_000
    )
    with TestClient(create_app(configured)) as client:
        yield client


@pytest.fixture(scope="module")
def white(file_of):
    noise = np.random.default_rng(0).normal(128, 20, (200, 300, 3))
    return file_of(noise.clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("way", [lambda data: {"files": {"image": data}}, lambda data: {"content": data}])
def test_white_noise_is_measured_and_gets_its_model(way, client, white):
    found = client.post("/estimate", **way(white)).json()

    assert found["scale"] == 255
    assert found["sigma"] == pytest.approx([20] * 3, rel=0.05)
    assert found["luma"]["correlation"] == pytest.approx([0] * 3, abs=0.1)
    assert found["chroma"]["correlation"] == pytest.approx([0] * 3, abs=0.1)
    assert (found["correlated"], found["jpeg_blocks"], found["model"]) == (False, False, "photo-gaussian")
    assert found["words"].startswith("Noise of about ")


def test_camera_noise_and_jpeg_are_recognised(client, file_of):
    noise = np.random.default_rng(0).normal(0, 24, (200, 300, 3))
    soft = sum(np.roll(noise, (y, x), (0, 1)) for y in range(3) for x in range(3)) / 9
    image = (128 + 3 * soft).clip(0, 255).astype(np.uint8)

    found = client.post("/estimate", content=file_of(image, "JPEG", quality=85)).json()

    assert (found["correlated"], found["jpeg_blocks"], found["model"]) == (True, True, "photo")
    assert found["luma"]["correlation"][0] > 0.4
    assert found["words"].endswith("; compressed as JPEG.")


def test_unknown_values_of_a_tiny_image_are_null(client, samples, file_of):
    found = client.post("/estimate", content=file_of(samples(9, 30))).json()

    assert all(found[name] is None for name in ("sigma", "luma", "chroma", "correlated"))
    assert found["model"] == "photo"
    assert "cannot be measured" in found["words"]


def test_grey_has_one_channel_and_no_chroma(client, samples, file_of):
    found = client.post("/estimate", content=file_of(samples(60, 90, 1))).json()

    assert len(found["sigma"]) == 1
    assert found["chroma"] is None


def test_a_page_can_be_selected(client, file_of):
    quiet, loud = (np.random.default_rng(0).normal(128, sigma, (64, 64)).clip(0, 255) for sigma in (5, 25))
    pages = [Image.fromarray(page.astype(np.uint8)) for page in (quiet, loud)]
    sent = file_of(pages[0], "TIFF", save_all=True, append_images=pages[1:])

    levels = [client.post("/estimate", params=page, content=sent).json()["sigma"] for page in ({}, {"page": 2})]

    assert levels == [pytest.approx([5], rel=0.2), pytest.approx([25], rel=0.2)]


@pytest.mark.parametrize(
    ("body", "page", "status", "words"),
    [
        (b"", 1, 400, "empty: 0 bytes"),
        (b"%PDF-1.7", 1, 415, "PDF"),
        (b"x" * 400_001, 1, 413, "at most 400000"),
        ("image", 2, 422, "There is no page 2: the PNG file has 1 page"),
        ("image", 0, 422, "greater than or equal to 1"),
    ],
)
def test_bad_images_are_refused_as_by_post_denoise(body, page, status, words, client, white):
    answer = client.post("/estimate", params={"page": page}, content=white if body == "image" else body)

    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert words in answer.json()["detail"]


def test_without_the_weights_of_auto_no_model_is_named(tmp_path, save_tiny, white):
    save_tiny(tmp_path / "photo.safetensors")
    configured = Settings(weights=tmp_path, model="photo", device="cpu", precision="float32")
    with TestClient(create_app(configured)) as client:
        found = client.post("/estimate", content=white).json()
    assert (found["model"], found["models"]) == (None, {})


def test_the_model_of_each_choice_is_listed(tmp_path, save_tiny, white):
    for name in ("photo", "photo-gaussian", "photo-grey", "photo-gaussian-large"):
        save_tiny(tmp_path / f"{name}.safetensors")
    with TestClient(create_app(Settings(weights=tmp_path, device="cpu", precision="float32"))) as client:
        found = client.post("/estimate", content=white).json()
        listed = [about["name"] for about in client.get("/models").json() if about["kind"] == "choice"]

    assert found["models"] == {"auto": "photo-gaussian", "auto-large": "photo-gaussian-large"}
    assert listed == ["auto", "auto-large"]


def test_openapi_has_the_ranges_of_the_estimate(client):
    described = client.get("/openapi.json").json()
    route = described["paths"]["/estimate"]["post"]
    found, component = (described["components"]["schemas"][name] for name in ("Estimate", "Component"))

    assert set(route["requestBody"]["content"]) == {"multipart/form-data", "application/octet-stream"}
    assert {"200", "400", "413", "415", "422"} <= set(route["responses"])
    assert all(each["description"].endswith(".") for each in found["properties"].values())
    assert component["properties"]["sigma"]["minimum"] == 0
    assert component["properties"]["correlation"]["prefixItems"][0] == {
        "type": "number",
        "minimum": -1,
        "maximum": 1,
    }


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(2, 40), st.integers(2, 40), st.sampled_from([1, 3]), st.integers(1, 12), st.integers(0, 2**32 - 1)
)
def test_every_image_gets_an_estimate_within_the_ranges(client, file_of, height, width, channels, side, seed):
    """The images are noise and repeating textures, with many black and white pixels."""
    rng = np.random.default_rng(seed)
    few = rng.choice([0, 1, 128, 254, 255], (height, width, channels))
    tiled = np.tile(few[:side, :side], (-(-height // side), -(-width // side), 1))[:height, :width]

    for image in (few, tiled):
        assert client.post("/estimate", content=file_of(image.astype(np.uint8))).status_code == 200
