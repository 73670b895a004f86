"""Tour: the server in a process of its own, and images of every kind sent over a socket."""

import os
import re
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from http.client import HTTPResponse
from io import BytesIO
from pathlib import Path

import httpx2 as httpx
import numpy as np
import pytest
import torch
from PIL import Image

from engine.imageio.formats import FORMATS
from engine.imageio.read import decode
from engine.inference.denoise import denoise
from engine.inference.noise_estimation import estimate_noise
from engine.inference.preparation import prepare
from engine.models import checkpoint

ROOT = Path(__file__).parents[2]
MAX_BYTES = 3_000_000
MAX_PIXELS = 1_100_000
# The server's result may differ from the engine's result in this process by this many steps of 8 bits.
TOLERANCE = 1
# The weights must change at least one sample by more than this, on [0, 1].
LEAST_CHANGE = 2 / 255
ORIENTATION = 0x0112  # EXIF tag
UPLOADS = {"form": lambda data: {"files": {"image": data}}, "raw": lambda data: {"content": data}}


def serve(folder, *flags, **variables):
    """Starts the server on a free port. stdout has its errors too, and must be read."""
    command = [sys.executable, "-m", "service.cli", "serve", "--port", "0", "--weights", str(folder), *flags]
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("DENOISE_")},
        **variables,
    }
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.fixture(scope="module")
def client(folder):
    limits = {"DENOISE_MAX_BYTES": str(MAX_BYTES), "DENOISE_MAX_PIXELS": str(MAX_PIXELS)}
    limits["DENOISE_MODEL"] = "photo"
    with serve(folder, "--device", "cpu", "--precision", "float32", **limits) as server:
        try:
            address = next(found[0] for line in server.stdout if (found := re.search(r"http://[\d.:]+", line)))
            # The log must be read all the time: the server would block on a full pipe.
            threading.Thread(target=server.stdout.read, daemon=True).start()
            with httpx.Client(base_url=address, timeout=120) as client:
                yield client
        finally:
            server.kill()


def assert_denoised(response, data, folder, name="photo"):
    """The response is the result of these weights to within TOLERANCE, with unchanged alpha.

    An image of two values is certainly clean, so its samples are unchanged.
    """
    assert response.status_code == 200, response.text
    noisy, returned = decode(data), decode(response.content)
    preparation = prepare(noisy.samples, estimate_noise(noisy.samples))
    net = checkpoint.load(folder / f"{name}.safetensors").net
    expected = denoise(net, noisy, preparation=preparation).pixels
    assert bool(preparation.unchanged) == response.headers.get("x-denoise-steps", "").startswith("unchanged")
    assert preparation.unchanged or (noisy.pixels - expected).abs().max() > LEAST_CHANGE
    assert ((returned.pixels - expected).abs().max() * 255).round() <= TOLERANCE
    assert (returned.grey, returned.depth) == (noisy.grey, noisy.depth)
    assert (returned.alpha is None) == (noisy.alpha is None)
    if noisy.alpha is not None:
        assert torch.equal(returned.alpha, noisy.alpha)


def assert_problem(response, status, *words):
    assert response.headers["content-type"] == "application/problem+json"
    assert response.status_code == response.json()["status"] == status
    for word in words:
        assert word in response.json()["detail"]


def rotated():
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    return exif


@pytest.fixture(scope="module")
def images(samples):
    """Each kind of pixels, 45 wide and 37 high: not a multiple of the patch."""
    grey, rgb = Image.fromarray(samples(37, 45, 1)[..., 0]), Image.fromarray(samples(37, 45))
    alpha = Image.fromarray(samples(37, 45, 1, seed=7)[..., 0])
    palette = rgb.quantize(60)
    palette.info["transparency"] = 3
    deep = Image.fromarray(samples(37, 45, 1)[..., 0].astype(np.uint16) * 257 + 5)
    return {
        "rgb": rgb,
        "grey": grey,
        "rgb and alpha": Image.merge("RGBA", (*rgb.split(), alpha)),
        "grey and alpha": Image.merge("LA", (grey, alpha)),
        "palette": palette,
        "16-bit grey": deep,
        "bilevel": grey.convert("1"),
        "turned": rgb,
    }


KINDS = {
    "JPEG": ["rgb", "grey", "turned"],
    "PNG": ["rgb", "grey", "rgb and alpha", "grey and alpha", "palette", "16-bit grey", "bilevel", "turned"],
    "WEBP": ["rgb", "rgb and alpha", "turned"],
    "BMP": ["rgb", "grey", "palette"],
    "TIFF": ["rgb", "grey", "rgb and alpha", "palette", "16-bit grey", "bilevel", "turned"],
    "GIF": ["rgb", "grey", "palette"],
}


@pytest.mark.parametrize("upload", UPLOADS)
@pytest.mark.parametrize(("format_", "kind"), [(format_, kind) for format_ in KINDS for kind in KINDS[format_]])
def test_an_image_of_this_kind_comes_back_denoised(format_, kind, upload, client, folder, images, file_of):
    options = {"exif": rotated()} if kind == "turned" else {}
    data = file_of(images[kind], format_, **options)

    response = client.post("/denoise", **UPLOADS[upload](data))

    assert_denoised(response, data, folder)
    size = Image.open(BytesIO(response.content)).size
    assert size == ((37, 45) if kind == "turned" else (45, 37))


@pytest.mark.parametrize("size", [(1, 1), (1, 100), (33, 31), (200, 7)])
def test_an_image_of_any_size_comes_back_at_that_size(size, client, folder, samples, file_of):
    data = file_of(samples(*size))

    response = client.post("/denoise", content=data)

    assert_denoised(response, data, folder)


def test_another_model_gives_another_image(client, folder, images, file_of):
    data = file_of(images["rgb"])

    response = client.post("/denoise", params={"model": "scans"}, content=data)

    assert_denoised(response, data, folder, "scans")
    assert response.headers["x-denoise-model"] == "scans"
    assert response.headers["x-denoise-digest"] == checkpoint.load(folder / "scans.safetensors").digest
    assert response.content != client.post("/denoise", content=data).content


@pytest.mark.parametrize("upload", UPLOADS)
@pytest.mark.parametrize("format_", KINDS)
def test_an_image_cut_short_is_refused(format_, upload, client, images, file_of):
    whole = file_of(images["rgb"], format_)

    response = client.post("/denoise", **UPLOADS[upload](whole[: len(whole) // 2]))

    assert_problem(response, 400, f"The {FORMATS[format_.lower()].title} file", "broken")


@pytest.mark.parametrize("upload", UPLOADS)
@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, ["empty: 0 bytes"]),
        (b"\x07" * 5000, 400, ["5000 bytes", "Supported formats: JPEG"]),
        (b"%PDF-1.7 ...", 415, ["PDF", "Supported formats: JPEG"]),
    ],
)
def test_a_body_that_is_not_an_image_is_refused(body, status, words, upload, client):
    assert_problem(client.post("/denoise", **UPLOADS[upload](body)), status, *words)


def test_an_image_in_another_field_is_refused(client, images, file_of):
    response = client.post("/denoise", files={"file": file_of(images["rgb"])})

    assert_problem(response, 422, "'image'", "file")


def test_an_unknown_model_is_refused(client, images, file_of):
    response = client.post("/denoise", params={"model": "films"}, content=file_of(images["rgb"]))

    assert_problem(response, 404, "'films'", "photo, scans")


def test_too_many_pixels_are_refused(client, file_of):
    response = client.post("/denoise", content=file_of(np.zeros((2000, 2000), np.uint8)))

    assert_problem(response, 413, "2000 x 2000 = 4000000 pixels", f"the limit is {MAX_PIXELS}")


@pytest.mark.parametrize("upload", UPLOADS)
def test_too_many_bytes_are_refused(upload, client):
    response = client.post("/denoise", **UPLOADS[upload](b"x" * (MAX_BYTES + 1)))

    assert_problem(response, 413, "The body has 3000", f"at most {MAX_BYTES}")


def test_an_endless_upload_is_refused_before_it_ends(client):
    """Sent through a socket: an HTTP client would send the whole body before it reads the response."""
    address = (client.base_url.host, client.base_url.port)
    with socket.create_connection(address, timeout=60) as connection:
        connection.sendall(b"POST /denoise HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"%x\r\n%b\r\n" % (2**16, b"x" * 2**16)
        for _ in range(MAX_BYTES // 2**16 + 1):
            connection.sendall(chunk)
        with closing(HTTPResponse(connection)) as answer:
            answer.begin()
            status, text = answer.status, answer.read().decode()

    assert status == 413
    assert f"at most {MAX_BYTES} are allowed" in text


def test_the_server_still_works_after_all_refusals(client, folder, images, file_of):
    data = file_of(images["rgb"])

    assert_denoised(client.post("/denoise", content=data), data, folder)


def test_health_is_answered_while_an_image_is_denoised(client, folder, samples, file_of):
    large = file_of(np.tile(samples(100, 100), (10, 11, 1)))
    answers = []
    posting = threading.Thread(target=lambda: answers.append(client.post("/denoise", content=large)))

    posting.start()
    busy = []
    while posting.is_alive():
        health = client.get("/health").json()
        if not answers:
            busy.append(health["denoising"])
        time.sleep(0.005)

    assert 1 in busy
    assert_denoised(answers[0], large, folder)


def test_the_page_and_the_description_are_there(client):
    assert "Drop images here" in client.get("/").text
    assert client.get("/page/page.js").headers["content-type"].startswith("text/javascript")
    assert "/denoise" in client.get("/openapi.json").json()["paths"]


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--model", "broken"), r"broken\.safetensors: cannot load weights"),
        (("--model", "films"), r"films\.safetensors: the default model needs this file"),
        (("--max-pixels", "0"), "DENOISE_MAX_PIXELS or --max-pixels is '0'"),
    ],
)
def test_a_server_that_cannot_serve_exits_and_says_why(flags, reason, tmp_path, save_tiny):
    save_tiny(tmp_path / "photo.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"these are no weights")

    server = serve(tmp_path, *flags)
    output, _ = server.communicate(timeout=120)

    assert server.returncode != 0
    assert re.search(reason, output)
    assert "Traceback" not in output
