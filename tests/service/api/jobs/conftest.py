"""A service that runs jobs: in this process, in a thread, and in a process of its own."""

import asyncio
import threading
from contextlib import contextmanager

import pytest
import uvicorn
from fastapi.testclient import TestClient

from service.app import create_app
from service.runtime.pipeline import Pipeline
from service.runtime.scheduler import Cancelled
from service.settings import Settings
from tests.service.api.jobs.job_client import SOON, wait_until
from tests.support.served import serving


@pytest.fixture
def settings(request, folder, tmp_path):
    """Jobs in a spool folder; or shared, if the test's parameter says so: see IN_BOTH_STORES."""
    stored = {"spool": tmp_path / "spool"}
    if getattr(request, "param", "spool") == "shared":
        url = request.getfixturevalue("postgres").new_database()
        stored = {"database": url, "blobs": (tmp_path / "blobs").as_uri()}
    return Settings(
        weights=folder,
        model="photo",
        device="cpu",
        precision="float32",
        max_bytes=20_000,
        max_batch_bytes=100_000,
        max_pixels=2_000,
        spool_bytes=2**20,
        **stored,
    )


@pytest.fixture
def client(settings):
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def held(monkeypatch):
    """Images wait before they are denoised, until `go` is set or their job is cancelled."""
    return Held(monkeypatch)


class Held:
    def __init__(self, monkeypatch):
        self.begun, self.go, self.disconnected = threading.Semaphore(0), threading.Event(), threading.Event()
        real = Pipeline.denoise

        async def denoise(pipeline, source, params, memory, disconnected, charge, on_progress=lambda share: None):
            on_progress(0.25)
            self.begun.release()
            leaving = asyncio.ensure_future(disconnected())
            while not self.go.is_set() and not leaving.done():
                await asyncio.sleep(0.005)
            if leaving.done():
                self.disconnected.set()
                raise Cancelled
            leaving.cancel()
            return await real(pipeline, source, params, memory, disconnected, charge, on_progress)

        monkeypatch.setattr(Pipeline, "denoise", denoise)

    def wait(self):
        assert self.begun.acquire(timeout=SOON), "no job was started"


@pytest.fixture
def server(settings):
    """The URL of a server in a thread of this process."""
    with running(settings) as server:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"


@contextmanager
def running(settings):
    config = uvicorn.Config(create_app(settings), port=0, ws="none", log_config=None, timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started or not thread.is_alive())
    yield server
    server.should_exit = True
    thread.join()


@pytest.fixture
def serve(folder, settings):
    """serve(held=False): the service in a process of its own, always with the same jobs."""
    names = ("spool", "database", "blobs")
    env = {f"DENOISE_{name.upper()}": str(value) for name in names if (value := getattr(settings, name))}
    return lambda held=False: serving(folder, held=held, env=env)
