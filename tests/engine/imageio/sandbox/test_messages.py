"""Messages: what is sent arrives, and what a worker could still change is refused."""

import math
import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.imageio.image import Image
from engine.imageio.metadata import Metadata
from engine.imageio.metadata.cicp import ColourCode
from engine.imageio.samples import Missing
from engine.imageio.sandbox.messages import (
    decode_image,
    decode_number,
    encode_image,
    encode_number,
    receive,
    receive_request,
    send,
    send_request,
    socket_pair,
)
from engine.imageio.sandbox.shared_file import in_memory


@pytest.fixture
def ends():
    ours, theirs = socket_pair()
    with ours, theirs:
        yield ours, theirs


def test_a_number_arrives():
    assert [decode_number(encode_number(number)) for number in (0, 1, 2**40)] == [0, 1, 2**40]


def test_a_message_arrives_with_its_parts(ends):
    ours, theirs = ends

    send(theirs, {"type": "odd", "count": 3}, [b"one", None, b"", bytes(1000)])
    message, parts = receive(ours)

    assert message == {"type": "odd", "count": 3}
    assert [None if part is None else bytes(part) for part in parts] == [b"one", None, b"", bytes(1000)]


def test_a_request_arrives_with_its_file(ends):
    ours, theirs = ends

    with in_memory(b"an image") as file:
        send_request(theirs, {"type": "odd"}, file, [b"a part"])
    message, parts, arrived = receive_request(ours)

    assert message["type"] == "odd"
    assert [bytes(part) for part in parts] == [b"a part"]
    assert arrived.read() == b"an image"
    os.close(arrived.fd)


def test_a_file_that_nobody_asked_for_is_not_accepted(ends):
    ours, theirs = ends
    before = len(list(Path("/proc/self/fd").iterdir()))

    with in_memory(b"an image") as file:
        send_request(theirs, {}, file)
    receive(ours)

    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_an_image_arrives_with_its_metadata(ends):
    ours, theirs = ends
    image = Image(
        torch.randint(65536, (5, 7, 3)).to(torch.uint16),
        torch.randint(65536, (5, 7)).to(torch.uint16),
        Metadata(b"icc", None, b"<x:xmpmeta/>", (300.0, 299.5), b"chunks", ("a thumbnail",), ColourCode(9, 16)),
        Missing(torch.randint(3, (5, 7, 3)).to(torch.uint8), (65535, -math.inf)),
        "int16",
    )

    send(theirs, *encode_image(image))
    arrived = decode_image(*receive(ours))

    assert torch.equal(arrived.samples, image.samples)
    assert torch.equal(arrived.alpha, image.alpha)
    assert torch.equal(arrived.missing.codes, image.missing.codes)
    assert arrived.missing.values == image.missing.values
    others = {"samples": None, "alpha": None, "missing": None}
    assert replace(arrived, **others) == replace(image, **others)


def test_the_end_of_the_other_process_is_an_eof_error(ends):
    ours, theirs = ends
    theirs.close()

    with pytest.raises(EOFError, match="the other process has ended"):
        receive(ours)


def test_memory_that_is_not_sealed_is_refused(ends):
    ours, theirs = ends
    loose = os.memfd_create("loose", os.MFD_ALLOW_SEALING)
    os.write(loose, b'{"lengths": []}')
    socket.send_fds(theirs, [bytes(8)], [loose])
    os.close(loose)

    with pytest.raises(ValueError, match="not sealed: it could still change it"):
        receive(ours)


def test_a_message_that_is_too_large_is_refused(ends):
    ours, theirs = ends
    send(theirs, {}, [bytes(1000)])

    with pytest.raises(ValueError, match="at most 1000 are allowed"):
        receive(ours, 1000)
