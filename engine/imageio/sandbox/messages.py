"""Messages between the service and its decoder processes: JSON, and raw bytes beside it.

A message lies in a memory file, whose descriptor is sent over a socket: the receiver maps the memory, so pixels
are not copied. Messages hold numbers, text and samples only, and nothing in them is ever executed. The memory is
sealed: its sender cannot change it any more. Linux only.
"""

import fcntl
import json
import mmap
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine.imageio.codecs.raw import RawMosaic
from engine.imageio.image import Image
from engine.imageio.metadata import Metadata
from engine.imageio.metadata.cicp import ColourCode
from engine.imageio.samples import Missing
from engine.imageio.sandbox.shared_file import SEALS, MemoryFile, SharedFile

# Raw bytes beside the JSON; None stays None.
Part = bytes | memoryview | None

# Parts start at multiples of this many bytes, so that they can hold any type of number.
ALIGNMENT = 64
# Bytes of a number on the wire.
NUMBER_BYTES = 8
_DTYPES = {str(dtype): dtype for dtype in (torch.uint8, torch.uint16, torch.float32)}


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected sockets that keep messages apart."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def encode_number(number: int) -> bytes:
    """A number on the wire."""
    return number.to_bytes(NUMBER_BYTES, "little")


def decode_number(data: bytes) -> int:
    """Undoes encode_number."""
    return int.from_bytes(data, "little")


def send(to: socket.socket, message: dict[str, Any], parts: Sequence[Part] = ()) -> None:
    """Sends a message. parts: raw bytes that go with it."""
    _send(to, message, parts, [])


def send_request(
    to: socket.socket, message: dict[str, Any], file: SharedFile, parts: Sequence[Part] = ()
) -> None:
    """Sends a message about a file, and the file's descriptor. parts: raw bytes that go with it."""
    _send(to, {**message, "start": file.start, "size": file.size}, parts, [file.fd])


def _send(to: socket.socket, message: dict[str, Any], parts: Sequence[Part], fds: list[int]) -> None:
    with MemoryFile("decoder") as memory:
        for part in parts:
            memory.write(b"" if part is None else part)
            memory.write(bytes(-memory.size % ALIGNMENT))
        start = memory.size
        lengths = [None if part is None else memoryview(part).nbytes for part in parts]
        memory.write(json.dumps({**message, "lengths": lengths}).encode())
        socket.send_fds(to, [encode_number(start)], [memory.seal().fd, *fds])


def receive(from_: socket.socket, max_bytes: int | None = None) -> tuple[dict[str, Any], list[memoryview | None]]:
    """The next message and its parts. Writing to a part does not change what the sender has.

    max_bytes: the largest message allowed. Raises EOFError when the other process has ended, TimeoutError, or
    ValueError for a message that is too large or not sealed.
    """
    # Further descriptors are not accepted: the system closes them.
    start, fds, _, _ = socket.recv_fds(from_, NUMBER_BYTES, 1)
    with _closing(fds):
        return _map_message(start, fds, max_bytes)


def receive_request(from_: socket.socket) -> tuple[dict[str, Any], list[memoryview | None], SharedFile]:
    """The next message about a file, its parts, and the file, which the receiver closes. Raises what `receive`
    raises.
    """
    start, fds, _, _ = socket.recv_fds(from_, NUMBER_BYTES, 2)
    with _closing(fds[:1]):
        message, parts = _map_message(start, fds, None)
    return message, parts, SharedFile(fds[1], message["size"], message["start"])


@contextmanager
def _closing(fds: list[int]) -> Iterator[None]:
    try:
        yield
    finally:
        for fd in fds:
            os.close(fd)


def _map_message(
    start: bytes, fds: list[int], max_bytes: int | None
) -> tuple[dict[str, Any], list[memoryview | None]]:
    if not fds:
        raise EOFError("the other process has ended")
    size = os.fstat(fds[0]).st_size
    if max_bytes is not None and size > max_bytes:
        raise ValueError(f"a decoder process sent {size} bytes; at most {max_bytes} are allowed")
    # If the sender cut mapped memory short, reading it would kill the receiver.
    if fcntl.fcntl(fds[0], fcntl.F_GET_SEALS) & SEALS != SEALS:
        raise ValueError("a decoder process sent memory that is not sealed: it could still change it")
    mapped = memoryview(mmap.mmap(fds[0], size, access=mmap.ACCESS_COPY))
    message = json.loads(bytes(mapped[decode_number(start) :]))
    parts: list[memoryview | None] = []
    offset = 0
    for length in message.pop("lengths"):
        parts.append(None if length is None else mapped[offset : offset + length])
        offset += (length or 0) + -(length or 0) % ALIGNMENT
    return message, parts


def encode_mosaic(mosaic: RawMosaic) -> tuple[dict[str, Any], list[Part]]:
    """A message about a camera's mosaic, and its parts."""
    values = np.ascontiguousarray(mosaic.values)
    return {**asdict(replace(mosaic, values=values[:0])), "values": values.shape}, [values.data]


def decode_mosaic(message: dict[str, Any], parts: Sequence[memoryview | None]) -> RawMosaic:
    """Undoes encode_mosaic. The values are the message's own memory."""
    first, second = message["pattern"]
    profile = message["noise_profile"]
    return RawMosaic(
        decode_values(message["values"], parts),
        ((first[0], first[1]), (second[0], second[1])),
        (*message["black"],),
        message["white"],
        profile and tuple((scale, offset) for scale, offset in profile),
    )


def decode_values(shape: Sequence[int], parts: Sequence[memoryview | None]) -> NDArray[np.uint16]:
    """The uint16 array of that shape in the only part."""
    (part,) = parts
    assert part is not None
    return np.frombuffer(part, np.uint16).reshape(shape)


def encode_image(image: Image) -> tuple[dict[str, Any], list[Part]]:
    """A message about an image, and its parts."""
    known = image.metadata
    message = {
        "shape": image.samples.shape,
        "dtype": str(image.samples.dtype),
        "resolution": known.resolution,
        "lost": known.lost,
        "stored": image.stored,
        "missing": image.missing and image.missing.values,
        "colour_code": known.colour_code,
    }
    alpha = None if image.alpha is None else image.alpha.numpy().data
    codes = None if image.missing is None else image.missing.codes.numpy().data
    samples = image.samples.numpy().data
    return message, [samples, alpha, codes, known.icc_profile, known.exif, known.xmp, known.chunks]


def decode_image(message: dict[str, Any], parts: Sequence[memoryview | None]) -> Image:
    """Undoes encode_image. The image's samples are the message's own memory."""
    shape, dtype = message["shape"], _DTYPES[message["dtype"]]
    samples, alpha = (part if part is None else torch.frombuffer(part, dtype=dtype) for part in parts[:2])
    assert samples is not None
    codes = None if parts[2] is None else torch.frombuffer(parts[2], dtype=torch.uint8).view(shape)
    icc, exif, xmp, chunks = (part if part is None else bytes(part) for part in parts[3:])
    resolution = message["resolution"]
    known = Metadata(
        icc,
        exif,
        xmp,
        (resolution[0], resolution[1]) if resolution else None,
        chunks or b"",
        tuple(message["lost"]),
        ColourCode(*message["colour_code"]) if message["colour_code"] else None,
    )
    return Image(
        samples.view(shape),
        None if alpha is None else alpha.view(shape[:2]),
        known,
        None if codes is None else Missing(codes, tuple(message["missing"])),
        message["stored"],
    )
