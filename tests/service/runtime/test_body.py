"""Compressed bodies: unpacked as they arrive, and never beyond the limit."""

import asyncio
import gzip
import tracemalloc
import zlib

import pytest
from fastapi import Request

from service.runtime import body as body_module
from service.runtime.body import (
    PIECE_BYTES,
    BodyLimit,
    BodyTooLarge,
    BrokenBody,
    UnsupportedCoding,
    announced,
    counted,
)

DATA = bytes(range(256)) * 40
SIZE = 1 << 30
LIMIT = BodyLimit(20_000, "max_bytes")


def raw_deflate(data):
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def request(chunks, coding, taken=None):
    waiting = list(chunks)

    async def receive():
        if taken is not None:
            taken.append(1)
        chunk = waiting.pop(0) if waiting else b""
        return {"type": "http.request", "body": chunk, "more_body": bool(waiting)}

    headers = [(b"content-encoding", coding.encode())] if coding is not None else []
    return Request({"type": "http", "method": "POST", "path": "/denoise", "headers": headers}, receive)


def read(chunks, coding, limit=LIMIT, arrived=lambda more: None):
    async def stream():
        return b"".join([chunk async for chunk in counted(request(chunks, coding), limit, arrived).stream()])

    return asyncio.run(stream())


@pytest.mark.parametrize("size", [1, 7, 100_000])
@pytest.mark.parametrize(
    ("coding", "pack"),
    [
        ("gzip", gzip.compress),
        ("x-gzip", gzip.compress),
        (" GZIP ", gzip.compress),
        ("gzip", lambda data: gzip.compress(data[:99]) + gzip.compress(b"") + gzip.compress(data[99:])),
        ("deflate", zlib.compress),
        ("deflate", raw_deflate),
        ("identity", bytes),
        ("", bytes),
        (None, bytes),
    ],
)
def test_a_body_is_unpacked_in_chunks_of_any_size(coding, pack, size):
    packed, sizes = pack(DATA), []

    got = read([packed[at : at + size] for at in range(0, len(packed), size)], coding, arrived=sizes.append)

    assert got == DATA
    assert sum(sizes) == len(DATA), "the unpacked bytes are what takes memory"


@pytest.mark.parametrize("coding", ["br", "zstd", "compress", "gzip, gzip", "aws-chunked"])
def test_other_codings_are_refused_unread(coding):
    taken = []

    with pytest.raises(UnsupportedCoding, match="Supported are gzip, deflate and none") as caught:
        counted(request([b"x"], coding, taken), LIMIT)

    assert caught.value.status == 415
    assert caught.value.headers == {"Accept-Encoding": "gzip, deflate"}
    assert not taken


@pytest.mark.parametrize(
    ("coding", "packed", "words"),
    [
        ("gzip", gzip.compress(DATA)[:-1], "cut short"),
        ("gzip", b"", "cut short"),
        ("deflate", b"x", "cut short"),
        ("deflate", zlib.compress(DATA)[:-1], "cut short"),
        ("gzip", b"\x89PNG and so on", "incorrect header check"),
        ("gzip", gzip.compress(DATA) + b"more", "header check"),
        ("deflate", zlib.compress(DATA) + b"more", "other data follows its end"),
        ("gzip", gzip.compress(DATA)[:-5] + bytes(5), "incorrect"),
    ],
)
def test_a_body_that_is_not_what_it_says_is_refused(coding, packed, words):
    with pytest.raises(BrokenBody, match=f"cannot be unpacked as {coding}, its Content-Encoding: .*{words}"):
        read([packed], coding)


def test_too_many_gzip_members_are_refused(monkeypatch):
    monkeypatch.setattr(body_module, "MAX_GZIP_MEMBERS", 3)

    assert read([gzip.compress(b"") * 3], "gzip") == b""
    with pytest.raises(BrokenBody, match="other data follows"):
        read([gzip.compress(b"") * 4], "gzip")


@pytest.mark.parametrize(("coding", "kind"), [("gzip", 31), ("deflate", 15), ("deflate", -15)])
def test_a_bomb_is_refused_at_the_limit_in_little_memory(coding, kind):
    packer = zlib.compressobj(9, wbits=kind)
    bomb = b"".join(packer.compress(bytes(2**20)) for _ in range(100)) + packer.flush()
    assert len(bomb) < 2**17

    tracemalloc.start()
    with pytest.raises(BodyTooLarge, match=r"at least \d+ bytes; at most 1000000 are allowed"):
        read([bomb], coding, BodyLimit(10**6, "max_bytes"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 1_000_000 + 8 * PIECE_BYTES


def test_a_compressed_body_beyond_the_limit_is_refused_too():
    # It would unpack to nothing, and take the time of all its bytes.
    with pytest.raises(BodyTooLarge, match="at least 20001 bytes"):
        read([gzip.compress(b"") * 1000, b"x"], "gzip", BodyLimit(20_000, "max_bytes"))


def test_others_get_their_turn_while_a_bomb_is_unpacked():
    turns = []

    async def others():
        while True:
            turns.append(1)
            await asyncio.sleep(0)

    async def both():
        other = asyncio.create_task(others())
        packed = gzip.compress(bytes(100 * PIECE_BYTES))
        sizes = [len(chunk) async for chunk in counted(request([packed], "gzip"), BodyLimit(SIZE, "")).stream()]
        other.cancel()
        return sizes

    assert max(asyncio.run(both())) <= PIECE_BYTES
    assert len(turns) > 90


def test_the_size_of_a_compressed_body_is_not_its_unpacked_size():
    packed = request([], "gzip")
    packed.scope["headers"].append((b"content-length", b"500"))

    assert announced(packed, LIMIT) == 0
    with pytest.raises(BodyTooLarge, match="500 bytes; at most 499"):
        announced(packed, BodyLimit(499, "max_bytes"))
