"""POST /preview: decoded images, unchanged, without pixels of the API key."""

import io

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from service.app import create_app
from service.registry.snapshot import Snapshot
from tests.support.problems import MAX_BYTES, assert_problem

KEY = "x" * 40


def test_a_preview_is_the_image_as_png(client, samples, file_of):
    came = samples(21, 34)

    answer = client.post("/preview", content=file_of(came, "TIFF"))

    assert answer.headers["content-type"] == "image/png"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), came)
    assert [name for name in answer.headers if name.startswith("x-denoise")] == ["x-denoise-view"]


def test_a_preview_is_what_denoise_answers_without_strength(client, samples, file_of):
    deep = file_of(samples(20, 30, 1)[..., 0].astype(np.uint16) * 257, "TIFF")
    pages = [Image.fromarray(samples(9, 7, seed=seed)) for seed in (0, 1)]
    book = file_of(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    turned = Image.Exif()
    turned[0x112] = 6
    photo = file_of(samples(8, 16), "JPEG", exif=turned)

    for data, page in ((deep, 1), (book, 1), (book, 2), (photo, 1)):
        unchanged = client.post("/denoise", params={"strength": 0, "format": "png", "page": page}, content=data)
        assert client.post("/preview", params={"page": page}, content=data).content == unchanged.content


def test_a_preview_may_come_as_a_form(client, noisy):
    assert (
        client.post("/preview", files={"image": noisy}).content == client.post("/preview", content=noisy).content
    )


def test_a_header_says_what_png_cannot_hold(client, file_of):
    answer = client.post("/preview", content=file_of(Image.new("F", (8, 8), 0.5), "TIFF"))

    assert "16 bits" in answer.headers["x-denoise-changed"]


def test_a_preview_measures_no_noise(client, noisy, monkeypatch):
    monkeypatch.setattr(Snapshot, "choose", lambda *what: pytest.fail("the noise was measured"))
    monkeypatch.setattr(Snapshot, "recommend", lambda *what: pytest.fail("the noise was measured"))

    assert client.post("/preview", content=noisy).status_code == 200


def test_a_preview_spends_no_pixels_and_needs_none(settings, noisy):
    limited = settings.model_copy(update={"keys": f"web:{KEY}", "key_pixels": 1000})
    with TestClient(create_app(limited), headers={"x-api-key": KEY}) as client:
        answers = [client.post("/preview", content=noisy).status_code for _ in range(3)]
        while client.post("/denoise", content=noisy).status_code != 429:
            pass
        answers.append(client.post("/preview", content=noisy).status_code)

    assert answers == [200] * 4


def test_a_preview_needs_a_key_and_counts_as_a_request(settings, noisy):
    limited = settings.model_copy(update={"keys": f"web:{KEY}", "key_rate": 1})
    with TestClient(create_app(limited)) as client:
        assert client.post("/preview", content=noisy).status_code == 401
        answers = [
            client.post("/preview", content=noisy, headers={"x-api-key": KEY}).status_code for _ in range(2)
        ]

    assert answers == [200, 429]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"no image", 400, "Supported formats"),
        (b"%PDF-1.7", 415, "PDF"),
        (bytes(MAX_BYTES + 1), 413, "DENOISE_MAX_BYTES"),
        (Image.new("1", (50, 41)), 413, "DENOISE_MAX_PIXELS"),
    ],
)
def test_a_preview_has_the_limits_of_an_image(body, status, words, client, file_of):
    data = body if isinstance(body, bytes) else file_of(body)

    assert_problem(client.post("/preview", content=data), status, words)
