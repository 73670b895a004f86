"""Result cache: what it keeps, for how long, and how much memory it takes."""

import asyncio
import gc
import hashlib
import weakref

import pytest
import torch

from engine.imageio.formats import FORMATS
from engine.imageio.image import EncodedImage, Image, ImageSequence
from engine.imageio.metadata import Metadata
from engine.imageio.sandbox.shared_file import SharedFile, in_memory
from service.runtime.result_cache import (
    ENTRY_BYTES,
    DenoisedFile,
    DenoisedPages,
    FileKey,
    PagesKey,
    Provenance,
    ResultCache,
    digest_of,
)
from service.runtime.ticket import MemoryShare

PNG = FORMATS["png"]
MADE = Provenance("photo", "digest", "float32", "white", "{}", ())
SIZE = 10_000
ROOM_FOR_TWO = 2 * (SIZE + ENTRY_BYTES)


def key(upload="a", **others):
    pages = {"params": "{}", "weights": ("w",), "floats": False, **others}
    return FileKey(PagesKey(upload, **pages), "png", None)


def file(size=SIZE):
    return DenoisedFile(EncodedImage(PNG, bytes(size)), MADE, 1.5)


def pages(size=100, **how):
    samples = torch.zeros(size, size, 1, dtype=torch.uint8)
    return DenoisedPages(ImageSequence(PNG, (Image(samples, **how),)), MADE)


def cached(main, limit=ROOM_FOR_TWO, seconds=100.0):
    """Runs `main(cache)`, a coroutine."""

    async def run():
        return await main(ResultCache(limit, seconds))

    return asyncio.run(run())


def found(cache, key):
    with MemoryShare() as memory:
        return cache.file(key, memory)


def test_a_file_is_found_by_all_that_it_depends_on():
    async def main(cache):
        cache.keep_file(key(), file())
        others = [key("b"), key(params="{1}"), key(weights=("v",)), key(floats=True)]
        others += [FileKey(key().pages, "jpeg", None), FileKey(key().pages, "png", 90)]
        return found(cache, key()), [found(cache, other) for other in others]

    same, others = cached(main)
    assert (same.written.data, same.found, same.seconds) == (bytes(SIZE), "hit", 0)
    assert others == [None] * 6


def test_what_was_not_asked_for_longest_makes_room():
    async def main(cache):
        for upload in ("a", "b"):
            cache.keep_file(key(upload), file())
        found(cache, key("a"))
        cache.keep_file(key("c"), file())
        return [found(cache, key(upload)) is not None for upload in ("a", "b", "c")], cache.size

    assert cached(main) == ([True, False, True], ROOM_FOR_TWO)


def test_what_does_not_fit_is_not_kept_and_others_stay():
    async def main(cache):
        cache.keep_file(key("a"), file())
        cache.keep_file(key("b"), file(ROOM_FOR_TWO))
        cache.keep_pages(key("c").pages, pages(200))
        return found(cache, key("a")) is not None, found(cache, key("b")), cache.pages(key("c").pages)

    assert cached(main) == (True, None, None)


def test_without_memory_nothing_is_kept():
    async def main(cache):
        cache.keep_file(key(), file())
        cache.keep_pages(key().pages, pages())
        return found(cache, key()), cache.pages(key().pages), cache.size

    assert cached(main, limit=0) == (None, None, 0)


def test_a_file_that_is_being_sent_counts_until_it_is_sent():
    async def main(cache):
        cache.keep_file(key("a"), file())
        cache.keep_file(key("b"), file())
        with MemoryShare() as first, MemoryShare() as second:
            cache.file(key("a"), first)
            cache.file(key("b"), second)
            cache.keep_file(key("c"), file())
            sizes = [cache.size]
        sizes.append(cache.size)
        cache.keep_file(key("c"), file())
        return sizes, found(cache, key("c")) is not None

    assert cached(main) == ([ROOM_FOR_TWO, ROOM_FOR_TWO], True)


def test_results_leave_after_their_time_even_without_requests(monkeypatch):
    monkeypatch.setattr("service.runtime.result_cache.DELAY", 0.01)

    async def main(cache):
        cache.keep_file(key("a"), file())
        cache.keep_file(key("b"), file())
        with MemoryShare() as memory:
            cache.file(key("b"), memory)
            await asyncio.sleep(0.15)
            sizes = [cache.size]
        return [*sizes, cache.size], found(cache, key("b"))

    assert cached(main, seconds=0.05) == ([SIZE + ENTRY_BYTES, 0], None)


def test_a_hit_does_not_lengthen_the_time():
    async def main(cache):
        cache.keep_file(key(), file())
        for _ in range(4):
            await asyncio.sleep(0.03)
            found(cache, key())
        return found(cache, key())

    assert cached(main, seconds=0.1) is None


def test_pages_count_with_their_transparency_and_metadata():
    how = {"alpha": torch.zeros(100, 100, dtype=torch.uint8), "metadata": Metadata(exif=bytes(500))}

    async def main(cache):
        cache.keep_pages(key().pages, pages(**how))
        return cache.size, cache.has_pages(key().pages), cache.has_pages(key("b").pages)

    assert cached(main, limit=10**6) == (2 * 100 * 100 + 500 + ENTRY_BYTES, True, False)


def test_kept_pages_do_not_keep_the_memory_of_the_noisy_file():
    message = bytearray(2 * 100 * 100)
    whole = torch.frombuffer(message, dtype=torch.uint8)

    async def main(cache):
        nonlocal whole
        given = pages(alpha=whole[10_000:].view(100, 100))
        cache.keep_pages(key().pages, given)
        memory = weakref.ref(given.file.pages[0].alpha)
        del given, whole
        gc.collect()
        return memory()

    assert cached(main, limit=10**6) is None


@pytest.mark.parametrize("start", [0, 7])
def test_the_digest_is_of_the_files_bytes_alone(start, monkeypatch):
    monkeypatch.setattr("service.runtime.result_cache.CHUNK", 64)
    data = bytes(range(256)) * 3

    with in_memory(data) as whole:
        found = digest_of(SharedFile(whole.fd, 300, start))

    assert found == hashlib.sha256(data[start : start + 300]).hexdigest()
