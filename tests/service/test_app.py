"""The application: how it starts, and what it answers on every route."""

import logging
import re

import pytest
import torch
from fastapi.testclient import TestClient

from service.app import create_app
from service.runtime import stages as denoising
from tests.support.problems import assert_problem


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nowhere", 404), ("GET", "/denoise", 405), ("GET", "/page/none.js", 404)],
)
def test_errors_of_the_framework_are_problems(method, path, status, client):
    assert_problem(client.request(method, path), status, f"{method} {path}")


def test_no_redirect_follows_the_host_header(client):
    response = client.get("/health/", headers={"host": "elsewhere.example"}, follow_redirects=False)

    assert_problem(response, 404, "/health/")
    assert "location" not in response.headers


def test_a_bug_is_answered_500_without_details(client, noisy, monkeypatch, caplog):
    def buggy(*args, **kwargs):
        raise RuntimeError("a secret of the house")

    monkeypatch.setattr(denoising, "TiledDenoiser", buggy)
    with caplog.at_level(logging.ERROR):
        response = client.post("/denoise", content=noisy)

    assert_problem(response, 500, "Quote request ID")
    assert "secret" not in response.text


def test_a_bug_is_raised_to_the_server(settings, noisy, monkeypatch):
    def buggy(*args, **kwargs):
        raise RuntimeError("a bug")

    monkeypatch.setattr(denoising, "TiledDenoiser", buggy)
    with TestClient(create_app(settings)) as strict, pytest.raises(RuntimeError, match="a bug"):
        strict.post("/denoise", content=noisy)


def test_auto_without_its_weights_stops_the_start(settings):
    with pytest.raises(ValueError, match=r"photo-gaussian\.safetensors: .* the folder has photo, scans"):
        create_app(settings.model_copy(update={"model": "auto"}))


def test_docs_load_no_files_from_other_sites(client):
    page = client.get("/docs").text
    files = re.findall(r'(?:src|href)="([^"]+)"', page)

    assert len(files) >= 3, "a script, a style sheet and an icon"
    for file in files:
        assert client.get(file).status_code == 200, file


def test_a_missing_default_model_stops_the_start(settings):
    missing = settings.model_copy(update={"model": "films"})

    with pytest.raises(ValueError, match=r"films\.safetensors: .* the folder has photo, scans"):
        create_app(missing)


def test_an_empty_folder_stops_the_start(settings, tmp_path):
    with pytest.raises(ValueError, match=r"photo\.safetensors: .* the folder has no weights at all"):
        create_app(settings.model_copy(update={"weights": tmp_path}))


def test_an_invalid_default_model_stops_the_start(settings, tmp_path):
    (tmp_path / "photo.safetensors").write_bytes(b"no tensors here")

    with pytest.raises(ValueError, match=rf"^{tmp_path}/photo\.safetensors: cannot load weights"):
        create_app(settings.model_copy(update={"weights": tmp_path}))


def test_the_threads_setting_is_passed_to_torch(settings):
    before = torch.get_num_threads()
    try:
        create_app(settings.model_copy(update={"threads": 3}))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
