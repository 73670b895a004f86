"""POST /denoise: several images at once, and limits of memory and time."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import repeat
from threading import Lock, Semaphore
from types import SimpleNamespace

import numpy as np
import pytest
from fastapi.testclient import TestClient

from engine.imageio.read import decode
from engine.imageio.read import read as read_file
from engine.imageio.sandbox.decoder import Decoder
from engine.imageio.write import encode as encode_file
from engine.inference import tiling
from engine.inference.denoise import TiledDenoiser, denoise
from engine.inference.noise_estimation import estimate_noise
from engine.inference.preparation import prepare
from engine.models import checkpoint
from service.app import create_app
from service.runtime import inference_queue, scheduler
from service.runtime import stages as denoising
from tests.support.leaving import post_and_leave
from tests.support.problems import assert_problem
from tests.support.windows import SOON, Net, window


def denoised(folder, data, name="photo"):
    """The engine's own result."""
    net = checkpoint.load(folder / f"{name}.safetensors").net
    noisy = decode(data)
    preparation = prepare(noisy.samples, estimate_noise(noisy.samples))
    return denoise(net, noisy, preparation=preparation).samples


def wait_for(semaphore):
    assert semaphore.acquire(timeout=SOON), "the other image had to wait"


def test_decoding_and_encoding_overlap_with_the_network(client, noisy, monkeypatch):
    decoded, denoised, first_in, first_out = Semaphore(0), Semaphore(0), Lock(), Lock()

    def read(decoder, file, *args):
        decoded_file = read_file(file.read(), *args[:-1])
        decoded.release()
        return decoded_file

    def run_batch(windows):
        # The first image stays in the network until the other is decoded.
        if first_in.acquire(blocking=False):
            [wait_for(decoded) for _ in range(2)]
        tiling.run_batch(windows)
        for _ in windows:
            denoised.release()

    def encode(*args):
        # The first image is encoded until the other has been through the network.
        if first_out.acquire(blocking=False):
            [wait_for(denoised) for _ in range(2)]
        return encode_file(*args)

    for module, fake in ((Decoder, read), (inference_queue, run_batch), (denoising, encode)):
        monkeypatch.setattr(module, fake.__name__, fake)
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda body: client.post("/denoise", content=body), [noisy, noisy]))

    assert [answer.status_code for answer in answers] == [200, 200]


def test_images_in_one_batch_get_the_result_of_each_alone(client, folder, samples, file_of, monkeypatch):
    sizes = [(21, 34)] * 5 + [(30, 40), (20, 50), (33, 40), (5, 6)]
    sent = [file_of(samples(*size, seed=seed)) for seed, size in enumerate(sizes)]
    begun, batches = Semaphore(0), []

    def begin(*args, **how):
        denoising = TiledDenoiser(*args, **how)
        begun.release()
        return denoising

    def run(windows):
        # The network waits until all images are there.
        if not batches:
            [wait_for(begun) for _ in sizes]
        batches.append(len(windows))
        tiling.run_batch(windows)

    monkeypatch.setattr(denoising, "TiledDenoiser", begin)
    monkeypatch.setattr(inference_queue, "run_batch", run)
    with ThreadPoolExecutor(len(sent)) as pool:
        answers = list(pool.map(lambda body: client.post("/denoise", content=body), sent))

    for body, answer in zip(sent, answers, strict=True):
        got, expected = (x.float() for x in (decode(answer.content).samples, denoised(folder, body)))
        assert (got - expected).abs().max() <= 1
    assert sum(batches) == len(sizes)
    assert max(batches) > 1


@pytest.mark.parametrize(
    ("module", "name", "error"),
    [
        (Decoder, "read", MemoryError()),
        (denoising, "encode", MemoryError()),
        (inference_queue, "run_batch", MemoryError("no more")),
        (
            inference_queue,
            "run_batch",
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        ),
    ],
)
def test_out_of_memory_fails_the_request_not_the_service(module, name, error, client, noisy, monkeypatch, caplog):
    def lacking(*args, **how):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(module, name, lacking)
        failed = client.post("/denoise", content=noisy)
    after = client.post("/denoise", content=noisy)

    assert_problem(failed, 503, "not have enough memory")
    assert int(failed.headers["retry-after"]) > 0
    assert "out of memory" in caplog.text
    assert after.status_code == 200
    assert client.get("/health").json()["denoising"] == 0


@pytest.fixture
def busy(settings, noisy, monkeypatch):
    """busy(**settings): a service whose network works on an image until the test ends."""
    begun, go_on = threading.Event(), threading.Event()

    def held(windows):
        begun.set()
        assert go_on.wait(SOON)
        tiling.run_batch(windows)

    monkeypatch.setattr(inference_queue, "run_batch", held)
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
def test_a_full_queue_is_answered_503_with_retry_after(route, busy, noisy, monkeypatch):
    monkeypatch.setattr(scheduler, "SMALL_AT_ONCE", 1)

    answer = busy(max_waiting=0).post(route, content=noisy)

    assert_problem(answer, 503, "0 images are waiting; at most 0 may", "There should be room in")
    assert int(answer.headers["retry-after"]) >= 1


def test_uploads_beyond_the_body_memory_are_refused(settings, noisy):
    with TestClient(create_app(settings.model_copy(update={"body_memory": len(noisy)}))) as client:
        for way in ({"content": noisy}, {"content": iter([noisy])}):
            assert_problem(client.post("/denoise", **way), 503, "Images of 0 bytes are arriving")


def test_an_image_that_needs_too_much_memory_is_refused(settings, file_of, monkeypatch):
    monkeypatch.setattr(Decoder, "read", None)
    sent = file_of(np.zeros((40, 50), np.uint16))
    with TestClient(create_app(settings.model_copy(update={"image_memory": 100_000}))) as client:
        for params, needs in (({}, 40), ({"output": "compare"}, 80), ({"format": "webp"}, 80)):
            response = client.post("/denoise", params=params, content=sent)

            assert_problem(response, 413, f"needs {2000 * needs} bytes of memory; at most 75000")


def test_an_image_past_its_deadline_is_answered_504(settings, noisy, monkeypatch):
    endless = SimpleNamespace(windows=repeat(window(Net())))
    monkeypatch.setattr(denoising, "TiledDenoiser", lambda *args, **how: endless)
    with TestClient(create_app(settings.model_copy(update={"deadline": 0.05}))) as client:
        answer = client.post("/denoise", content=noisy)

    assert_problem(answer, 504, "more than 0.05 seconds, the limit")


def test_an_image_is_cancelled_when_its_client_disconnects(settings, noisy, monkeypatch):
    endless = SimpleNamespace(windows=repeat(window(Net())))
    monkeypatch.setattr(denoising, "TiledDenoiser", lambda *args, **how: endless)
    answers = asyncio.run(asyncio.wait_for(post_and_leave(create_app(settings), noisy), SOON))

    # Nobody reads the answer, but the application must give one.
    assert answers[0]["status"] == 400
