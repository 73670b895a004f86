"""The zip that is made: others unpack it, and it is never whole in memory."""

import asyncio
import io
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from contextlib import aclosing
from functools import partial
from random import Random

import pytest

from service.archives.zip_writer import CHUNK, ZipMember, write_zip
from tests.support.traced import Traced


async def given(*results):
    for result in results:
        if isinstance(result, Exception):
            raise result
        yield result


def pieces(*results):
    """What comes of the zip, and what ended it."""

    async def run():
        sent = []
        async with aclosing(write_zip(given(*results))) as stream:
            try:
                async for piece in stream:
                    sent.append(piece)
            except ZeroDivisionError as error:
                return sent, error
        return sent, None

    return asyncio.run(run())


def test_the_zip_that_is_sent_is_one_that_others_unpack(tmp_path):
    large = Random(0).randbytes(3 * CHUNK + 1)
    sent, _ = pieces(ZipMember("a/ü.png", large, "X-Denoise-Model: photo"), ZipMember("b.png", b""))
    (tmp_path / "all.zip").write_bytes(b"".join(sent))

    with zipfile.ZipFile(tmp_path / "all.zip") as archive:
        infos = archive.infolist()
        assert archive.testzip() is None
        assert archive.read("a/ü.png") == large
    subprocess.run([sys.executable, "-m", "zipfile", "-t", tmp_path / "all.zip"], check=True, capture_output=True)

    assert [(info.filename, info.comment) for info in infos] == [
        ("a/ü.png", b"X-Denoise-Model: photo"),
        ("b.png", b""),
    ]
    assert {info.compress_type for info in infos} == {zipfile.ZIP_STORED}
    assert max(map(len, sent)) <= CHUNK


def test_each_header_has_its_file_s_size_and_checksum():
    sent, _ = pieces(ZipMember("a.png", b"image"), ZipMember("b.png", b"another"))

    assert sent[0].startswith(b"PK\3\4")
    flags, method, _, _, crc, size, whole, _, _ = struct.unpack("<HHHHLLLHH", sent[0][6:30])
    assert (flags & 8, method, crc, size, whole) == (0, 0, zlib.crc32(b"image"), 5, 5)
    assert sent[0].endswith(b"image")
    assert sent[1].endswith(b"another")


@pytest.mark.parametrize(("now", "year"), [(0, 1980), (2**33, 2107)])
def test_a_clock_that_is_wrong_by_decades_costs_no_zip(now, year, monkeypatch):
    """Zips tell times from 1980 to 2107; a machine whose clock has no battery begins in 1970."""
    monkeypatch.setattr("service.archives.zip_writer.time.localtime", partial(time.gmtime, now))

    sent, _ = pieces(ZipMember("a.png", b"a"))
    archive = zipfile.ZipFile(io.BytesIO(b"".join(sent)))

    assert archive.read("a.png") == b"a"
    assert archive.getinfo("a.png").date_time[0] == year


def test_a_stream_that_breaks_off_is_no_zip():
    sent, error = pieces(ZipMember("a.png", b"image"), ZeroDivisionError("a bug"))

    assert isinstance(error, ZeroDivisionError)
    with pytest.raises(zipfile.BadZipFile):
        zipfile.ZipFile(io.BytesIO(b"".join(sent)))


def test_no_more_than_one_file_is_kept_in_memory():
    async def many():
        for number in range(20):
            yield ZipMember(f"{number}.png", bytes(2**22))

    async def run():
        return [len(piece) async for piece in write_zip(many())]

    with Traced() as traced:
        sent = sum(asyncio.run(run()))

    assert sent > 20 * 2**22
    assert traced.peak < 4 * 2**22
