"""A small PNG file, and a fork server whose workers hang or crash on some files: see support/sick_codecs.py."""

import pytest

from engine.imageio.sandbox.fork_server import ForkServer
from tests.support.sick_codecs import SETUP


@pytest.fixture(scope="package")
def png(samples, file_of):
    return file_of(samples(20, 30))


@pytest.fixture(scope="package")
def shared_sick_server():
    server = ForkServer(SETUP)
    yield server
    server.close()


@pytest.fixture
def sick_fork_server(shared_sick_server, monkeypatch):
    """Stays open when a decoder that has it is closed."""
    monkeypatch.setattr(shared_sick_server, "close", lambda: None)
    return shared_sick_server
