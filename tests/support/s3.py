"""A server with S3's interface on this machine: moto's, in a process of its own."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

import pytest

SOON = 60  # seconds
SERVER = """
import sys
from moto.server import main
main(["-H", "127.0.0.1", "-p", sys.argv[1]])
"""


class S3:
    """A server. env: what clients need to reach it."""

    def __init__(self, port):
        self.port = port
        self.endpoint = f"http://127.0.0.1:{port}"
        self.env = {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
        }
        self._process = None

    def start(self):
        """Starts with no buckets."""
        command = [sys.executable, "-c", SERVER, str(self.port)]
        nothing = subprocess.DEVNULL
        self._process = subprocess.Popen(command, stdout=nothing, stderr=nothing)
        end = time.monotonic() + SOON
        while time.monotonic() < end:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise AssertionError("moto's server did not start")

    def stop(self):
        self._process.kill()
        self._process.wait()

    def freeze(self):
        """The server stops without a word, like a machine that hangs."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self):
        self._process.send_signal(signal.SIGCONT)

    def new_bucket(self):
        """The URL of a new, empty bucket."""
        name = f"test-{secrets.token_hex(6)}"
        self.make_bucket(name)
        return f"s3://{name}/denoise"

    def make_bucket(self, name):
        request = urllib.request.Request(f"{self.endpoint}/{name}", method="PUT")
        with urllib.request.urlopen(request, timeout=SOON) as answer:
            assert answer.status == 200


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def running_s3():
    """A server, until the block ends. Skips the test where moto is missing."""
    pytest.importorskip("moto.server", reason="moto[server] is not installed")
    server = S3(free_port())
    server.start()
    before = {name: os.environ.get(name) for name in server.env}
    os.environ.update(server.env)
    try:
        yield server
    finally:
        server.thaw()
        server.stop()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
