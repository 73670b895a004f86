"""One service with small limits, which the tests of a module share."""

import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from service.settings import Settings
from tests.support.problems import MAX_BYTES, MAX_PIXELS


@pytest.fixture(scope="module")
def settings(folder):
    return Settings(
        weights=folder,
        model="photo",
        device="cpu",
        precision="float32",
        max_bytes=MAX_BYTES,
        max_pixels=MAX_PIXELS,
        # Each request is computed, whatever an earlier test sent. Kept results have tests of their own.
        cache_bytes=0,
    )


@pytest.fixture(scope="module")
def client(settings):
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def noisy(samples, file_of):
    return file_of(samples(21, 34))


@pytest.fixture(scope="module")
def choosing(tmp_path_factory, save_tiny):
    """A client of a service whose default model is `auto`, with all the weights that it chooses among."""
    folder = tmp_path_factory.mktemp("all")
    for seed, name in enumerate(("photo", "photo-gaussian", "photo-grey", "scans")):
        save_tiny(folder / f"{name}.safetensors", seed=seed)
    settings = Settings(weights=folder, device="cpu", precision="float32", max_bytes=10**6, max_pixels=100_000)
    with TestClient(create_app(settings)) as client:
        yield client
