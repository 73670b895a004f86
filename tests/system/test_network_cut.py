"""A replica that is cut off without a word: how long a client of the proxy waits. Uses network namespaces."""

import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import yaml

from tests.support.nginx import DEPLOY, MISSING, NGINX, configure

pytestmark = pytest.mark.skipif(NGINX is None, reason=MISSING)

IP = shutil.which("ip", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
ROOT = Path(__file__).parents[2]
SOON = 20  # seconds; only a test that fails waits so long
PORT = 8080
# A replica: says when a request has come, and answers after some seconds.
REPLICA = """
import sys, time
from tests.support.stubs import Stub

def behave(handler):
    print("request", flush=True)
    time.sleep(float(sys.argv[1]))
    handler.answer(200, b"done")

server = Stub(behave, ("0.0.0.0", 8000))
print("listening", flush=True)
server.serve_forever()
"""
# A client in the proxy's namespace: prints the status and the seconds.
CLIENT = """
import http.client, json, time
begun = time.monotonic()
connection = http.client.HTTPConnection("127.0.0.1", 8080, timeout=120)
connection.request("POST", "/denoise", b"image")
print(json.dumps([connection.getresponse().status, time.monotonic() - begun]))
"""


def run(*words):
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


@contextmanager
def namespace(name):
    if IP is None or os.geteuid() != 0:
        pytest.skip("network namespaces need root and the command ip")
    try:
        run(IP, "netns", "add", name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
    try:
        run(IP, "-n", name, "link", "set", "lo", "up")
        yield name
    finally:
        run(IP, "netns", "del", name)


@contextmanager
def running(name, *command):
    """A process in a namespace."""
    words = [IP, "netns", "exec", name, *command]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            yield process
        finally:
            process.kill()


def connect(proxy, replica, number):
    """A cable between the proxy and a replica. Returns the replica's address."""
    ends = f"p{number}", f"r{number}"
    run(IP, "-n", proxy, "link", "add", ends[0], "type", "veth", "peer", "name", ends[1], "netns", replica)
    for end, (name, link) in enumerate(zip((proxy, replica), ends, strict=True), 1):
        run(IP, "-n", name, "addr", "add", f"10.89.{number}.{end}/30", "dev", link)
        run(IP, "-n", name, "link", "set", link, "up")
    return f"10.89.{number}.2"


def cut(replica, number):
    """Nothing that the replica sends arrives any more."""
    run(IP, "-n", replica, "route", "add", "blackhole", f"10.89.{number}.1/32")


class Setup:
    def __init__(self, proxy, folder):
        self.proxy, self.folder = proxy, folder

    @contextmanager
    def asking(self):
        """A client that waits for its answer. Its process."""
        with running(self.proxy, sys.executable, "-c", CLIENT) as client:
            yield client

    def log(self):
        return [json.loads(line) for line in (self.folder / "denoise.log").read_text().splitlines()]


def keepalive():
    """The kernel's settings that compose gives the proxy's container."""
    compose = yaml.safe_load((DEPLOY / "compose.replicas.yaml").read_text("utf-8"))
    return compose["services"]["nginx"]["sysctls"]


@pytest.fixture
def setup(tmp_path):
    """nginx and two replicas. The first one, which gets the first request, would work for minutes."""
    with ExitStack() as stack:
        names = [f"denoise-{os.getpid()}-{role}" for role in ("proxy", "first", "second")]
        proxy, first, second = (stack.enter_context(namespace(name)) for name in names)
        addresses = [connect(proxy, replica, number) for number, replica in ((1, first), (2, second))]
        for name, value in keepalive().items():
            run(IP, "netns", "exec", proxy, "sysctl", "-q", f"{name}={value}")
        folder = tmp_path / "nginx"
        file = configure(folder, [address + ":8000" for address in addresses], PORT)
        replicas = [
            stack.enter_context(running(name, sys.executable, "-c", REPLICA, seconds))
            for name, seconds in ((first, "300"), (second, "0"))
        ]
        for each in replicas:
            assert each.stdout.readline() == "listening\n"
        stack.enter_context(running(proxy, NGINX, "-p", folder, "-e", folder / "error.log", "-c", file))
        end = time.monotonic() + SOON
        while not (folder / "nginx.pid").exists() and time.monotonic() < end:
            time.sleep(0.05)
        setup = Setup(proxy, folder)
        setup.first, setup.working = first, replicas[0]
        yield setup


def test_a_replica_that_is_cut_off_is_given_up_within_the_stated_time(setup):
    given = keepalive()
    # service/README.md states this bound.
    bound = given["net.ipv4.tcp_keepalive_time"] + (
        given["net.ipv4.tcp_keepalive_intvl"] * given["net.ipv4.tcp_keepalive_probes"]
    )
    assert bound == 25

    # While a replica is at work.
    with setup.asking() as client:
        assert setup.working.stdout.readline() == "request\n"
        cut(setup.first, 1)
        status, seconds = json.loads(client.communicate(timeout=120)[0])
    assert status == 200
    assert bound - 2 < seconds < bound + 5
    assert setup.log()[-1]["upstream_status"] == "502, 200"

    # Before it gets a request.
    for _ in range(2):
        with setup.asking() as client:
            status, seconds = json.loads(client.communicate(timeout=120)[0])
        assert status == 200
        assert seconds < 2 + 3
