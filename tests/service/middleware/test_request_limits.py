"""Request limits of a service that is stopping."""

import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from service.settings import Settings


@pytest.fixture(scope="module")
def app(tmp_path_factory, save_tiny):
    folder = tmp_path_factory.mktemp("weights")
    save_tiny(folder / "photo.safetensors")
    return create_app(Settings(weights=folder, model="photo", device="cpu", precision="float32"))


@pytest.fixture
def client(app):
    with TestClient(app) as client:
        yield client


def test_a_running_service_is_live_and_ready(client):
    assert client.get("/health/live").json() == {"live": True}
    assert client.get("/health/ready").json() == {"ready": True}


def test_a_stopping_service_refuses_new_requests(app, client, monkeypatch):
    monkeypatch.setattr(app.state.shutdown, "begun", True)

    ready, refused = client.get("/health/ready"), client.get("/models")

    assert client.get("/health/live").status_code == 200
    assert client.get("/health").json()["ready"] is False
    for answer in (ready, refused):
        assert answer.status_code == 503
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["retry-after"] == "5"
        assert answer.headers["connection"] == "close"
        assert "stopping" in answer.json()["detail"]
