"""The service in this process: what it answers, in which words, and what it takes."""

import asyncio
import logging
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import repeat
from threading import Lock, Semaphore
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image as PILImage

from engine.imageio.formats import FORMATS, WRITTEN
from engine.imageio.image import File, Image
from engine.imageio.metadata import Metadata
from engine.imageio.read import decode
from engine.imageio.read import read as read_file
from engine.imageio.sandbox.decoder import Decoder
from engine.imageio.write import encode as encode_file
from engine.inference import denoise
from engine.inference.denoise import Denoising, denoise_image
from engine.layers import kernels
from engine.models import checkpoint
from service.api.content_negotiation import acceptable
from service.app import create_app
from service.params import DenoiseParams
from service.runtime import inference_queue, scheduler
from service.runtime import pipeline as denoising
from service.settings import Settings
from tests.support.leaving import post_and_leave
from tests.support.windows import SOON, Net, piece

MAX_BYTES, MAX_PIXELS = 20_000, 2_000


@pytest.fixture(scope="module")
def settings(folder):
    return Settings(
        weights=folder,
        model="photo",
        device="cpu",
        precision="float32",
        max_bytes=MAX_BYTES,
        max_pixels=MAX_PIXELS,
    )


@pytest.fixture(scope="module")
def client(settings):
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def noisy(samples, file_of):
    return file_of(samples(21, 34))


def denoised(folder, data, name="photo"):
    """What the engine makes of it."""
    net = checkpoint.load(folder / f"{name}.safetensors").net
    return denoise_image(net, decode(data).pixels)


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
    torch.testing.assert_close(decode(response.content).pixels, expected, atol=0.51 / 255, rtol=0)


def test_curls_data_binary_is_taken_though_it_calls_an_image_a_urlencoded_form(client, noisy):
    headers = {"content-type": "application/x-www-form-urlencoded"}

    response = client.post("/denoise", content=noisy, headers=headers)

    assert response.status_code == 200


def test_the_answer_says_which_weights_made_it_and_in_which_time(client, folder, noisy):
    response = client.post("/denoise", content=noisy)

    assert response.headers["x-denoise-model"] == "photo"
    assert response.headers["x-denoise-digest"] == checkpoint.load(folder / "photo.safetensors").digest
    assert response.headers["x-denoise-precision"] == "float32"
    assert float(response.headers["x-denoise-seconds"]) > 0


def test_a_request_may_name_a_model(client, folder, noisy):
    response = client.post("/denoise", params={"model": "scans"}, content=noisy)

    assert response.headers["x-denoise-model"] == "scans"
    expected = denoised(folder, noisy, "scans").clamp(0, 1)
    torch.testing.assert_close(decode(response.content).pixels, expected, atol=0.51 / 255, rtol=0)


def test_a_model_that_is_not_there_is_answered_with_those_that_are(client, noisy):
    response = client.post("/denoise", params={"model": "films"}, content=noisy)

    assert_problem(response, 404, "'films'", "photo, scans")


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, ["0 bytes came"]),
        (b"not an image", 400, ["b'not an image'", "taken are JPEG, PNG"]),
        (b"%PDF-1.7 and so on", 415, ["PDF", "taken are JPEG, PNG"]),
    ],
)
@pytest.mark.parametrize("way", [lambda data: {"files": {"image": data}}, lambda data: {"content": data}])
def test_what_is_no_image_is_refused_in_words(way, body, status, words, client):
    assert_problem(client.post("/denoise", **way(body)), status, *words)


def test_an_image_cut_short_is_refused(client, noisy):
    assert_problem(client.post("/denoise", content=noisy[:-300]), 400, "PNG file is broken or cut short")


def test_pixels_that_are_not_taken_are_refused(client, file_of):
    response = client.post("/denoise", content=file_of(PILImage.new("CMYK", (4, 4)), "TIFF"))

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

    assert_problem(response, 422, "'image'", "is missing; the form has: picture, photo")


def test_a_form_whose_field_is_text_is_told_so(client):
    response = client.post("/denoise", data={"image": "noisy.png"}, files={"other": b""})

    assert_problem(response, 422, "'image'", "is text, not a file")


def test_an_empty_form_is_told_so(client):
    headers = {"content-type": "multipart/form-data; boundary=cut"}

    response = client.post("/denoise", content=b"--cut--\r\n", headers=headers)

    assert_problem(response, 422, "the form has: nothing")


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


def test_nobody_is_sent_to_where_the_host_header_says(client):
    response = client.get("/health/", headers={"host": "elsewhere.example"}, follow_redirects=False)

    assert_problem(response, 404, "/health/")
    assert "location" not in response.headers


def test_a_bug_is_a_500_that_tells_the_log_and_not_the_sender(client, noisy, monkeypatch, caplog):
    def buggy(*args, **kwargs):
        raise RuntimeError("a secret of the house")

    monkeypatch.setattr(denoising, "Denoising", buggy)
    with caplog.at_level(logging.ERROR):
        response = client.post("/denoise", content=noisy)

    assert_problem(response, 500, "server's log")
    assert "secret" not in response.text


def test_a_bug_reaches_the_server_which_logs_its_traceback(settings, noisy, monkeypatch):
    def buggy(*args, **kwargs):
        raise RuntimeError("a bug")

    monkeypatch.setattr(denoising, "Denoising", buggy)
    with TestClient(create_app(settings)) as strict, pytest.raises(RuntimeError, match="a bug"):
        strict.post("/denoise", content=noisy)


def test_grey_alpha_and_size_survive(client, samples, file_of):
    noisy = samples(11, 6, 2)

    response = client.post("/denoise", content=file_of(noisy))
    returned = decode(response.content)

    assert returned.grey
    assert returned.pixels.shape == (11, 6, 3)
    np.testing.assert_array_equal(returned.alpha, noisy[..., 1])


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "tiff", "avif"])
def test_the_image_comes_in_the_format_that_is_asked_for(kind, client, noisy):
    media_type = FORMATS[kind].media_type

    by_name = client.post("/denoise", params={"format": kind}, content=noisy)
    by_header = client.post("/denoise", headers={"accept": f"text/html, {media_type}, */*;q=0.1"}, content=noisy)

    assert by_name.headers["content-type"] == by_header.headers["content-type"] == media_type
    assert read_file(by_name.content).kind.name == kind
    assert by_name.content == by_header.content
    assert "x-denoise-changed" not in by_name.headers


@pytest.mark.parametrize(
    ("header", "kind"),
    [
        ("", "png"),
        ("*/*", "png"),
        ("image/*", "png"),
        ("image/webp,*/*", "png"),
        ("image/webp,*/*;q=0.9", "webp"),
        ("image/*;q=0.5, image/tiff;q=0.8, image/avif;q=0.2", "tiff"),
        ("image/png;q=0, image/*", "jpeg"),
        ("image/png;q=nonsense, image/avif", "avif"),
    ],
)
def test_an_accept_header_says_which_format_is_liked_best(header, kind):
    assert acceptable(header) == kind


def test_a_request_that_accepts_nothing_that_is_written_is_told_what_is(client, noisy):
    response = client.post("/denoise", headers={"accept": "image/heic"}, content=noisy)

    assert_problem(response, 406, "'image/heic'", "image/png")


def test_the_format_that_came_comes_back(client, samples, file_of):
    response = client.post("/denoise", params={"format": "same"}, content=file_of(samples(20, 30), "WEBP"))

    assert response.headers["content-type"] == "image/webp"


def test_16_bits_and_everything_around_the_pixels_come_back(client):
    deep = torch.randint(65536, (9, 12, 3)).to(torch.uint16)
    known = Metadata(bytes(300), None, b"<x:xmpmeta/>", (300.0, 300.0))
    file = File(FORMATS["png"], (Image(deep, None, known),))
    sent = encode_file(file, FORMATS["tiff"]).data

    response = client.post("/denoise", params={"format": "same", "strength": 0}, content=sent)
    back = decode(response.content)

    assert torch.equal(back.samples, deep)
    assert back.metadata == known


def test_what_a_format_could_not_hold_is_said_in_a_header(client, file_of):
    deep = file_of(np.zeros((8, 8), np.uint16))

    response = client.post("/denoise", params={"format": "jpeg", "quality": 90}, content=deep)

    assert response.status_code == 200
    assert response.headers["x-denoise-changed"] == "16 bits a channel to 8 bits a channel"


def test_all_frames_of_an_animation_come_back(client, file_of):
    frames = [PILImage.new("RGB", (9, 7), colour) for colour in ("#204060", "#ffffff", "#804020")]
    sent = file_of(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=70, loop=0)

    moving = read_file(client.post("/denoise", content=sent).content)
    alone = read_file(client.post("/denoise", params={"page": 3, "strength": 0}, content=sent).content)

    assert (len(moving.pages), moving.durations, moving.plays) == (3, (70, 70, 70), 0)
    assert alone.pages[0].samples[0, 0].tolist() == [0x80, 0x40, 0x20]


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"format": "bmp"}, ["BMP is read and not written", "written are jpeg, png"]),
        ({"format": "xyz"}, ["no format 'xyz'", "written are jpeg, png"]),
        ({"format": ""}, ["no format ''", "written are jpeg, png"]),
        ({"page": 2}, ["Page 2 was asked for; the PNG file has 1"]),
        ({"page": 0}, ["page", "greater than or equal to 1"]),
        ({"strength": 1.5}, ["strength", "less than or equal to 1"]),
        ({"luma": "nan"}, ["luma"]),
        ({"quality": 101}, ["quality", "less than or equal to 100"]),
        ({"output": "both"}, ["output", "'clean', 'residual' or 'compare'"]),
    ],
)
def test_a_wish_that_cannot_be_met_is_refused_with_what_can(params, words, client, noisy):
    assert_problem(client.post("/denoise", params=params, content=noisy), 422, *words)


def test_transparency_is_not_dropped_for_a_jpeg(client, samples, file_of):
    response = client.post("/denoise", params={"format": "jpeg"}, content=file_of(samples(6, 6, 4)))

    assert_problem(response, 422, "transparency, which JPEG cannot hold", "ask for PNG, WebP, TIFF and AVIF")


def test_too_many_pages_are_refused(settings, file_of):
    frames = [PILImage.new("RGB", (2, 2), colour) for colour in ("red", "blue", "white")]
    sent = file_of(frames[0], "GIF", save_all=True, append_images=frames[1:])
    with TestClient(create_app(settings.model_copy(update={"max_pages": 2}))) as client:
        assert_problem(client.post("/denoise", content=sent), 413, "more than 2 pages")


def test_the_residual_and_the_comparison_show_what_the_clean_image_lacks(client, noisy):
    clean, residual, both = (
        decode(client.post("/denoise", params={"output": output}, content=noisy).content).samples.int()
        for output in ("clean", "residual", "compare")
    )
    came = decode(noisy).samples.int()

    assert torch.equal(both, torch.cat((came, clean), 1))
    assert torch.equal(residual, (came - clean + 128).clamp(0, 255))


def test_every_wish_is_described_with_its_range(client):
    parameters = client.get("/openapi.json").json()["paths"]["/denoise"]["post"]["parameters"]
    described = {each["name"]: each for each in parameters}

    assert set(described) == set(DenoiseParams.model_fields)
    assert all(each["description"].endswith(".") for each in parameters)
    assert described["strength"]["schema"]["maximum"] == 1
    assert described["format"]["schema"]["enum"] == [*WRITTEN, "same"]


def test_the_memory_budget_reaches_the_engine(settings, noisy, monkeypatch):
    given = []

    def begin(net, noisy, memory_budget, **how):
        given.append(memory_budget)
        return Denoising(net, noisy, memory_budget, **how)

    monkeypatch.setattr(denoising, "Denoising", begin)
    with TestClient(create_app(settings.model_copy(update={"memory_budget": 12345678}))) as client:
        client.post("/denoise", content=noisy)

    assert given == [12345678]


def test_the_png_level_reaches_the_encoder(settings, noisy):
    sizes = []
    for level in (0, 9):
        with TestClient(create_app(settings.model_copy(update={"png_level": level}))) as client:
            sizes.append(len(client.post("/denoise", content=noisy).content))

    assert sizes[0] > 21 * 34 * 3
    assert sizes[0] > sizes[1]


def test_images_are_decoded_and_encoded_while_another_is_in_the_network(client, noisy, monkeypatch):
    decoded, denoised, first_in, first_out = Semaphore(0), Semaphore(0), Lock(), Lock()

    def read(decoder, file, *args):
        decoded_file = read_file(file.read(), *args[:-1])
        decoded.release()
        return decoded_file

    def run(pieces):
        # Whoever is first stays in the network until the other is decoded as well.
        if first_in.acquire(blocking=False):
            [wait_for(decoded) for _ in range(2)]
        denoise.run(pieces)
        for _ in pieces:
            denoised.release()

    def encode(*args):
        # Whoever is first is encoded until the other has been through the network as well.
        if first_out.acquire(blocking=False):
            [wait_for(denoised) for _ in range(2)]
        return encode_file(*args)

    for module, fake in ((Decoder, read), (inference_queue, run), (denoising, encode)):
        monkeypatch.setattr(module, fake.__name__, fake)
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda body: client.post("/denoise", content=body), [noisy, noisy]))

    assert [answer.status_code for answer in answers] == [200, 200]


def test_images_that_share_the_network_are_what_each_is_alone(client, folder, samples, file_of, monkeypatch):
    sizes = [(21, 34)] * 5 + [(30, 40), (20, 50), (33, 40), (5, 6)]
    sent = [file_of(samples(*size, seed=seed)) for seed, size in enumerate(sizes)]
    begun, batches = Semaphore(0), []

    def begin(*args, **how):
        denoising = Denoising(*args, **how)
        begun.release()
        return denoising

    def run(pieces):
        # Nothing goes through the network before all of them are there.
        if not batches:
            [wait_for(begun) for _ in sizes]
        batches.append(len(pieces))
        denoise.run(pieces)

    monkeypatch.setattr(denoising, "Denoising", begin)
    monkeypatch.setattr(inference_queue, "run", run)
    with ThreadPoolExecutor(len(sent)) as pool:
        answers = list(pool.map(lambda body: client.post("/denoise", content=body), sent))

    for body, answer in zip(sent, answers, strict=True):
        got, expected = decode(answer.content).samples, denoised(folder, body).clamp(0, 1) * 255
        assert (got - expected).abs().max() <= 1
    assert sum(batches) == len(sizes)
    assert max(batches) > 1


def test_health_is_answered_while_images_are_in_work_and_tells_of_them(client, noisy, monkeypatch):
    in_network, go_on = threading.Event(), threading.Event()

    def held(pieces):
        in_network.set()
        assert go_on.wait(SOON)
        denoise.run(pieces)

    monkeypatch.setattr(inference_queue, "run", held)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(client.post, "/denoise", content=noisy)
        assert in_network.wait(SOON)
        health = client.get("/health").json()
        go_on.set()

        assert answer.result().status_code == 200
    assert (health["denoising"], health["waiting"]) == (1, 0)


@pytest.mark.parametrize(
    ("module", "name", "error"),
    [
        (Decoder, "read", MemoryError()),
        (denoising, "encode", MemoryError()),
        (inference_queue, "run", MemoryError("no more")),
        (
            inference_queue,
            "run",
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        ),
    ],
)
def test_out_of_memory_the_request_fails_and_the_service_does_not(
    module, name, error, client, noisy, monkeypatch, caplog
):
    def lacking(*args, **how):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(module, name, lacking)
        failed = client.post("/denoise", content=noisy)
    after = client.post("/denoise", content=noisy)

    assert_problem(failed, 503, "not enough memory")
    assert int(failed.headers["retry-after"]) > 0
    assert "out of memory" in caplog.text
    assert after.status_code == 200
    assert client.get("/health").json()["denoising"] == 0


@pytest.fixture
def busy(settings, noisy, monkeypatch):
    """busy(**settings): a service whose network is at work, and does not come to an end before the test does."""
    begun, go_on = threading.Event(), threading.Event()

    def held(pieces):
        begun.set()
        assert go_on.wait(SOON)
        denoise.run(pieces)

    monkeypatch.setattr(inference_queue, "run", held)
    with ExitStack() as stack:

        def make(**limits):
            client = stack.enter_context(TestClient(create_app(settings.model_copy(update=limits))))
            pool = stack.enter_context(ThreadPoolExecutor(1))
            stack.callback(go_on.set)
            pool.submit(client.post, "/denoise", content=noisy)
            assert begun.wait(SOON)
            return client

        yield make


@pytest.mark.parametrize("route", ["/denoise", "/estimate"])
def test_a_full_service_says_so_at_once_and_when_to_come_again(route, busy, noisy, monkeypatch):
    monkeypatch.setattr(scheduler, "SMALL_AT_ONCE", 1)

    answer = busy(max_waiting=0).post(route, content=noisy)

    assert_problem(answer, 503, "0 images are waiting; at most 0 may", "There should be room in")
    assert int(answer.headers["retry-after"]) >= 1


def test_files_that_take_more_memory_than_there_is_are_refused(settings, noisy):
    with TestClient(create_app(settings.model_copy(update={"body_memory": len(noisy)}))) as client:
        for way in ({"content": noisy}, {"content": iter([noisy])}):
            assert_problem(client.post("/denoise", **way), 503, "Images of 0 bytes are arriving")


def test_an_image_that_takes_too_much_memory_is_refused_before_it_is_decoded(settings, file_of, monkeypatch):
    monkeypatch.setattr(Decoder, "read", None)
    sent = file_of(np.zeros((40, 50), np.uint16))
    with TestClient(create_app(settings.model_copy(update={"image_memory": 100_000}))) as client:
        for params, needs in (({}, 40), ({"output": "compare"}, 80), ({"format": "webp"}, 80)):
            response = client.post("/denoise", params=params, content=sent)

            assert_problem(response, 413, f"needs {2000 * needs} bytes of memory; at most 75000")


def test_an_image_that_is_not_done_in_time_is_given_up(settings, noisy, monkeypatch):
    endless = SimpleNamespace(pieces=repeat(piece(Net())))
    monkeypatch.setattr(denoising, "Denoising", lambda *args, **how: endless)
    with TestClient(create_app(settings.model_copy(update={"deadline": 0.05}))) as client:
        answer = client.post("/denoise", content=noisy)

    assert_problem(answer, 504, "more than 0.05 seconds, the limit")


def wait_for(semaphore):
    assert semaphore.acquire(timeout=SOON), "the other image had to wait"


def test_an_image_whose_sender_has_gone_away_is_not_denoised_to_the_end(settings, noisy, monkeypatch):
    endless = SimpleNamespace(pieces=repeat(piece(Net())))
    monkeypatch.setattr(denoising, "Denoising", lambda *args, **how: endless)
    answers = asyncio.run(asyncio.wait_for(post_and_leave(create_app(settings), noisy), SOON))

    # Nobody reads it: what counts is that there is one.
    assert answers[0]["status"] == 400


def test_health_tells_what_runs(client, folder):
    health = client.get("/health").json()

    assert health["ready"] is True
    assert (health["model"], health["device"], health["precision"]) == ("photo", "cpu", "float32")
    assert health["digests"] == {"photo": checkpoint.load(folder / "photo.safetensors").digest}
    assert (health["denoising"], health["waiting"]) == (0, 0)
    assert health["version"]
    assert health["kernels"] == kernels.name()


def test_the_models_are_listed_with_what_is_known_of_them(client):
    listed = client.get("/models").json()

    assert [(about["name"], about["default"], about["kind"]) for about in listed] == [
        ("photo", True, "photo"),
        ("scans", False, "photo"),
    ]
    assert listed[0]["metadata"]["recipe"] == "tiny"


@pytest.fixture(scope="module")
def choosing(tmp_path_factory, settings, save_tiny):
    """The service with weights to choose among."""
    folder = tmp_path_factory.mktemp("all")
    for seed, name in enumerate(("photo", "photo-gaussian", "photo-grey", "scans")):
        save_tiny(folder / f"{name}.safetensors", seed=seed)
    chosen = settings.model_copy(update={"weights": folder, "model": "auto", "max_pixels": 100_000})
    with TestClient(create_app(chosen.model_copy(update={"max_bytes": 10**6}))) as client:
        yield client


def test_without_a_name_the_noise_decides_and_the_answer_says_what_was_found(choosing, file_of):
    rng = torch.Generator().manual_seed(0)
    noise = torch.randn(128, 160, 3, generator=rng) * 20 / 255 + 0.5

    answer = choosing.post("/denoise", content=file_of(noise.clamp(0, 1).mul(255).byte().numpy()))

    assert answer.headers["x-denoise-model"] == "photo-gaussian"
    assert answer.headers["x-denoise-noise"].startswith("white; sigma ")


def test_an_image_too_small_to_judge_gets_the_model_for_cameras(choosing, samples, file_of):
    answer = choosing.post("/denoise", params={"model": "auto"}, content=file_of(samples(9, 30)))

    assert answer.headers["x-denoise-model"] == "photo"


def test_a_named_model_is_not_chosen_by_the_noise(choosing, noisy):
    answer = choosing.post("/denoise", params={"model": "scans"}, content=noisy)

    assert answer.headers["x-denoise-model"] == "scans"
    assert "x-denoise-noise" not in answer.headers


def test_the_choice_is_listed_with_the_weights_it_chooses_among(choosing):
    auto, *others = choosing.get("/models").json()

    assert (auto["name"], auto["default"], auto["kind"]) == ("auto", True, "choice")
    assert set(auto["digests"]) == {"photo", "photo-gaussian", "photo-grey"}
    assert [about["name"] for about in others] == ["photo", "photo-gaussian", "photo-grey", "scans"]
    assert not any(about["default"] for about in others)
    assert choosing.get("/health").json()["digests"] == auto["digests"]


def test_a_choice_without_the_weights_for_it_stops_the_start(settings):
    with pytest.raises(ValueError, match=r"photo-gaussian\.safetensors: .* the folder has photo, scans"):
        create_app(settings.model_copy(update={"model": "auto"}))


def test_the_description_names_both_bodies_the_answers_headers_and_every_error(client):
    route = client.get("/openapi.json").json()["paths"]["/denoise"]["post"]

    assert set(route["requestBody"]["content"]) == {"multipart/form-data", "application/octet-stream"}
    assert "X-Denoise-Digest" in route["responses"]["200"]["headers"]
    assert set(route["responses"]) == {
        "200",
        "400",
        "401",
        "404",
        "406",
        "413",
        "415",
        "422",
        "429",
        "503",
        "504",
    }
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


def test_a_default_model_that_does_not_load_stops_the_start_with_the_reason(settings, tmp_path):
    (tmp_path / "photo.safetensors").write_bytes(b"no tensors here")

    with pytest.raises(ValueError, match=rf"^{tmp_path}/photo\.safetensors: not weights of ours"):
        create_app(settings.model_copy(update={"weights": tmp_path}))


def test_the_number_of_threads_is_torchs(settings):
    before = torch.get_num_threads()
    try:
        create_app(settings.model_copy(update={"threads": 3}))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
