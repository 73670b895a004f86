"""Request IDs, log lines and metrics of requests."""

import asyncio
import logging
import time
from itertools import repeat
from types import SimpleNamespace

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from engine.layers import kernels
from engine.models import checkpoint
from service.app import create_app
from service.runtime import stages
from service.settings import Settings
from tests.support.leaving import post_and_leave
from tests.support.windows import Net, window

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture(scope="module")
def settings(tmp_path_factory, save_tiny):
    folder = tmp_path_factory.mktemp("weights")
    save_tiny(folder / "photo.safetensors")
    known = {"model": "photo", "device": "cpu", "precision": "float32", "max_bytes": 20_000}
    # Each request is computed, whatever an earlier test sent.
    return Settings(weights=folder, cache_bytes=0, **known)


@pytest.fixture
def client(settings):
    """A service that has had no request yet."""
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def noisy(samples, file_of):
    return file_of(samples(21, 34))


@pytest.fixture
def lines(caplog):
    """lines(): the log lines of finished requests."""
    caplog.set_level(logging.INFO, "denoise")
    return lambda: [record.msg for record in caplog.records if record.msg["event"] == "request"]


def scraped(client):
    """{sample: {values of its labels, in the order of their names: value}}"""
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    found = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return found


def buggy(*args, **kwargs):
    raise RuntimeError("a bug")


def test_a_request_is_logged_in_one_line(client, settings, noisy, lines):
    sent = {"image": ("holiday.png", noisy)}
    answer = client.post("/denoise", files=sent, headers={"x-request-id": "abc"})

    (line,) = lines()
    assert line["request_id"] == "abc"
    assert (line["method"], line["route"], line["status"]) == ("POST", "/denoise", 200)
    assert (line["pixels"], line["model"]) == (21 * 34, "photo")
    assert checkpoint.load(settings.weights / "photo.safetensors").digest.startswith(line["digest"])
    assert line["bytes_in"] == int(answer.request.headers["content-length"])
    assert line["bytes_out"] == len(answer.content)
    assert 0 < line["seconds"] < 60
    assert "holiday" not in str(line)


def test_the_clients_request_id_is_in_every_answer(client, noisy, monkeypatch):
    headers = {"x-request-id": "abc"}
    monkeypatch.setattr(stages, "TiledDenoiser", buggy)

    answers = [
        client.get("/models", headers=headers),
        client.get("/nowhere", headers=headers),
        client.post("/denoise", content=b"no image", headers=headers),
        client.post("/denoise", content=noisy, headers=headers),
    ]

    assert [answer.status_code for answer in answers] == [200, 404, 400, 500]
    assert [answer.headers.get_list("x-request-id") for answer in answers] == [["abc"]] * 4
    assert "Quote request ID abc" in answers[-1].json()["detail"]


def test_a_request_without_an_id_gets_a_new_one(client, lines):
    first, second = client.get("/models"), client.get("/models")

    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    assert [line["request_id"] for line in lines()] == [
        answer.headers["x-request-id"] for answer in (first, second)
    ]


def test_the_trace_is_logged_for_its_request_only(client, lines):
    client.get("/models", headers={"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"})
    client.get("/models")

    traced, other = lines()
    assert (traced["trace_id"], traced["parent_id"]) == (TRACE, "00f067aa0ba902b7")
    assert traced["span_id"] != "00f067aa0ba902b7"
    assert other["trace_id"] != TRACE
    assert "parent_id" not in other


def test_health_checks_are_not_logged_at_info(client, lines):
    for path in ("/health", "/health/live", "/health/ready", "/metrics"):
        assert client.get(path).status_code == 200

    assert lines() == []


def test_unknown_paths_and_methods_share_one_label(client):
    for path in ("/models", "/models", "/a", "/b", "/page/page.js"):
        client.get(path)
    client.request("BREW", "/c")

    counted = scraped(client)["denoise_requests_total"]

    assert counted == {
        ("GET", "/models", "200"): 2,
        ("GET", "none", "404"): 2,
        ("other", "none", "404"): 1,
        ("GET", "files", "200"): 1,
    }


def test_images_are_counted_by_model_and_timed_by_stage(client, noisy):
    for _ in range(2):
        client.post("/denoise", content=noisy)

    found = scraped(client)

    assert found["denoise_images_total"] == {("photo",): 2}
    assert found["denoise_pixels_total"] == {("photo",): 2 * 21 * 34}
    counts = {stage: count for (_, stage), count in found["denoise_stage_seconds_count"].items()}
    assert counts == dict.fromkeys(("read", "wait", "decode", "denoise", "encode", "send"), 2)


def test_errors_are_counted_by_kind(client, noisy, monkeypatch):
    monkeypatch.setattr(stages, "TiledDenoiser", buggy)
    client.post("/denoise", content=b"no image")
    client.post("/denoise", content=bytes(20_001))
    client.post("/denoise", params={"strength": 2}, content=noisy)
    client.post("/denoise", content=noisy)
    client.get("/nowhere")

    found = scraped(client)

    kinds = ("NotAnImage", "BodyTooLarge", "RequestValidationError", "RuntimeError", "NotFound")
    assert found["denoise_errors_total"] == {(kind,): 1 for kind in kinds}
    assert found["denoise_requests_total"]["POST", "/denoise", "500"] == 1


def test_weights_queue_and_process_have_metrics(client, settings):
    found = scraped(client)

    digest = checkpoint.load(settings.weights / "photo.safetensors").digest
    assert [set(labels) for labels in found["denoise_weights_info"]] == [{"photo", digest}]
    assert found["denoise_kernels_info"] == {(kernels.name(),): 1}
    assert found["denoise_queue_images"] == {("working",): 0, ("waiting",): 0}
    assert found["denoise_ready"] == {(): 1}
    assert found["process_resident_memory_bytes"][()] > 0


def test_two_services_in_one_process_count_separately(client, settings):
    client.get("/models")
    with TestClient(create_app(settings)) as other:
        other.get("/models")
        other.get("/models")

        assert scraped(other)["denoise_requests_total"]["GET", "/models", "200"] == 2
    assert scraped(client)["denoise_requests_total"]["GET", "/models", "200"] == 1


def test_a_disconnected_client_is_logged_with_status_499(settings, noisy, lines, monkeypatch):
    endless = SimpleNamespace(windows=repeat(window(Net())))
    monkeypatch.setattr(stages, "TiledDenoiser", lambda *args, **how: endless)
    asyncio.run(post_and_leave(create_app(settings), noisy))

    (line,) = lines()
    assert (line["status"], line["error"]) == (499, "Cancelled")


def test_durations_ignore_changes_of_the_system_time(client, noisy, lines, monkeypatch):
    jumps = iter(range(10**9, 0, -(10**6)))
    monkeypatch.setattr(time, "time", lambda: float(next(jumps)))

    answer = client.post("/denoise", content=noisy)

    monkeypatch.undo()
    assert answer.status_code == 200
    assert 0 <= float(answer.headers["x-denoise-seconds"]) < 60
    assert 0 < lines()[0]["seconds"] < 60
    sums = scraped(client)["denoise_stage_seconds_sum"]
    assert all(0 <= seconds < 60 for seconds in sums.values())
