"""The service in this process: what it answers, in which words, and what it takes."""

import asyncio
import logging
import re
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Lock, Semaphore

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image

from engine import images, weights
from engine.picture import Cancelled, denoise_picture
from service import routes
from service.app import create_app
from service.settings import Settings

MAX_BYTES, MAX_PIXELS = 20_000, 2_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory, save_tiny):
    folder = tmp_path_factory.mktemp("weights")
    save_tiny(folder / "photo.safetensors", seed=0, recipe="tiny")
    save_tiny(folder / "scans.safetensors", seed=1)
    return folder


@pytest.fixture(scope="module")
def settings(folder):
    return Settings(weights=folder, device="cpu", precision="float32", max_bytes=MAX_BYTES, max_pixels=MAX_PIXELS)


@pytest.fixture(scope="module")
def client(settings):
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def noisy(samples, file_of):
    return file_of(samples(21, 34))


def denoised(folder, data, name="photo"):
    """What the engine makes of it."""
    net = weights.load(folder / f"{name}.safetensors").net
    return denoise_picture(net, images.decode(data).pixels)


def assert_problem(response, status, *words):
    problem = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    assert set(problem) == {"type", "title", "status", "detail"}
    assert (response.status_code, problem["status"]) == (status, status)
    for word in words:
        assert word in problem["detail"]


@pytest.mark.parametrize("way", [lambda data: {"files": {"image": data}}, lambda data: {"content": data}])
def test_a_form_and_a_raw_body_both_come_back_denoised(way, client, folder, noisy):
    response = client.post("/denoise", **way(noisy))

    assert response.status_code == 200
    assert response.headers["content-type"] == "image/png"
    expected = denoised(folder, noisy).clamp(0, 1)
    torch.testing.assert_close(images.decode(response.content).pixels, expected, atol=0.51 / 255, rtol=0)


def test_curls_data_binary_is_taken_though_it_calls_a_picture_a_urlencoded_form(client, noisy):
    headers = {"content-type": "application/x-www-form-urlencoded"}

    response = client.post("/denoise", content=noisy, headers=headers)

    assert response.status_code == 200


def test_the_answer_says_which_weights_made_it_and_in_which_time(client, folder, noisy):
    response = client.post("/denoise", content=noisy)

    assert response.headers["x-denoise-model"] == "photo"
    assert response.headers["x-denoise-digest"] == weights.load(folder / "photo.safetensors").digest
    assert response.headers["x-denoise-precision"] == "float32"
    assert float(response.headers["x-denoise-seconds"]) > 0


def test_a_request_may_name_a_model(client, folder, noisy):
    response = client.post("/denoise", params={"model": "scans"}, content=noisy)

    assert response.headers["x-denoise-model"] == "scans"
    expected = denoised(folder, noisy, "scans").clamp(0, 1)
    torch.testing.assert_close(images.decode(response.content).pixels, expected, atol=0.51 / 255, rtol=0)


def test_a_model_that_is_not_there_is_answered_with_those_that_are(client, noisy):
    response = client.post("/denoise", params={"model": "films"}, content=noisy)

    assert_problem(response, 404, "'films'", "photo, scans")


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, ["0 bytes came"]),
        (b"not a picture", 400, ["b'not a pictur'", "taken are JPEG, PNG"]),
        (b"%PDF-1.7 and so on", 415, ["PDF", "taken are JPEG, PNG"]),
    ],
)
@pytest.mark.parametrize("way", [lambda data: {"files": {"image": data}}, lambda data: {"content": data}])
def test_what_is_no_picture_is_refused_in_words(way, body, status, words, client):
    assert_problem(client.post("/denoise", **way(body)), status, *words)


def test_a_picture_cut_short_is_refused(client, noisy):
    assert_problem(client.post("/denoise", content=noisy[:-300]), 400, "PNG file is broken or cut short")


def test_pixels_that_are_not_taken_are_refused(client, file_of):
    response = client.post("/denoise", content=file_of(Image.new("CMYK", (4, 4)), "TIFF"))

    assert_problem(response, 415, "CMYK", "taken are RGB")


def test_too_many_pixels_are_refused_with_both_numbers(client, file_of):
    response = client.post("/denoise", content=file_of(np.zeros((50, 41), np.uint8)))

    assert_problem(response, 413, "41 x 50 = 2050 pixels", "at most 2000")


@pytest.mark.parametrize("way", [lambda data: {"files": {"image": data}}, lambda data: {"content": data}])
def test_too_many_bytes_are_refused_with_both_numbers(way, client):
    response = client.post("/denoise", **way(b"x" * (MAX_BYTES + 1)))

    announced = int(response.request.headers["content-length"])
    assert_problem(response, 413, f"The body has {announced} bytes", f"at most {MAX_BYTES}")


def test_a_form_with_another_field_is_told_which_came_and_which_is_taken(client, noisy):
    response = client.post("/denoise", files={"picture": noisy, "photo": noisy})

    assert_problem(response, 422, "'image'", "among: picture, photo")


def test_a_form_whose_field_is_text_is_told_so(client):
    response = client.post("/denoise", data={"image": "noisy.png"}, files={"other": b""})

    assert_problem(response, 422, "'image'", "as text")


def test_an_empty_form_is_told_so(client):
    headers = {"content-type": "multipart/form-data; boundary=cut"}

    response = client.post("/denoise", content=b"--cut--\r\n", headers=headers)

    assert_problem(response, 422, "among: nothing")


@pytest.mark.parametrize("boundary", ["", "; boundary=cut"])
def test_a_body_that_only_says_it_is_a_form_is_refused(boundary, client):
    headers = {"content-type": f"multipart/form-data{boundary}"}

    assert_problem(client.post("/denoise", content=b"no form", headers=headers), 400, "POST /denoise")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nowhere", 404), ("GET", "/denoise", 405), ("GET", "/page/none.js", 404)],
)
def test_the_frameworks_own_errors_have_the_same_shape(method, path, status, client):
    assert_problem(client.request(method, path), status, f"{method} {path}")


def test_a_bug_is_a_500_that_tells_the_log_and_not_the_sender(client, noisy, monkeypatch, caplog):
    def buggy(*args, **kwargs):
        raise RuntimeError("a secret of the house")

    monkeypatch.setattr(routes, "denoise", buggy)
    with caplog.at_level(logging.ERROR):
        response = client.post("/denoise", content=noisy)

    assert_problem(response, 500, "server's log")
    assert "secret" not in response.text


def test_a_bug_reaches_the_server_which_logs_its_traceback(settings, noisy, monkeypatch):
    def buggy(*args, **kwargs):
        raise RuntimeError("a bug")

    monkeypatch.setattr(routes, "denoise", buggy)
    with TestClient(create_app(settings)) as strict, pytest.raises(RuntimeError, match="a bug"):
        strict.post("/denoise", content=noisy)


def test_grey_alpha_and_size_survive(client, samples, file_of):
    noisy = samples(11, 6, 2)

    response = client.post("/denoise", content=file_of(noisy))
    returned = images.decode(response.content)

    assert returned.grey
    assert returned.pixels.shape == (11, 6, 3)
    np.testing.assert_array_equal(returned.alpha, noisy[..., 1])


def test_the_memory_budget_reaches_the_engine(settings, noisy, monkeypatch):
    given = []

    def denoise(net, noisy, memory_budget, **how):
        given.append(memory_budget)
        return noisy

    monkeypatch.setattr(routes, "denoise", denoise)
    with TestClient(create_app(settings.model_copy(update={"memory_budget": 12345678}))) as client:
        client.post("/denoise", content=noisy)

    assert given == [12345678]


def test_the_png_level_reaches_the_encoder(settings, noisy):
    sizes = []
    for level in (0, 9):
        with TestClient(create_app(settings.model_copy(update={"png_level": level}))) as client:
            sizes.append(len(client.post("/denoise", content=noisy).content))

    assert sizes[0] > 21 * 34 * 3 > sizes[1]


def test_pictures_are_decoded_and_encoded_while_another_is_in_the_network(client, noisy, monkeypatch):
    decoded, denoised, first_in, first_out = Semaphore(0), Semaphore(0), Lock(), Lock()

    def decode(*args):
        picture = images.decode(*args)
        decoded.release()
        return picture

    def denoise(net, noisy, memory_budget, wanted, in_turn):
        # Whoever is first stays in the network until the other is decoded as well.
        if first_in.acquire(blocking=False):
            in_turn(lambda: [wait_for(decoded) for _ in range(2)])
        denoised.release()
        return noisy

    def encode(*args):
        # Whoever is first is encoded until the other has been through the network as well.
        if first_out.acquire(blocking=False):
            [wait_for(denoised) for _ in range(2)]
        return images.encode_png(*args)

    for name, fake in (("decode", decode), ("denoise", denoise), ("encode_png", encode)):
        monkeypatch.setattr(routes, name, fake)
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda body: client.post("/denoise", content=body), [noisy, noisy]))

    assert [answer.status_code for answer in answers] == [200, 200]


def wait_for(semaphore):
    assert semaphore.acquire(timeout=20), "the other picture had to wait"


def test_a_picture_whose_sender_has_gone_away_is_not_denoised_to_the_end(settings, noisy, monkeypatch):
    asked = []

    def denoise(net, noisy, memory_budget, wanted, in_turn):
        end = time.monotonic() + 20
        while wanted() and time.monotonic() < end:
            time.sleep(0.001)
        asked.append(wanted())
        raise Cancelled

    monkeypatch.setattr(routes, "denoise", denoise)
    asyncio.run(post_and_leave(create_app(settings), noisy))

    assert asked == [False]


async def post_and_leave(app, body):
    messages = iter([{"type": "http.request", "body": body}, {"type": "http.disconnect"}])

    async def receive():
        return next(messages)

    async def send(message):
        pass

    async with app.router.lifespan_context(app) as state:
        scope = {"type": "http", "method": "POST", "path": "/denoise", "query_string": b"", "headers": []}
        await app({**scope, "state": dict(state)}, receive, send)


def test_health_tells_what_runs(client, folder):
    health = client.get("/health").json()

    assert health["ready"] is True
    assert (health["model"], health["device"], health["precision"]) == ("photo", "cpu", "float32")
    assert health["digest"] == weights.load(folder / "photo.safetensors").digest
    assert (health["denoising"], health["waiting"]) == (0, 0)
    assert health["version"]


def test_the_models_are_listed_with_what_is_known_of_them(client):
    listed = client.get("/models").json()

    assert [(about["name"], about["default"], about["kind"]) for about in listed] == [
        ("photo", True, "photo"),
        ("scans", False, "photo"),
    ]
    assert listed[0]["metadata"]["recipe"] == "tiny"


def test_the_description_names_both_bodies_the_answers_headers_and_every_error(client):
    route = client.get("/openapi.json").json()["paths"]["/denoise"]["post"]

    assert set(route["requestBody"]["content"]) == {"multipart/form-data", "application/octet-stream"}
    assert "X-Denoise-Digest" in route["responses"]["200"]["headers"]
    assert set(route["responses"]) == {"200", "400", "404", "413", "415", "422"}
    assert set(route["responses"]["422"]["content"]) == {"application/problem+json"}
    assert client.get("/docs").status_code == 200


def test_the_description_can_be_read_without_a_network(client):
    page = client.get("/docs").text
    files = re.findall(r'(?:src|href)="([^"]+)"', page)

    assert len(files) >= 3, "a script, a style sheet and an icon"
    for file in files:
        assert client.get(file).status_code == 200, file


def test_the_page_runs_only_what_the_service_itself_serves(client):
    page = client.get("/")

    assert page.headers["content-type"].startswith("text/html")
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert "<script src=" in page.text
    assert "style=" not in page.text
    assert "://" not in page.text
    for name in ("page.js", "page.css", "icon.svg"):
        assert f"page/{name}" in page.text
        assert client.get(f"/page/{name}").status_code == 200


def test_a_default_model_that_is_missing_stops_the_start_and_names_those_there_are(settings):
    missing = settings.model_copy(update={"model": "films"})

    with pytest.raises(ValueError, match=r"films\.safetensors: .* the folder has photo, scans"):
        create_app(missing)


def test_an_empty_folder_stops_the_start(settings, tmp_path):
    with pytest.raises(ValueError, match=r"photo\.safetensors: .* the folder has no weights at all"):
        create_app(settings.model_copy(update={"weights": tmp_path}))


def test_weights_that_do_not_load_stop_the_start_with_the_reason(settings, tmp_path, save_tiny):
    save_tiny(tmp_path / "photo.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"no tensors here")

    with pytest.raises(ValueError, match=r"bad\.safetensors: not weights of ours"):
        create_app(settings.model_copy(update={"weights": tmp_path}))


def test_the_number_of_threads_is_torchs(settings):
    before = torch.get_num_threads()
    try:
        create_app(settings.model_copy(update={"threads": 3}))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
