"""Memory shares: an image's memory counts until its response has been sent, and no ending leaks it."""

import asyncio
import io
import zipfile
from itertools import repeat
from types import SimpleNamespace

import pytest

from engine.imageio.sandbox.decoder import Crashed, Decoder
from service.app import create_app
from service.runtime import stages
from service.runtime.ticket import MemoryShare
from service.settings import Settings
from tests.support.windows import SOON, Net, window


@pytest.fixture
def settings(folder):
    return Settings(weights=folder, model="photo", device="cpu", precision="float32")


@pytest.fixture(scope="module")
def noisy(samples, file_of):
    return file_of(samples(21, 34))


def test_a_share_gives_its_bytes_back_once():
    freed = []

    with MemoryShare() as share:
        share.hold(5, freed.append)
        assert (share.size, freed) == (5, [])
        share.release()
        share.release()

    assert (share.size, freed) == (0, [5])


def test_a_share_that_holds_nothing_releases_nothing():
    with MemoryShare() as share:
        share.release()

    assert share.size == 0


def test_a_share_that_holds_anew_gives_back_what_it_held():
    freed = []

    with MemoryShare() as share:
        share.hold(5, freed.append)
        share.hold(7, freed.append)

    assert freed == [5, 7]


class Client:
    """Sends one request to an application. leaves: closes its connection as soon as the body is sent."""

    def __init__(self, app, path, body, leaves=False):
        self.app, self.path, self.leaves = app, path, leaves
        self.body = [{"type": "http.request", "body": body}]
        self.sent, self.begun, self.go_on, self.left = [], asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.go_on.set()

    async def receive(self):
        if self.body:
            return self.body.pop()
        if not self.leaves:
            await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        self.sent.append(message)
        if message["type"] == "http.response.body":
            self.begun.set()
            await self.go_on.wait()

    async def ask(self, state):
        scope = {"type": "http", "method": "POST", "path": self.path, "query_string": b"", "headers": []}
        await self.app({**scope, "state": dict(state)}, self.receive, self.send)


def counted(state):
    """What counts now, and what is in work or waits."""
    scheduler = state["scheduler"]
    return scheduler.memory, scheduler.body_bytes, scheduler.in_work, scheduler.waiting


NOTHING = (0, 0, 0, 0)


def served(settings, main):
    """Runs `main(app, state)` in a service."""

    async def run():
        app = create_app(settings)
        async with app.router.lifespan_context(app) as state:
            await asyncio.wait_for(main(app, state), SOON)
            return counted(state)

    return asyncio.run(run())


def test_an_answer_counts_while_it_is_sent_and_no_longer(settings, noisy):
    async def main(app, state):
        client = Client(app, "/denoise", noisy)
        client.go_on.clear()
        asking = asyncio.create_task(client.ask(state))
        await client.begun.wait()
        assert counted(state) == (len(client.sent[-1]["body"]), 0, 0, 0)
        client.go_on.set()
        await asking
        assert client.sent[0]["status"] == 200

    assert served(settings, main) == NOTHING


@pytest.mark.parametrize("path", ["/denoise", "/denoise/batch"])
def test_a_connection_that_breaks_leaks_nothing(path, settings, noisy):
    async def main(app, state):
        client = Client(app, path, zipped(noisy, 3) if path.endswith("batch") else noisy)

        async def breaks(message):
            if message["type"] == "http.response.body":
                raise OSError("the connection is gone")

        client.send = breaks
        with pytest.raises(OSError, match="the connection is gone"):
            await client.ask(state)

    assert served(settings, main) == NOTHING


@pytest.mark.parametrize("path", ["/denoise", "/denoise/batch"])
def test_a_request_that_is_cancelled_leaks_nothing(path, settings, noisy):
    async def main(app, state):
        client = Client(app, path, zipped(noisy, 3) if path.endswith("batch") else noisy)
        client.go_on.clear()
        asking = asyncio.create_task(client.ask(state))
        await client.begun.wait()
        assert counted(state)[0] > 0
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking

    assert served(settings, main) == NOTHING


def zipped(data, count):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number in range(count):
            archive.writestr(f"{number}.png", data)
    return file.getvalue()


@pytest.mark.parametrize("path", ["/denoise", "/denoise/batch"])
def test_a_client_that_leaves_leaks_nothing(path, settings, noisy, monkeypatch):
    endless = SimpleNamespace(windows=repeat(window(Net())))
    monkeypatch.setattr(stages, "TiledDenoiser", lambda *args, **how: endless)

    async def main(app, state):
        await Client(app, path, zipped(noisy, 3) if path.endswith("batch") else noisy, leaves=True).ask(state)

    assert served(settings, main) == NOTHING


def test_a_deadline_that_passes_leaks_nothing(settings, noisy, monkeypatch):
    endless = SimpleNamespace(windows=repeat(window(Net())))
    monkeypatch.setattr(stages, "TiledDenoiser", lambda *args, **how: endless)

    async def main(app, state):
        client = Client(app, "/denoise", noisy)
        await client.ask(state)
        assert client.sent[0]["status"] == 504

    assert served(settings.model_copy(update={"deadline": 0.05}), main) == NOTHING


@pytest.mark.parametrize("path", ["/denoise", "/estimate"])
def test_a_codec_that_crashes_leaks_nothing(path, settings, noisy, monkeypatch):
    def crash(*args):
        raise Crashed("The PNG file is broken: its decoder process ended with SIGSEGV.")

    monkeypatch.setattr(Decoder, "read", crash)

    async def main(app, state):
        client = Client(app, path, noisy)
        await client.ask(state)
        assert client.sent[0]["status"] == 400

    assert served(settings, main) == NOTHING


def test_an_image_that_cannot_be_encoded_leaks_nothing(settings, noisy, monkeypatch):
    def broken(*args):
        raise MemoryError

    monkeypatch.setattr(stages, "encode", broken)

    async def main(app, state):
        client = Client(app, "/denoise", noisy)
        await client.ask(state)
        assert client.sent[0]["status"] == 503

    assert served(settings, main) == NOTHING
