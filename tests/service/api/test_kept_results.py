"""Results that are kept for equal requests, through HTTP."""

import io
import re

import pytest
import tifffile
import torch
from fastapi.testclient import TestClient

from engine.imageio.read import decode
from service.app import create_app
from service.settings import Settings
from tests.support.measured import as_counts, cells, recorded

KEY = "k" * 40


@pytest.fixture
def configured(tmp_path, save_tiny):
    save_tiny(tmp_path / "photo.safetensors")
    return Settings(weights=tmp_path, model="photo", device="cpu", precision="float32", weights_interval=0)


@pytest.fixture
def keeping(configured):
    with TestClient(create_app(configured)) as client:
        yield client


def ask(client, data, **params):
    """(what the cache had, the response)"""
    response = client.post("/denoise", params=params, content=data)
    assert response.status_code == 200, response.text
    return response.headers.get("x-denoise-cache"), response


def images(client):
    """How many files were denoised, by the metrics."""
    found = re.search(r'^denoise_images_total\{model="photo"\} (\S+)$', client.get("/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0


def test_an_equal_request_gets_the_same_answer_at_once(keeping, noisy):
    first, made = ask(keeping, noisy)
    second, again = ask(keeping, noisy)

    assert (first, second) == ("miss", "hit")
    assert again.content == made.content
    assert again.headers["content-type"] == made.headers["content-type"]
    assert again.headers["x-denoise-seconds"] == "0.000"
    same = ("x-denoise-model", "x-denoise-digest", "x-denoise-noise", "x-denoise-estimate")
    assert [again.headers[name] for name in same] == [made.headers[name] for name in same]
    assert images(keeping) == 1


def test_a_form_finds_what_a_plain_body_made(keeping, noisy):
    ask(keeping, noisy, strength=0.5)

    answer = keeping.post("/denoise", files={"image": noisy}, data={"strength": ".50"})

    assert answer.headers["x-denoise-cache"] == "hit"


def test_another_format_is_written_from_the_kept_image(keeping, noisy):
    _, png = ask(keeping, noisy)

    answers = [ask(keeping, noisy, format=name) for name in ("webp", "jpeg")]
    quality, _ = ask(keeping, noisy, format="jpeg", quality=70)

    assert [found for found, _ in answers] == ["pages"] * 2
    assert quality == "pages"
    assert torch.equal(decode(answers[0][1].content).samples, decode(png.content).samples)
    assert ask(keeping, noisy, format="webp")[0] == "hit"
    assert images(keeping) == 1


def test_a_format_that_may_hold_floats_is_denoised_on_its_own(keeping, noisy):
    ask(keeping, noisy)

    assert ask(keeping, noisy, format="tiff")[0] == "miss"


def test_other_bytes_and_other_parameters_are_denoised(keeping, samples, file_of, noisy):
    ask(keeping, noisy)

    assert ask(keeping, file_of(samples(21, 34), "BMP"))[0] == "miss"
    for params in ({"strength": 0.5}, {"grain": 0.5}, {"output": "compare"}, {"normalise": "off"}):
        assert ask(keeping, noisy, **params)[0] == "miss"


def test_new_weights_make_old_results_useless(keeping, configured, noisy, save_tiny):
    _, old = ask(keeping, noisy)
    save_tiny(configured.weights / "photo.safetensors", seed=7)
    assert keeping.post("/models/photo/activate").status_code == 200

    found, new = ask(keeping, noisy)

    assert found == "miss"
    assert new.headers["x-denoise-digest"] != old.headers["x-denoise-digest"]
    assert keeping.post("/models/photo/rollback").status_code == 200
    assert ask(keeping, noisy)[1].content == old.content


def test_floats_are_not_given_to_a_format_that_cannot_hold_them(keeping):
    counts = as_counts(recorded(cells(), 30)).squeeze(2).numpy()
    data = io.BytesIO()
    tifffile.imwrite(data, counts)

    answers = [ask(keeping, data.getvalue(), format=name) for name in ("tiff", "png", "webp")]

    assert [found for found, _ in answers] == ["miss", "miss", "pages"]
    assert [decode(answer.content).depth for _, answer in answers] == ["float", "16", "8"]


def test_kept_results_cost_no_pixels_of_a_key(configured, noisy):
    limited = configured.model_copy(update={"keys": f"web:{KEY}", "key_pixels": 2 * 21 * 34})
    with TestClient(create_app(limited), headers={"x-api-key": KEY}) as client:
        found = [ask(client, noisy, format=name)[0] for name in ("png", "png", "webp", "png")]
        # The second image takes the last pixels.
        ask(client, noisy, strength=0.5)
        refused = client.post("/denoise", params={"strength": 0.6}, content=noisy)

    assert found == ["miss", "hit", "pages", "hit"]
    assert refused.status_code == 429


def test_a_kept_result_takes_no_place_in_the_queue(keeping, noisy, monkeypatch):
    ask(keeping, noisy)
    monkeypatch.setattr(keeping.app_state["scheduler"], "admit", None)

    assert ask(keeping, noisy)[0] == "hit"


def test_a_batch_finds_kept_results(keeping, noisy, samples, file_of):
    ask(keeping, noisy)
    other = file_of(samples(9, 9))

    files = [("image", ("a.png", noisy)), ("image", ("b.png", other))]
    assert keeping.post("/denoise/batch", files=files).status_code == 200

    assert images(keeping) == 2
    assert ask(keeping, other)[0] == "hit"


def test_the_memory_is_in_the_metrics_and_stays_within_the_limit(configured, samples, file_of):
    limit = 40_000
    small = configured.model_copy(update={"cache_bytes": limit})
    with TestClient(create_app(small)) as client:
        for side in range(30, 50):
            ask(client, file_of(samples(side, side)))
        text = client.get("/metrics").text
        scheduler = client.app_state["scheduler"]

    held = float(re.search(r'^denoise_held_bytes\{for="cache"\} (\S+)$', text, re.MULTILINE)[1])
    assert 0.5 * limit < held <= limit
    assert 'denoise_cache_lookups_total{found="miss"} 20.0' in text
    assert (scheduler.memory, scheduler.body_bytes) == (0, 0)


def test_the_cache_can_be_turned_off(configured, noisy):
    with TestClient(create_app(configured.model_copy(update={"cache_bytes": 0}))) as client:
        found = [ask(client, noisy)[0] for _ in range(2)]

        assert found == ["miss", "miss"]
        assert images(client) == 2
        assert "denoise_cache_lookups_total{" not in client.get("/metrics").text
