"""Two replicas behind nginx, as service/deploy configures it: nothing is lost when one is killed or stopped."""

import asyncio
import http.client
import io
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

import numpy as np
import pytest
import tifffile

from service.settings import Settings
from tests.load.process import Service, memory_of
from tests.load.wire import Dropped, ask
from tests.support.nginx import MISSING, NGINX, proxied

pytestmark = pytest.mark.skipif(NGINX is None, reason=MISSING)

KILLS = 10
CLIENTS = 3
UPLOADS = 12
# What nginx may take for any number of large uploads, in bytes. service/README.md states it.
NGINX_MEMORY = 64 * 2**20
# What a replica takes beyond its settings, in bytes: "Memory and disk" in service/README.md.
PROGRAM_MEMORY = 1_100_000_000


@pytest.fixture(scope="module")
def noisy(samples, file_of):
    """Large enough that a replica is at work most of the time."""
    return file_of(samples(500, 500))


def replica(folder, weights, **settings):
    folder.mkdir()
    given = {"weights": weights, "model": "photo", "device": "cpu", "precision": "float32", "threads": 1}
    return Service(folder, **given, **settings)


@asynccontextmanager
async def replicas(tmp_path, weights, **settings):
    """Two replicas that listen."""
    async with AsyncExitStack() as stack:
        pair = [stack.enter_context(replica(tmp_path / name, weights, **settings)) for name in ("a", "b")]
        await asyncio.gather(*(each.start() for each in pair))
        yield pair


class Load:
    """Clients that send an image again and again. answers: how often each status came, and each fault."""

    def __init__(self, port, image):
        self.port, self.image = port, image
        self.answers, self.results, self.last = {}, set(), {}

    def count(self, what):
        self.answers[what] = self.answers.get(what, 0) + 1

    async def send_forever(self, client):
        while True:
            self.last[client] = asyncio.get_running_loop().time()
            try:
                answer = await ask(self.port, "POST /denoise", self.image)
            except Dropped as error:
                self.count(str(error))
                continue
            self.count(answer.status)
            if answer.status == 200:
                self.results.add(answer.body)

    async def until_all_are_new(self):
        """Returns when each request of now has been answered. nginx repeats a request only once."""
        now = asyncio.get_running_loop().time()
        while min(self.last.values()) < now:
            await asyncio.sleep(0.01)

    @asynccontextmanager
    async def running(self):
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.send_forever(client)) for client in range(CLIENTS)]
            yield self
            for task in tasks:
                task.cancel()


async def health(port):
    return json.loads((await ask(port, "GET /health")).body)


async def until_at_work(service):
    while not (await health(service.port))["denoising"]:
        await asyncio.sleep(0.005)


def repeated(nginx):
    """The requests that two replicas had."""
    return [line for line in nginx.log if ", " in line["upstream_status"]]


def test_ten_killed_replicas_lose_no_request(tmp_path, folder, noisy):
    async def run():
        async with replicas(tmp_path, folder) as pair:
            with proxied(tmp_path / "nginx", [each.port for each in pair]) as nginx:
                async with Load(nginx.port, noisy).running() as load:
                    for turn in range(KILLS):
                        killed = pair[turn % 2]
                        await until_at_work(killed)
                        await killed.kill()
                        await killed.start()
                        await load.until_all_are_new()
                return load, repeated(nginx)

    load, cut = asyncio.run(run())

    print(load.answers, len(cut), "cut and repeated")
    assert set(load.answers) == {200}
    assert len(load.results) == 1
    assert len(cut) >= KILLS
    assert {line["upstream_status"] for line in cut} == {"502, 200"}
    assert all(len(set(line["upstream"].split(", "))) == 2 for line in cut)


def test_replicas_that_are_told_to_stop_lose_no_request(tmp_path, folder, noisy):
    async def run():
        async with replicas(tmp_path, folder, drain_seconds=1) as pair:
            with proxied(tmp_path / "nginx", [each.port for each in pair]) as nginx:
                async with Load(nginx.port, noisy).running() as load:
                    for stopped in (*pair, *pair):
                        await until_at_work(stopped)
                        assert await stopped.stop() == 0
                        await stopped.start()
                return load, [each.logged("requests aborted") for each in pair]

    load, aborted = asyncio.run(run())

    print(load.answers)
    assert set(load.answers) == {200}
    assert len(load.results) == 1
    assert aborted == [[], []]


class Peak(threading.Thread):
    """Samples the memory of processes and their descendants. most: the most that was seen, by name."""

    def __init__(self, pids):
        super().__init__(daemon=True)
        self.pids, self.most, self.stopped = pids, dict.fromkeys(pids, 0), threading.Event()

    def run(self):
        while not self.stopped.wait(0.1):
            for name, pid in self.pids.items():
                self.most[name] = max(self.most[name], memory_of(pid))


@contextmanager
def watching_memory(pids):
    peak = Peak(pids)
    peak.start()
    try:
        yield peak.most
    finally:
        peak.stopped.set()
        peak.join()


@pytest.fixture(scope="module")
def large():
    """An image of nearly DENOISE_MAX_BYTES that is denoised quickly: it has few pixels of many bytes."""
    width, height = 1600, Settings().max_bytes // (24 * 1600) - 1
    rows = np.linspace(0, 1, height)[:, None, None]
    noise = np.random.default_rng(0).normal(scale=0.05, size=(height, width, 3))
    file = io.BytesIO()
    tifffile.imwrite(file, (rows + noise).astype(np.float64), photometric="rgb")
    return file.getvalue()


def upload(port, image):
    """(status, Retry-After)"""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request("POST", "/denoise?format=tiff", image)
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.headers["retry-after"]
    finally:
        connection.close()


def test_twelve_uploads_of_64_mb_are_done_or_refused(tmp_path, folder, large):
    async def run():
        async with replicas(tmp_path, folder) as pair:
            with proxied(tmp_path / "nginx", [each.port for each in pair]) as nginx:
                pids = {"nginx": nginx.process.pid, "a": pair[0].pid, "b": pair[1].pid}
                with watching_memory(pids) as most, ThreadPoolExecutor(UPLOADS) as pool:
                    sent = [pool.submit(upload, nginx.port, large) for _ in range(UPLOADS)]
                    return most, [await asyncio.wrap_future(each) for each in sent]

    begun = time.monotonic()
    most, answers = asyncio.run(run())

    print({name: f"{size / 2**20:.0f} MB" for name, size in most.items()}, answers, time.monotonic() - begun)
    assert {status for status, _ in answers} <= {200, 503}
    assert (200, None) in answers
    assert all(wait for status, wait in answers if status == 503)
    assert 0 < most.pop("nginx") < NGINX_MEMORY
    assert max(most.values()) < bound(Settings())


def bound(settings):
    """The memory of a replica: "Memory and disk" in service/README.md."""
    budgets = (
        settings.memory_budget, settings.image_memory, settings.body_memory, settings.view_memory,
        settings.cache_bytes, 2 * settings.max_bytes,
    )  # fmt: skip
    return PROGRAM_MEMORY + sum(budgets)
