"""POST /denoise: refusals and their messages."""

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image as PILImage

from service.app import create_app
from tests.support.problems import MAX_BYTES, assert_problem
from tests.support.raw_files import nef, scene


def test_an_unknown_model_is_refused_with_the_known_ones(client, noisy):
    response = client.post("/denoise", params={"model": "films"}, content=noisy)

    assert_problem(response, 404, "'films'", "photo, scans")


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, ["empty: 0 bytes"]),
        (b"not an image", 400, ["not an image", "Supported formats: JPEG, PNG"]),
        (b"%PDF-1.7 and so on", 415, ["PDF", "Supported formats: JPEG, PNG"]),
    ],
)
@pytest.mark.parametrize("way", [lambda data: {"files": {"image": data}}, lambda data: {"content": data}])
def test_a_file_that_is_not_an_image_is_refused(way, body, status, words, client):
    assert_problem(client.post("/denoise", **way(body)), status, *words)


def test_an_image_cut_short_is_refused(client, noisy):
    assert_problem(client.post("/denoise", content=noisy[:-300]), 400, "PNG file is broken or cut short")


def test_an_unsupported_kind_of_pixels_is_refused(client, file_of):
    response = client.post("/denoise", content=file_of(PILImage.new("CMYK", (4, 4)), "TIFF"))

    assert_problem(response, 415, "CMYK", "Supported pixels: RGB")


def test_the_preview_in_a_raw_file_is_not_taken(client):
    data = nef(scene(40, 48))

    response = client.post("/denoise", params={"format": "same"}, content=data)

    assert_problem(response, 422, "Camera raw can be read but not written")
    assert_problem(client.post("/denoise", content=data[: len(data) // 2]), 400, "broken or cut short")


def test_too_many_pixels_are_refused_with_both_numbers(client, file_of):
    response = client.post("/denoise", content=file_of(np.zeros((50, 41), np.uint8)))

    assert_problem(response, 413, "41 x 50 = 2050 pixels", "the limit is 2000")


@pytest.mark.parametrize("way", [lambda data: {"files": {"image": data}}, lambda data: {"content": data}])
def test_too_many_bytes_are_refused_with_both_numbers(way, client):
    response = client.post("/denoise", **way(b"x" * (MAX_BYTES + 1)))

    announced = int(response.request.headers["content-length"])
    assert_problem(response, 413, f"The body has {announced} bytes", f"at most {MAX_BYTES}")


def test_a_form_without_the_field_is_refused_with_its_fields(client, noisy):
    response = client.post("/denoise", files={"picture": noisy, "photo": noisy}, data={"format": "png"})

    assert_problem(response, 422, "'image'", "is missing; the form has: picture, photo, format")


def test_a_form_with_the_field_as_text_is_refused(client):
    response = client.post("/denoise", data={"image": "noisy.png"}, files={"other": b""})

    assert_problem(response, 422, "'image'", "is text, not a file")


def test_an_empty_form_is_refused(client):
    headers = {"content-type": "multipart/form-data; boundary=cut"}

    response = client.post("/denoise", content=b"--cut--\r\n", headers=headers)

    assert_problem(response, 422, "the form has: nothing")


@pytest.mark.parametrize("boundary", ["", "; boundary=cut"])
def test_a_malformed_form_is_refused(boundary, client):
    headers = {"content-type": f"multipart/form-data{boundary}"}

    assert_problem(client.post("/denoise", content=b"no form", headers=headers), 400, "The form cannot be parsed")


def test_an_unsupported_accept_header_is_refused(client, noisy):
    response = client.post("/denoise", headers={"accept": "image/heic"}, content=noisy)

    assert_problem(response, 406, "'image/heic'", "image/png")


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"format": "bmp"}, ["BMP can be read but not written", "Output formats: jpeg, png"]),
        ({"format": "xyz"}, ["no format 'xyz'", "Output formats: jpeg, png"]),
        ({"format": ""}, ["no format ''", "Output formats: jpeg, png"]),
        ({"page": 2}, ["There is no page 2: the PNG file has 1 page"]),
        ({"page": 0}, ["page", "greater than or equal to 1"]),
        ({"strength": 1.6}, ["strength", "less than or equal to 1.5"]),
        ({"grain": 1.5}, ["grain", "less than or equal to 1"]),
        ({"luma": "nan"}, ["luma"]),
        ({"quality": 101}, ["quality", "less than or equal to 100"]),
        ({"output": "both"}, ["output", "'clean', 'residual' or 'compare'"]),
        ({"colour": "adobe"}, ["colour", "'srgb' or 'prophoto'"]),
        ({"colour": "prophoto"}, ["for camera raw files only, and this is a PNG file"]),
    ],
)
def test_invalid_parameters_are_refused_with_valid_values(params, words, client, noisy):
    assert_problem(client.post("/denoise", params=params, content=noisy), 422, *words)


def test_transparency_is_not_dropped_for_a_jpeg(client, samples, file_of):
    response = client.post("/denoise", params={"format": "jpeg"}, content=file_of(samples(6, 6, 4)))

    assert_problem(response, 422, "transparency, which JPEG cannot hold", "Choose PNG, WebP, TIFF or AVIF")


def test_too_many_pages_are_refused(settings, file_of):
    frames = [PILImage.new("RGB", (2, 2), colour) for colour in ("red", "blue", "white")]
    sent = file_of(frames[0], "GIF", save_all=True, append_images=frames[1:])
    with TestClient(create_app(settings.model_copy(update={"max_pages": 2}))) as client:
        assert_problem(client.post("/denoise", content=sent), 413, "more than 2 pages")
