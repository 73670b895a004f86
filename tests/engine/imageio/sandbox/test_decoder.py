"""Decoder: gives what this process would give, and whatever a file does to a worker, the next file is decoded."""

import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.imageio.formats import FORMATS
from engine.imageio.image import Image, ImageSequence
from engine.imageio.metadata import Metadata
from engine.imageio.read import read, read_info
from engine.imageio.sandbox.decoder import (
    Crashed,
    Decoder,
    TooLargeToDecode,
    TooSlowToDecode,
    require_linux,
)
from engine.imageio.sandbox.fork_server import ForkServer
from engine.imageio.sandbox.shared_file import in_memory
from engine.imageio.write import encode
from tests.support.processes import children, watch
from tests.support.served import SOON
from tests.support.sick_codecs import sick


def decode(decoder, data, **options):
    with in_memory(data) as file:
        return decoder.read(file, **options)


def look(decoder, data, **options):
    with in_memory(data) as file:
        return decoder.read_info(file, **options)


@pytest.fixture(scope="module")
def sound():
    with Decoder() as sound:
        yield sound


@pytest.fixture
def weak(sick_fork_server):
    with Decoder(memory=2**28, fork_server=sick_fork_server) as weak:
        yield weak


def assert_same(file, other):
    """To the bit, metadata too."""
    assert replace(file, pages=()) == replace(other, pages=())
    assert len(file.pages) == len(other.pages)
    for page, twin in zip(file.pages, other.pages, strict=True):
        for ours, theirs in ((page.samples, twin.samples), (page.alpha, twin.alpha)):
            assert (ours is None) == (theirs is None)
            if ours is not None:
                assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
                assert torch.equal(ours, theirs)
        assert page.metadata == twin.metadata


modes = st.sampled_from(
    [
        (kind.name, depth, channels, alpha, pages)
        for kind in FORMATS.values()
        if kind.writes
        for depth in kind.writes.depths
        for channels in (1, 3)
        for alpha in ({False, kind.writes.alpha})
        for pages in ({1, 3} if kind.writes.pages and not (kind.name == "png" and depth == "16") else {1})
    ]
)
blocks = st.one_of(st.none(), st.binary(min_size=1, max_size=99))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(modes, st.integers(1, 40), st.integers(1, 40), blocks, st.sampled_from([None, (300.0, 299.5)]))
def test_a_file_is_what_it_is_when_read_in_this_process(sound, mode, height, width, block, resolution):
    name, depth, channels, alpha, pages = mode
    rng = np.random.default_rng(height * width)
    dtype = {"8": np.uint8, "16": np.uint16, "float": np.float32}[depth]
    drawn = rng.integers(0, 256, (pages, height, width, channels + alpha)).astype(dtype)
    known = Metadata(block, None, b"<x:xmpmeta/>" if block else None, resolution)
    file = ImageSequence(
        FORMATS[name],
        tuple(
            Image(
                torch.from_numpy(page[..., :channels].copy()),
                torch.from_numpy(page[..., -1].copy()) if alpha else None,
                known,
            )
            for page in drawn
        ),
        tuple(range(50, 50 + pages)) if pages > 1 else None,
        2,
    )
    data = encode(file, FORMATS[name]).data

    for options in ({}, {"max_pixels": 10**6, "max_pages": 5, "page": pages}):
        assert_same(decode(sound, data, **options), read(data, **options))
        assert look(sound, data, **options) == read_info(data, **options)


@pytest.mark.parametrize(
    ("spoil", "options"),
    [
        (lambda png: b"", {}),
        (lambda png: b"%PDF-1.7", {}),
        (lambda png: png[:20], {}),
        (lambda png: png[:-200], {}),
        (lambda png: png, {"max_pixels": 599}),
        (lambda png: png, {"page": 2}),
    ],
)
def test_a_file_is_refused_in_the_same_words(sound, png, spoil, options):
    def answer(ask):
        try:
            return ask(spoil(png), **options)
        except ValueError as refused:
            return type(refused), str(refused)

    refused = answer(read)
    assert isinstance(refused, tuple)
    assert answer(partial(decode, sound)) == refused
    assert answer(partial(look, sound)) == answer(read_info)
    assert_same(decode(sound, png), read(png))


def test_a_decoded_image_is_writable_and_outlives_its_decoder(png):
    with Decoder(fork_server=ForkServer()) as mine:
        file = decode(mine, png)
    samples = file.pages[0].samples

    assert torch.equal(samples.add_(1), read(png).pages[0].samples + 1)


def workers(decoder):
    return children(decoder.fork_server.pid)


def test_one_worker_decodes_file_after_file(weak, png):
    for _ in range(3):
        decode(weak, png)

    assert len(workers(weak)) == 1


def test_a_file_that_takes_too_long_is_refused_with_the_limit(weak, png):
    weak.seconds = 1
    with pytest.raises(TooSlowToDecode, match=r"^Decoding the PNG file takes more than 1 seconds, the limit\.$"):
        decode(weak, sick("hang"))

    weak.seconds = SOON
    assert workers(weak) == []
    assert_same(decode(weak, png), read(png))


@pytest.mark.parametrize(("what", "how"), [("crash", "SIGSEGV"), ("leave", "exit code 3")])
def test_after_a_file_that_ends_its_worker_others_are_decoded(what, how, weak, png):
    with pytest.raises(Crashed, match=rf"^The PNG file is broken: its decoder process ended with {how}\.$"):
        decode(weak, sick(what))

    assert_same(decode(weak, png), read(png))


def test_a_file_that_takes_too_much_memory_is_refused(weak, png):
    with pytest.raises(TooLargeToDecode, match="takes more than 268435456 bytes of memory"):
        decode(weak, sick("eat"))

    assert workers(weak) == []
    assert_same(decode(weak, png), read(png))


class DisconnectedError(Exception):
    pass


def test_a_file_that_hangs_holds_up_no_other_and_can_be_given_up(sick_fork_server, png):
    hangs, disconnected = threading.Event(), threading.Event()

    def check():
        hangs.set()
        if disconnected.is_set():
            raise DisconnectedError

    with Decoder(fork_server=sick_fork_server) as decoder, ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(decode, decoder, sick("hang"), check=check)
        assert hangs.wait(SOON)
        assert_same(decode(decoder, png), read(png))
        assert not hanging.done()
        disconnected.set()

        with pytest.raises(DisconnectedError):
            hanging.result(SOON)
        assert len(workers(decoder)) == 1


def test_a_worker_that_something_else_ended_is_replaced(weak, png):
    decode(weak, png)
    (worker,) = workers(weak)
    with watch(worker) as poll:
        os.kill(worker, signal.SIGKILL)
        assert poll.poll(1000 * SOON)

    assert_same(decode(weak, png), read(png))


def test_other_systems_are_refused_in_words(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")

    with pytest.raises(OSError, match="needs Linux"):
        require_linux()
