"""The application: how it starts, and what it answers on every route."""

import logging
import re

import pytest
import torch
from fastapi.testclient import TestClient

from service.app import create_app
from service.runtime import pipeline as denoising
from tests.support.problems import assert_problem


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

    assert_problem(response, 500, "Quote request ID")
    assert "secret" not in response.text


def test_a_bug_reaches_the_server_which_logs_its_traceback(settings, noisy, monkeypatch):
    def buggy(*args, **kwargs):
        raise RuntimeError("a bug")

    monkeypatch.setattr(denoising, "Denoising", buggy)
    with TestClient(create_app(settings)) as strict, pytest.raises(RuntimeError, match="a bug"):
        strict.post("/denoise", content=noisy)


def test_a_choice_without_the_weights_for_it_stops_the_start(settings):
    with pytest.raises(ValueError, match=r"photo-gaussian\.safetensors: .* the folder has photo, scans"):
        create_app(settings.model_copy(update={"model": "auto"}))


def test_the_description_can_be_read_without_a_network(client):
    page = client.get("/docs").text
    files = re.findall(r'(?:src|href)="([^"]+)"', page)

    assert len(files) >= 3, "a script, a style sheet and an icon"
    for file in files:
        assert client.get(file).status_code == 200, file


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
