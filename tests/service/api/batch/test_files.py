"""POST /denoise/batch: temporary files, clients that disconnect, and a zip that breaks off."""

import asyncio
import io
import zipfile
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from engine.imageio.read import read as read_file
from engine.imageio.sandbox.decoder import Decoder
from service.api import batch
from service.app import create_app
from service.archives.zip_writer import ZipMember
from tests.service.api.batch.batch_client import as_form, as_zip, unzipped, zipped

SOON = 20  # seconds; only a failing test waits so long


async def stays():
    await asyncio.Event().wait()


def run(main):
    return asyncio.run(asyncio.wait_for(main, SOON))


async def post(app, body, send, receive=None):
    """Send the batch to the application itself. send: the server's side of ASGI."""
    messages = [{"type": "http.request", "body": body}]

    async def then_stays():
        if messages:
            return messages.pop()
        return await (receive or stays)()

    async with app.router.lifespan_context(app) as state:
        scope = {"type": "http", "method": "POST", "path": "/denoise/batch", "query_string": b"", "headers": []}
        await app({**scope, "state": dict(state)}, then_stays, send)


@pytest.fixture
def temporary_files(monkeypatch):
    """The temporary files that were created."""
    made = []
    temporary = batch.TemporaryFile

    def remembered():
        made.append(temporary())
        return made[-1]

    monkeypatch.setattr(batch, "TemporaryFile", remembered)
    return made


def test_the_upload_is_a_nameless_file_that_is_closed(client, shots, temporary_files):
    response = client.post("/denoise/batch", **as_zip(shots))

    assert response.status_code == 200
    [file] = temporary_files
    assert file.closed
    assert isinstance(file.name, int), "a file with a name is left behind by a process that is killed"


def test_a_client_that_leaves_midway_leaves_no_file(settings, shots, temporary_files):
    async def main():
        disconnected, sizes = asyncio.Event(), []

        async def send(message):
            sizes.append(len(message.get("body", b"")))
            if len(sizes) == 2:
                disconnected.set()
                await stays()

        async def receive():
            await disconnected.wait()
            return {"type": "http.disconnect"}

        await post(create_app(settings), zipped(shots), send, receive)
        return sizes

    assert len(run(main())) == 2
    assert [file.closed for file in temporary_files] == [True]


def test_a_broken_connection_leaves_no_file(settings, shots, temporary_files):
    async def send(message):
        if message["type"] == "http.response.body":
            raise OSError("the connection is gone")

    with pytest.raises(OSError, match="the connection is gone"):
        run(post(create_app(settings), zipped(shots), send))

    assert [file.closed for file in temporary_files] == [True]


def test_a_zip_that_breaks_off_is_not_valid(settings, shots, monkeypatch):
    sent = []

    async def send(message):
        sent.append(message)

    async def breaks(*args):
        yield ZipMember("a.png", b"image")
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(batch, "denoise_batch", breaks)
    with pytest.raises(ZeroDivisionError):
        run(post(create_app(settings), zipped(shots), send))

    assert all(message["more_body"] for message in sent[1:])
    with pytest.raises(zipfile.BadZipFile):
        zipfile.ZipFile(io.BytesIO(b"".join(message["body"] for message in sent[1:])))


def files_open():
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="only Linux tells which files are open")
def test_a_batch_of_many_files_opens_few(settings, file_of, monkeypatch):
    data = file_of(Image.new("L", (2, 2)))
    many = settings.model_copy(update={"max_batch_files": 200})
    with TestClient(create_app(many)) as client:
        before = files_open()
        seen = []

        def read(decoder, file, *args):
            seen.append(files_open())
            return read_file(file.read(), *args[:-1])

        monkeypatch.setattr(Decoder, "read", read)
        answer = client.post("/denoise/batch", **as_form([("a.png", data)] * 200))

    assert len(unzipped(answer)) == 200
    assert max(seen) < before + 20
