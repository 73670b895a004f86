"""POST /preview: parts, points, denoised previews, and views that stand for the file."""

import io
import json

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from service.app import create_app
from tests.support.problems import assert_problem

KEY = "x" * 40
OTHER_KEY = "y" * 40


def pixels(answer):
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(io.BytesIO(answer.content)))


def about(answer):
    return json.loads(answer.headers["x-denoise-view"])


@pytest.fixture(scope="module")
def came(samples):
    return samples(40, 48)


@pytest.fixture(scope="module")
def deep(samples):
    """uint16 (20, 30), from 1000 to some 1500."""
    return 1000 + samples(20, 30, 1)[..., 0].astype(np.uint16) * 2


@pytest.fixture
def sent(client, came, file_of):
    """Sends an image, and returns a function that asks about its view."""
    view = about(client.post("/preview", content=file_of(came)))["view"]
    return lambda **params: client.post("/preview", params={"view": view, **params})


def test_the_header_describes_the_page(client, deep, file_of):
    pages = [Image.fromarray(page) for page in (deep, deep[:10])]
    data = file_of(pages[0], "TIFF", save_all=True, append_images=pages[1:])

    for number, page in enumerate((deep, deep[:10]), 1):
        found = about(client.post("/preview", params={"page": number}, content=data))
        assert (found["page"], found["pages"], found["type"]) == (number, 2, "uint16")
        assert (found["width"], found["height"]) == (30, len(page))
        assert found["range"] == [page.min(), page.max()]
        assert sum(found["histogram"]) == page.size
        assert (found["black"], found["white"]) == (None, None)


def test_a_view_stands_for_the_file_and_its_other_pages(client, samples, file_of):
    pages = [Image.fromarray(samples(9, 7, seed=seed)) for seed in (0, 1)]
    data = file_of(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    view = about(client.post("/preview", content=data))["view"]

    for number, page in enumerate(pages, 1):
        answer = client.post("/preview", params={"view": view, "page": number})
        np.testing.assert_array_equal(pixels(answer), np.asarray(page))
        assert about(answer)["view"] == view
    estimate = client.post("/estimate", params={"page": 2}, content=data).json()
    assert client.post("/estimate", params={"view": view, "page": 2}).json() == estimate
    assert_problem(client.post("/preview", params={"view": view, "page": 3}), 422, "There is no page 3")


def test_a_part_can_be_chosen_and_made_smaller(sent, came):
    np.testing.assert_array_equal(pixels(sent(crop="8,4,20,10")), came[4:14, 8:28])
    means = came.reshape(20, 2, 24, 2, 3).mean((1, 3))
    for params in ({"reduction": 2}, {"side": 24}, {"side": 40}):
        np.testing.assert_allclose(pixels(sent(**params)), means, atol=0.51)


def test_points_map_real_samples_to_8_bits(client, deep, file_of):
    data = file_of(deep, "TIFF")

    shown = client.post("/preview", params={"black": 1100, "white": 1355}, content=data)
    auto = client.post("/preview", params={"black": "auto", "white": "auto"}, content=data)

    np.testing.assert_array_equal(pixels(shown), (deep.astype(int) - 1100).clip(0, 255))
    assert (about(shown)["black"], about(shown)["white"]) == (1100, 1355)
    assert [about(auto)["black"], about(auto)["white"]] == about(auto)["auto"]
    assert pixels(auto).min() == 0
    assert pixels(auto).max() == 255


def test_floats_are_shown_between_points(client, file_of):
    values = np.linspace(-0.01, 0.01, 600).reshape(20, 30).astype(np.float32)
    values[3, 3] = np.nan

    answer = client.post(
        "/preview", params={"black": -0.01, "white": 0.01}, content=file_of(Image.fromarray(values), "TIFF")
    )

    shown, expected = pixels(answer), (values + 0.01) / 0.02 * 255
    known = ~np.isnan(values)
    assert np.abs(shown[known] - expected[known]).max() < 0.51
    assert about(answer)["type"] == "float32"


@pytest.mark.parametrize("crop", [None, "8,4,20,10"])
def test_a_clean_preview_is_what_denoise_answers(client, sent, came, file_of, crop):
    expected = pixels(client.post("/denoise", content=file_of(came)))
    expected = expected[4:14, 8:28] if crop else expected
    params = {"crop": crop} if crop else {}

    clean, both = sent(output="clean", **params), sent(output="compare", **params)

    np.testing.assert_array_equal(pixels(clean), expected)
    noisy, same = np.split(pixels(both), 2, 1)
    np.testing.assert_array_equal(same, expected)
    np.testing.assert_array_equal(noisy, came[4:14, 8:28] if crop else came)
    assert clean.headers["x-denoise-model"] == "photo"
    assert (np.abs(expected.astype(int) - noisy) > 0).any()


def test_another_model_makes_another_preview(client, sent, came, file_of):
    answer = sent(output="clean", model="scans")

    expected = client.post("/denoise", params={"model": "scans"}, content=file_of(came))
    np.testing.assert_array_equal(pixels(answer), pixels(expected))
    assert answer.headers["x-denoise-model"] == "scans"
    assert_problem(sent(output="clean", model="other"), 404, "There is no model 'other'")


def test_measured_samples_are_normalised_as_by_denoise(choosing, file_of):
    y, x = np.mgrid[:96, :128]
    scene = 2000 + 1500 * np.sin(x / 20) * np.cos(y / 15)
    photons = (1000 + 40 * np.random.default_rng(0).poisson(scene / 40)).astype(np.uint16)
    data = file_of(photons, "TIFF")

    answer = choosing.post("/preview", params={"output": "clean"}, content=data)
    expected = choosing.post("/denoise", content=data)

    assert "photon noise made even" in answer.headers["x-denoise-steps"]
    assert answer.headers["x-denoise-model"] == expected.headers["x-denoise-model"]
    np.testing.assert_array_equal(pixels(answer), pixels(expected))


def test_parts_of_a_large_image_join_without_a_seam(settings, samples, file_of, monkeypatch):
    monkeypatch.setattr("service.runtime.preview.WHOLE_PIXELS", 1000)
    image = np.tile(samples(60, 80), (4, 4, 1))
    large = settings.model_copy(update={"max_pixels": 10**6, "max_bytes": 10**6})
    with TestClient(create_app(large)) as client:
        view = about(client.post("/preview", content=file_of(image)))["view"]
        expected = pixels(client.post("/denoise", content=file_of(image)))
        for left, top, width, height in ((0, 0, 128, 128), (128, 96, 128, 128), (250, 200, 70, 40)):
            params = {"view": view, "crop": f"{left},{top},{width},{height}", "output": "clean"}
            part = expected[top : top + height, left : left + width].astype(int)
            assert np.abs(pixels(client.post("/preview", params=params)) - part).max() <= 1


@pytest.mark.parametrize(
    ("params", "words"),
    [
        (
            {"crop": "0,0,49,10"},
            "reaches beyond the image, which has 48 x 40 pixels",
        ),
        ({"crop": "0,0,0,10"}, "is empty"),
        ({"crop": "1,2,3"}, "crop: String should match pattern"),
        ({"black": 9, "white": 9}, "The black point 9 is not below the white point 9"),
        ({"black": "dark"}, "black"),
        ({"black": "nan"}, "black"),
    ],
)
def test_a_part_or_point_that_cannot_be_shown_is_refused(params, words, sent):
    assert_problem(sent(**params), 422, words)


def test_an_unknown_view_asks_for_the_file(client):
    for route in ("/preview", "/estimate"):
        assert_problem(client.post(route, params={"view": "gone"}), 404, "Send the file again.")


def test_without_memory_no_view_is_kept(settings, noisy):
    with TestClient(create_app(settings.model_copy(update={"view_memory": 0}))) as client:
        answer = client.post("/preview", params={"output": "compare"}, content=noisy)

    assert about(answer)["view"] is None


def test_a_file_that_cannot_be_read_is_not_kept(client):
    views = client.app_state["views"]
    before = views.memory

    assert client.post("/preview", content=b"no image").status_code == 400
    assert views.memory == before


def test_a_view_is_shown_to_its_own_key_and_clean_pixels_are_charged(settings, noisy):
    limited = settings.model_copy(update={"keys": f"web:{KEY},lab:{OTHER_KEY}", "key_pixels": 1000})
    with TestClient(create_app(limited)) as client:
        own, other = {"x-api-key": KEY}, {"x-api-key": OTHER_KEY}
        view = about(client.post("/preview", content=noisy, headers=own))["view"]
        params = {"view": view, "output": "clean"}
        first = client.post("/preview", params=params, headers=own)
        # 714 of 1000 pixels are spent. The part is kept, so it is not denoised again.
        again = client.post("/preview", params=params, headers=own)
        second = client.post("/preview", params={**params, "model": "scans"}, headers=own)
        third = client.post("/preview", params={**params, "force": True}, headers=own)
        free = client.post("/preview", params={"view": view}, headers=own)
        stranger = client.post("/preview", params=params, headers=other)

    assert [each.status_code for each in (first, again, second, third, free)] == [200, 200, 200, 429, 200]
    assert_problem(stranger, 404, "There is no such view")
