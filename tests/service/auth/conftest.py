"""Fixtures of the authentication tests."""

import pytest
from fastapi import APIRouter, Depends, Request
from fastapi.testclient import TestClient

from service.app import create_app
from service.auth.dependencies import owner, require_admin
from service.settings import Settings


@pytest.fixture(scope="module")
def folder(tmp_path_factory, save_tiny):
    folder = tmp_path_factory.mktemp("weights")
    save_tiny(folder / "photo.safetensors", seed=0)
    return folder


@pytest.fixture
def file(tmp_path):
    return tmp_path / "keys"


@pytest.fixture
def serve(folder):
    """serve(*routers, **settings): a client, which sends no key, of a service with these."""
    started = []

    def start(*routers, **given):
        # Each request is computed: a kept result would cost no pixels.
        known = {"weights": folder, "model": "photo", "device": "cpu", "precision": "float32", "cache_bytes": 0}
        app = create_app(Settings(**known, **given))
        for router in routers:
            app.include_router(router)
        started.append(TestClient(app, raise_server_exceptions=False))
        return started[-1].__enter__()

    yield start
    for client in started:
        client.__exit__(None, None, None)


@pytest.fixture
def asked():
    """Two routes that return the owner of the key: one for everyone, one for admins."""
    router = APIRouter()

    @router.get("/asked")
    async def get_asked(request: Request) -> str:
        return owner(request)

    @router.post("/change", dependencies=[Depends(require_admin)])
    async def post_change(request: Request) -> str:
        return owner(request)

    return router


@pytest.fixture
def noisy(samples, file_of):
    return file_of(samples(20, 30))
