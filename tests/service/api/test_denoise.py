"""POST /denoise: results, formats, headers and the choice of the model."""

import json

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image as PILImage

from engine.imageio.formats import FORMATS, WRITABLE_FORMATS
from engine.imageio.image import Image, ImageSequence
from engine.imageio.metadata import Metadata
from engine.imageio.read import decode
from engine.imageio.read import read as read_file
from engine.imageio.write import encode as encode_file
from engine.inference.denoise import TiledDenoiser, denoise_image
from engine.models import checkpoint
from service.app import create_app
from service.params import DenoiseParams
from service.runtime import stages as denoising
from tests.support.images import PROFILE
from tests.support.problems import assert_problem
from tests.support.raw_files import dng, scene


def denoised(folder, data, name="photo"):
    """The engine's own result."""
    net = checkpoint.load(folder / f"{name}.safetensors").net
    return denoise_image(net, decode(data).pixels)


@pytest.mark.parametrize("way", [lambda data: {"files": {"image": data}}, lambda data: {"content": data}])
def test_a_form_and_a_raw_body_both_come_back_denoised(way, client, folder, noisy):
    response = client.post("/denoise", **way(noisy))

    assert response.status_code == 200
    assert response.headers["content-type"] == "image/png"
    expected = denoised(folder, noisy).clamp(0, 1)
    torch.testing.assert_close(decode(response.content).pixels, expected, atol=0.51 / 255, rtol=0)


def test_curls_data_binary_is_accepted(client, noisy):
    headers = {"content-type": "application/x-www-form-urlencoded"}

    response = client.post("/denoise", content=noisy, headers=headers)

    assert response.status_code == 200


def test_headers_name_the_weights_and_the_time(client, folder, noisy):
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


def test_grey_alpha_and_size_survive(client, samples, file_of):
    noisy = samples(11, 6, 2)

    response = client.post("/denoise", content=file_of(noisy))
    returned = decode(response.content)

    assert returned.grey
    assert returned.pixels.shape == (11, 6, 3)
    np.testing.assert_array_equal(returned.alpha, noisy[..., 1])


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "tiff", "avif"])
def test_the_result_has_the_requested_format(kind, client, noisy):
    media_type = FORMATS[kind].media_type

    by_name = client.post("/denoise", params={"format": kind}, content=noisy)
    by_header = client.post("/denoise", headers={"accept": f"text/html, {media_type}, */*;q=0.1"}, content=noisy)

    assert by_name.headers["content-type"] == by_header.headers["content-type"] == media_type
    assert read_file(by_name.content).kind.name == kind
    assert by_name.content == by_header.content
    assert "x-denoise-changed" not in by_name.headers


@pytest.mark.parametrize("name", ["JPEG", "jpg"])
def test_a_format_may_be_named_by_its_suffix_in_any_case(name, client, noisy):
    response = client.post("/denoise", params={"format": name}, content=noisy)

    assert response.headers["content-type"] == "image/jpeg"


def test_an_unknown_model_or_format_names_the_nearest(client, noisy):
    model = client.post("/denoise", params={"model": "phto"}, content=noisy)
    kind = client.post("/denoise", params={"format": "pgn"}, content=noisy)

    assert_problem(model, 404, "There is no model 'phto'. Did you mean 'photo'?")
    assert_problem(kind, 422, "There is no format 'pgn'. Did you mean 'png'?")


def test_format_same_keeps_the_format(client, samples, file_of):
    response = client.post("/denoise", params={"format": "same"}, content=file_of(samples(20, 30), "WEBP"))

    assert response.headers["content-type"] == "image/webp"


def test_16_bits_and_metadata_are_kept(client):
    deep = torch.randint(65536, (9, 12, 3)).to(torch.uint16)
    known = Metadata(PROFILE, None, b"<x:xmpmeta/>", (300.0, 300.0))
    file = ImageSequence(FORMATS["png"], (Image(deep, None, known),))
    sent = encode_file(file, FORMATS["tiff"]).data

    response = client.post("/denoise", params={"format": "same", "strength": 0}, content=sent)
    back = decode(response.content)

    assert torch.equal(back.samples, deep)
    assert back.metadata == known


@pytest.mark.parametrize("colour", ["srgb", "prophoto"])
def test_camera_raw_is_developed_and_told(client, colour):
    params = {"format": "tiff", "strength": 0, "colour": colour}
    data = dng(scene(40, 48), orientation=6)

    response = client.post("/denoise", params=params, content=data)
    back = decode(response.content)

    developed = read_file(data, colour=colour)
    assert torch.equal(back.samples, developed.pages[0].samples)
    assert back.metadata.icc_profile == developed.pages[0].metadata.icc_profile
    assert response.headers["x-denoise-changed"] == "; ".join(developed.changed)


def test_the_mosaic_of_camera_raw_is_denoised_before_developing(choosing):
    data = dng(scene(48, 64), noise_profile=(1e-3, 1e-6))
    images, headers = [], []
    for normalise in ("auto", "off"):
        response = choosing.post("/denoise", params={"format": "tiff", "normalise": normalise}, content=data)
        assert response.status_code == 200
        images.append(decode(response.content))
        headers.append(response.headers)

    assert headers[0]["x-denoise-steps"].startswith("mosaic denoised before developing (stated gain 15.4")
    assert "developed from a camera's raw file" in headers[0]["x-denoise-changed"]
    assert "mosaic" not in headers[1].get("x-denoise-steps", "")
    assert images[0].samples.shape == (48, 64, 3)
    assert not torch.equal(images[0].samples, images[1].samples)


def test_a_mosaic_without_a_known_law_stays_as_it_is(choosing):
    response = choosing.post("/denoise", content=dng(scene(48, 64)))

    assert response.status_code == 200
    assert "mosaic" not in response.headers.get("x-denoise-steps", "")


def test_another_page_of_camera_raw_is_refused(choosing):
    response = choosing.post("/denoise?page=2", content=dng(scene(48, 64), noise_profile=(1e-3, 1e-6)))

    assert response.status_code == 422
    assert "has 1 page" in response.json()["detail"]


def test_a_header_says_what_a_format_cannot_hold(client, file_of):
    deep = file_of(np.zeros((8, 8), np.uint16))

    response = client.post("/denoise", params={"format": "jpeg", "quality": 90}, content=deep)

    assert response.status_code == 200
    assert response.headers["x-denoise-changed"] == "16 bits a channel to 8 bits a channel"


def test_the_noise_comes_as_numbers_too(client, samples, file_of):
    large, tiny, grey = (file_of(samples(*size)) for size in ((40, 50), (9, 9), (40, 50, 1)))

    for data in (large, tiny, grey):
        found = json.loads(client.post("/denoise", content=data).headers["x-denoise-estimate"])
        text = client.post("/estimate", content=data).text
        estimate = json.loads(text, parse_float=lambda number: float(f"{float(number):.6g}"))
        assert set(found) == {"scale", "sigma", "luma", "chroma", "correlated", "flat", "jpeg_blocks"}
        assert found == {name: estimate[name] for name in found}


def test_little_noise_of_deep_samples_is_not_rounded_to_none(client, file_of):
    counts = np.random.default_rng(0).normal(1000, 3, (40, 50)).round().astype(np.uint16)

    answer = client.post("/denoise", content=file_of(counts, "TIFF"))

    [sigma] = json.loads(answer.headers["x-denoise-estimate"])["sigma"]
    # Three counts, of few pixels.
    assert sigma == pytest.approx(3 * 255 / 65535, rel=0.3)


def test_all_frames_of_an_animation_come_back(client, file_of):
    frames = [PILImage.new("RGB", (9, 7), colour) for colour in ("#204060", "#ffffff", "#804020")]
    sent = file_of(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=70, loop=0)

    moving = read_file(client.post("/denoise", content=sent).content)
    alone = read_file(client.post("/denoise", params={"page": 3, "strength": 0}, content=sent).content)

    assert (len(moving.pages), moving.durations, moving.plays) == (3, (70, 70, 70), 0)
    assert alone.pages[0].samples[0, 0].tolist() == [0x80, 0x40, 0x20]


def test_output_residual_and_compare_show_the_removed_noise(client, noisy):
    clean, residual, both = (
        decode(client.post("/denoise", params={"output": output}, content=noisy).content).samples.int()
        for output in ("clean", "residual", "compare")
    )
    came = decode(noisy).samples.int()

    assert torch.equal(both, torch.cat((came, clean), 1))
    assert torch.equal(residual, (came - clean + 128).clamp(0, 255))


def test_openapi_has_every_parameter_with_its_range(client):
    parameters = client.get("/openapi.json").json()["paths"]["/denoise"]["post"]["parameters"]
    described = {each["name"]: each for each in parameters}

    assert set(described) == set(DenoiseParams.model_fields)
    assert all(each["description"].endswith(".") for each in parameters)
    assert described["strength"]["schema"]["maximum"] == 1.5
    assert described["grain"]["schema"]["maximum"] == 1
    assert described["format"]["schema"]["enum"] == [*WRITABLE_FORMATS, "same"]


def test_the_memory_budget_reaches_the_engine(settings, noisy, monkeypatch):
    given = []

    def begin(net, noisy, memory_budget, **how):
        given.append(memory_budget)
        return TiledDenoiser(net, noisy, memory_budget, **how)

    monkeypatch.setattr(denoising, "TiledDenoiser", begin)
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


def test_auto_chooses_the_model_by_the_noise(choosing, file_of):
    rng = torch.Generator().manual_seed(0)
    noise = torch.randn(128, 160, 3, generator=rng) * 20 / 255 + 0.5

    answer = choosing.post("/denoise", content=file_of(noise.clamp(0, 1).mul(255).byte().numpy()))

    assert answer.headers["x-denoise-model"] == "photo-gaussian"
    assert answer.headers["x-denoise-noise"].startswith("white; sigma ")


def test_auto_takes_the_camera_model_for_a_tiny_image(choosing, samples, file_of):
    answer = choosing.post("/denoise", params={"model": "auto"}, content=file_of(samples(9, 30)))

    assert answer.headers["x-denoise-model"] == "photo"


def test_a_named_model_is_not_chosen_by_the_noise(choosing, noisy):
    answer = choosing.post("/denoise", params={"model": "scans"}, content=noisy)

    assert answer.headers["x-denoise-model"] == "scans"
    assert (
        answer.headers["x-denoise-noise"] == choosing.post("/denoise", content=noisy).headers["x-denoise-noise"]
    )


def test_openapi_has_bodies_headers_and_errors(client):
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
