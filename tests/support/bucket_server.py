"""An S3 store on this machine, for tests: moto's server in a process of its own."""

import os
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from urllib.parse import quote

import pytest

# Prints its port, which the system chooses. It ends with the process that started it.
SERVER = """
import logging, sys
from moto.server import ThreadedMotoServer
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


class Buckets:
    """Makes buckets and looks into them."""

    def __init__(self, url):
        self.url = url

    def create(self, name):
        self._send(f"/{name}", "PUT")
        return name

    def put(self, bucket, key, data):
        _store(bucket).put(key, data)

    def put_odd(self, bucket, key, data):
        """An object whose name the library refuses. It must be new."""
        self._send(f"/{bucket}/{quote(key)}", "PUT", data)

    def get(self, bucket, key):
        return bytes(_store(bucket).get(key).bytes())

    def remove(self, bucket, key):
        _store(bucket).delete(key)

    def keys(self, bucket):
        """The keys, without those in hidden folders."""
        keys = [meta["path"] for metas in _store(bucket).list() for meta in metas]
        return sorted(key for key in keys if "/." not in f"/{key}")

    def _send(self, path, method, data=None):
        # Without a type, urllib sends that of a form, which the server would parse.
        headers = {"Content-Type": "application/octet-stream"}
        request = urllib.request.Request(f"{self.url}{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read()


def _store(bucket):
    from obstore.store import S3Store

    return S3Store(bucket, client_options={"allow_http": True})


@contextmanager
def bucket_server():
    """Buckets of a store that ends with the block. This process, and those that it starts, can use them."""
    pytest.importorskip("obstore", reason="needs the extra buckets")
    pytest.importorskip("moto", reason="needs moto[server], which the extra test brings")
    command = [sys.executable, "-c", SERVER]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ)
    try:
        url = f"http://127.0.0.1:{int(server.stdout.readline())}"
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", url)
            patch.setenv("AWS_ACCESS_KEY_ID", "test")
            patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
            patch.setenv("AWS_REGION", "us-east-1")
            yield Buckets(url)
    finally:
        server.stdin.close()
        server.stdout.close()
        server.wait(20)
