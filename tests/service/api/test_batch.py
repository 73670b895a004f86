"""POST /denoise/batch: results, names, order, and clients that disconnect."""

import asyncio
import io
import json
import logging
import threading
import zipfile
from contextlib import aclosing
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from engine.imageio.formats import FORMATS, BrokenImage
from engine.imageio.image import EncodedImage
from engine.imageio.read import read as read_file
from engine.imageio.sandbox.decoder import Decoder
from engine.imageio.sandbox.shared_file import in_memory
from service.api import batch
from service.app import create_app
from service.archives.batch import FILES_AT_ONCE, denoise_batch
from service.archives.zip_reader import Entry
from service.archives.zip_writer import ZipMember
from service.params import DenoiseParams
from service.runtime.scheduler import Cancelled
from service.runtime.upload import ImageSource
from service.settings import Settings
from tests.support.problems import MAX_BYTES, MAX_PIXELS, assert_problem

SOON = 20  # seconds; only a failing test waits so long


@pytest.fixture(scope="module")
def settings(folder):
    return Settings(
        weights=folder,
        model="photo",
        device="cpu",
        precision="float32",
        max_bytes=MAX_BYTES,
        max_pixels=MAX_PIXELS,
        max_batch_bytes=10 * MAX_BYTES,
        max_batch_files=9,
    )


@pytest.fixture(scope="module")
def client(settings):
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def shots(samples, file_of):
    """Three images with their names."""
    return [
        ("day/b.png", file_of(samples(21, 34, seed=1))),
        ("day/a.jpg", file_of(samples(9, 30, seed=2), "JPEG", quality=95)),
        ("c.webp", file_of(samples(8, 8, seed=3), "WEBP", lossless=True)),
    ]


def zipped(files):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in files:
            archive.writestr(name, data)
    return file.getvalue()


def as_form(files):
    return {"files": [("image", file) for file in files]}


def as_zip(files):
    return {"content": zipped(files), "headers": {"content-type": "application/zip"}}


def as_zip_in_form(files):
    return {"files": {"image": ("shots.zip", zipped(files))}}


WAYS = [as_form, as_zip, as_zip_in_form]


def unzipped(response):
    """Name and bytes of each file of the answer, in its order."""
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        assert archive.testzip() is None
        return [(info.filename, archive.read(info)) for info in archive.infolist()]


@pytest.mark.parametrize("way", WAYS)
def test_a_batch_gives_each_image_in_order_and_by_name(way, client, shots):
    alone = [client.post("/denoise", content=data).content for _, data in shots]

    together = unzipped(client.post("/denoise/batch", **way(shots)))

    assert together == list(zip(["day/b.png", "day/a.png", "c.png"], alone, strict=True))


def test_parameters_apply_to_every_image(client, shots):
    params = {"model": "scans", "format": "jpeg", "quality": 70, "strength": 0.5, "output": "compare"}
    alone = [client.post("/denoise", params=params, content=data).content for _, data in shots]

    together = unzipped(client.post("/denoise/batch", params=params, **as_zip(shots)))

    assert together == list(zip(["day/b.jpg", "day/a.jpg", "c.jpg"], alone, strict=True))


def test_the_format_that_came_keeps_its_suffix(client, samples, file_of):
    jpeg, webp = file_of(samples(8, 8), "JPEG"), file_of(samples(8, 8), "WEBP")
    sent = [("a.JPEG", jpeg), ("b", jpeg), ("c.jpg", webp)]

    together = unzipped(client.post("/denoise/batch", params={"format": "same"}, **as_form(sent)))

    assert [name for name, _ in together] == ["a.JPEG", "b.jpg", "c.webp"]


def test_an_images_comment_has_the_headers_of_post_denoise(client, shots, file_of):
    deep = file_of(np.zeros((8, 8), np.uint16))
    params = {"format": "jpeg"}
    alone = client.post("/denoise", params=params, content=deep).headers
    names = ("x-denoise-model", "x-denoise-digest", "x-denoise-changed")

    response = client.post("/denoise/batch", params=params, **as_form([("deep.png", deep)]))
    [info] = zipfile.ZipFile(io.BytesIO(response.content)).infolist()
    told = dict(line.split(": ", 1) for line in info.comment.decode().lower().splitlines())

    assert {name: told[name] for name in names} == {name: alone[name].lower() for name in names}


def test_a_failed_image_is_replaced_by_its_problem(client, shots, file_of):
    bad = [
        ("cut.png", shots[0][1][:-300]),
        ("text.jpg", b"no image"),
        ("paper.pdf", b"%PDF-1.7 and so on"),
        ("large.png", file_of(np.zeros((50, 41), np.uint8))),
        ("bytes.png", bytes(MAX_BYTES + 1)),
    ]
    alone = [client.post("/denoise", content=data).json() for _, data in bad[:-1]]

    together = unzipped(client.post("/denoise/batch", **as_zip([bad[0], shots[0], *bad[1:], shots[1]])))
    told = [json.loads(data) for name, data in together if name.endswith(".error.json")]

    assert [name for name, _ in together] == [
        "cut.png.error.json",
        "day/b.png",
        "text.jpg.error.json",
        "paper.pdf.error.json",
        "large.png.error.json",
        "bytes.png.error.json",
        "day/a.png",
    ]
    assert told[:-1] == alone
    assert told[-1]["status"] == 413


def test_malicious_files_in_a_zip_are_replaced_by_a_problem(client, shots):
    data = shots[0][1]
    sent = [
        ("../../up.png", data),
        ("/etc/passwd", data),
        ("C:\\a.png", data),
        ("in.zip", zipped(shots)),
        shots[2],
    ]

    together = unzipped(client.post("/denoise/batch", **as_zip(sent)))

    assert [name for name, _ in together] == [
        "up.png.error.json",
        "etc/passwd.error.json",
        "C_/a.png.error.json",
        "in.zip.error.json",
        "c.png",
    ]
    assert [json.loads(data)["status"] for name, data in together[:-1]] == [400, 400, 400, 415]


def test_names_that_clash_get_a_number(client, shots):
    data = shots[0][1]
    names = ["a.png", "a.jpg", "A.webp", "a-2.png", "b/a.png", "no.txt", "no.txt"]
    sent = [(name, b"none" if name == "no.txt" else data) for name in names]

    together = unzipped(client.post("/denoise/batch", **as_form(sent)))

    assert [name for name, _ in together] == [
        "a.png",
        "a-2.png",
        "A-3.png",
        "a-2-2.png",
        "b/a.png",
        "no.txt.error.json",
        "no.txt-2.error.json",
    ]


def test_a_bug_costs_its_own_image_alone_and_is_in_the_log(client, shots, monkeypatch, caplog):
    def buggy(decoder, file, *args):
        data = file.read()
        if data == shots[0][1]:
            raise RuntimeError("a secret of the house")
        return read_file(data, *args[:-1])

    monkeypatch.setattr(Decoder, "read", buggy)
    with caplog.at_level(logging.ERROR):
        first, second, _ = unzipped(client.post("/denoise/batch", **as_zip(shots)))

    assert first[0] == "day/b.png.error.json"
    assert json.loads(first[1])["status"] == 500
    assert b"secret" not in first[1]
    assert "a secret of the house" in caplog.text
    assert second[0] == "day/a.png"


@pytest.mark.parametrize(
    ("params", "status", "words"),
    [
        ({"model": "films"}, 404, ["'films'", "photo, scans"]),
        ({"format": "bmp"}, 422, ["BMP can be read but not written"]),
        ({"format": ""}, 422, ["no format ''", "Output formats: jpeg, png"]),
        ({"strength": 2}, 422, ["strength"]),
    ],
)
@pytest.mark.parametrize("way", WAYS)
def test_invalid_parameters_of_a_batch_are_refused(way, params, status, words, client, shots):
    assert_problem(client.post("/denoise/batch", params=params, **way(shots)), status, *words)


@pytest.mark.parametrize(
    ("sent", "status", "words"),
    [
        ({"content": b""}, 400, ["The zip is broken, cut short or not a zip"]),
        (
            {"content": zipped([("a", bytes(9))])[:-1]},
            400,
            ["broken, cut short or not a zip"],
        ),
        (as_zip([(f"{number}", b"") for number in range(10)]), 413, ["10 files; at most 9 are allowed"]),
        (as_form([(f"{number}", b"") for number in range(10)]), 413, ["more than 9 files"]),
        (as_zip([("a", bytes(10 * MAX_BYTES))]), 413, ["at most 200000 are allowed"]),
        ({"files": {"photo": b""}}, 422, ["'image'", "photo"]),
    ],
)
def test_an_invalid_batch_is_refused_before_the_zip_begins(sent, status, words, client):
    assert_problem(client.post("/denoise/batch", **sent), status, *words)


def test_the_accept_header_applies_to_the_zip(client, shots):
    for accept in ("application/zip", "image/webp"):
        sent = as_form(shots[:1]) | {"headers": {"accept": accept}}

        assert [name for name, _ in unzipped(client.post("/denoise/batch", **sent))] == ["day/b.png"]


def test_openapi_has_both_bodies_and_every_error(client):
    route = client.get("/openapi.json").json()["paths"]["/denoise/batch"]["post"]

    assert set(route["requestBody"]["content"]) == {"multipart/form-data", "application/zip"}
    assert set(route["responses"]) == {"200", "400", "401", "404", "413", "422", "429", "503", "507"}
    assert set(route["responses"]["200"]["content"]) == {"application/zip"}
    assert {each["name"] for each in route["parameters"]} == set(DenoiseParams.model_fields)


class Images:
    """In place of a Pipeline: an image is done when it is let, or ended when its client is gone."""

    def __init__(self):
        self.begun, self.ended, self.let = [], [], {}

    async def denoise(self, source, params, memory, disconnected, charge):
        def read():
            with source.open() as file:
                return int(file.read())

        body = await asyncio.to_thread(read)
        self.begun.append(body)
        leaving = asyncio.create_task(disconnected())
        done = asyncio.create_task(self.let.setdefault(body, asyncio.Event()).wait())
        await asyncio.wait([leaving, done], return_when="FIRST_COMPLETED")
        self.ended.append(body)
        left = leaving.done()
        leaving.cancel()
        done.cancel()
        if left:
            raise Cancelled
        return SimpleNamespace(written=EncodedImage(FORMATS["png"], body), headers={})

    def finish(self, *bodies):
        for body in bodies:
            self.let.setdefault(body, asyncio.Event()).set()


def entries(count):
    return [
        Entry(f"{number}.jpg", ImageSource(partial(in_memory, str(number).encode()))) for number in range(count)
    ]


def free(pixels):
    pass


async def stays():
    await asyncio.Event().wait()


def run(main):
    asyncio.run(asyncio.wait_for(main, SOON))


def test_an_image_is_sent_before_the_others_are_done():
    async def main():
        images = Images()
        async with aclosing(denoise_batch(images, entries(3), DenoiseParams(), stays, free)) as results:
            images.finish(0)
            first = await anext(results)

        assert first.name == "0.png"
        assert 0 in images.ended
        assert 2 not in images.begun

    run(main())


def test_an_image_that_is_done_first_waits_for_those_before_it():
    async def main():
        images = Images()
        async with aclosing(denoise_batch(images, entries(2), DenoiseParams(), stays, free)) as results:
            waiting = asyncio.create_task(anext(results))
            images.finish(1)
            while 1 not in images.ended:
                await asyncio.sleep(0)
            assert not waiting.done()
            images.finish(0)
            assert [(await waiting).data, (await anext(results)).data] == [0, 1]

    run(main())


def test_a_slow_reader_slows_the_work():
    async def main():
        images = Images()
        images.finish(*range(10))
        taken = 0
        async for _ in denoise_batch(images, entries(10), DenoiseParams(), stays, free):
            # What was begun ahead is done, and the reader is still at this one.
            ahead = min(10, taken + FILES_AT_ONCE)
            while len(images.ended) < ahead:
                await asyncio.sleep(0)
            assert len(images.begun) == ahead
            taken += 1

        assert taken == 10

    run(main())


def test_files_are_read_one_at_a_time():
    lock, reads = threading.Lock(), []

    def read():
        assert lock.acquire(blocking=False)
        reads.append(threading.get_ident())
        lock.release()
        raise BrokenImage("no")

    async def main():
        batch_of = [Entry("a.jpg", ImageSource(read)) for _ in range(50)]
        async for _ in denoise_batch(Images(), batch_of, DenoiseParams(), stays, free):
            pass

    run(main())

    assert len(reads) == 50
    assert threading.get_ident() not in reads


def test_a_disconnected_client_ends_the_work():
    async def main():
        images, leave = Images(), asyncio.Event()
        results = denoise_batch(images, entries(9), DenoiseParams(), leave.wait, free)
        waiting = asyncio.create_task(anext(results))
        while len(images.begun) < FILES_AT_ONCE:
            await asyncio.sleep(0)
        leave.set()
        with pytest.raises(Cancelled):
            await waiting

        assert sorted(images.ended) == sorted(images.begun) == list(range(FILES_AT_ONCE))

    run(main())


@pytest.mark.parametrize("way", ["closed", "cancelled"])
def test_nothing_runs_after_a_batch_is_closed(way):
    async def main():
        images = Images()
        results = denoise_batch(images, entries(9), DenoiseParams(), stays, free)
        before = asyncio.all_tasks()
        images.finish(0)
        await anext(results)
        if way == "cancelled":
            waiting = asyncio.create_task(anext(results))
            while len(images.begun) < FILES_AT_ONCE + 1:
                await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        await results.aclose()

        assert sorted(images.ended) == sorted(images.begun)
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == before

    run(main())


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
def spools(monkeypatch):
    """The temporary files that were created."""
    made = []
    temporary = batch.TemporaryFile

    def remembered():
        made.append(temporary())
        return made[-1]

    monkeypatch.setattr(batch, "TemporaryFile", remembered)
    return made


def test_the_upload_is_a_nameless_file_that_is_closed(client, shots, spools):
    response = client.post("/denoise/batch", **as_zip(shots))

    assert response.status_code == 200
    [spool] = spools
    assert spool.closed
    assert isinstance(spool.name, int), "a file with a name is left behind by a process that is killed"


def test_a_client_that_leaves_midway_leaves_no_file(settings, shots, spools):
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

    assert len(asyncio.run(asyncio.wait_for(main(), SOON))) == 2
    assert [spool.closed for spool in spools] == [True]


def test_a_broken_connection_leaves_no_file(settings, shots, spools):
    async def send(message):
        if message["type"] == "http.response.body":
            raise OSError("the connection is gone")

    with pytest.raises(OSError, match="the connection is gone"):
        run(post(create_app(settings), zipped(shots), send))

    assert [spool.closed for spool in spools] == [True]


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
