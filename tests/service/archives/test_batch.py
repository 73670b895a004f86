"""Batch: how many images are in work, their order, and when the work ends."""

import asyncio
import threading
from contextlib import aclosing
from functools import partial
from types import SimpleNamespace

import pytest

from engine.imageio.formats import FORMATS, BrokenImage
from engine.imageio.image import EncodedImage
from engine.imageio.sandbox.shared_file import in_memory
from service.archives.batch import FILES_AT_ONCE, denoise_batch
from service.archives.zip_reader import Entry
from service.params import DenoiseParams
from service.runtime.scheduler import Cancelled
from service.runtime.upload import ImageSource

SOON = 20  # seconds; only a failing test waits so long


class Images:
    """In place of a Pipeline: an image is done once `finish` names it, or ends when its client disconnects."""

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


async def free(pixels):
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


def test_names_that_some_system_takes_for_one_get_numbers():
    async def main():
        images = Images()
        images.finish(0)
        names = ("\u00e9.jpg", "e\u0301.jpg", "E\u0301.png", "e.jpg")
        sent = [Entry(name, ImageSource(partial(in_memory, b"0"))) for name in names]

        found = [member.name async for member in denoise_batch(images, sent, DenoiseParams(), stays, free)]

        assert found == ["\u00e9.png", "e\u0301-2.png", "E\u0301-3.png", "e.png"]

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
