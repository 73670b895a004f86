"""Request bodies: counted as they arrive, and unpacked if they are compressed."""

import asyncio
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fastapi import Request
from starlette.types import Message, Receive

from service.problems import LimitExceeded, ProblemError
from service.settings import Settings

# A compressed body is unpacked in pieces of this size: a small one may unpack to gigabytes.
PIECE_BYTES = 256 * 1024
# A gzip file may consist of several. Programs that write many make them of 64 KB.
MAX_GZIP_MEMBERS = 10_000
GZIP = "gzip"
DEFLATE = "deflate"
# The names that a Content-Encoding header may have. Source: RFC 9110, section 8.4.1.
CODINGS = {"": None, "identity": None, GZIP: GZIP, "x-gzip": GZIP, DEFLATE: DEFLATE}
# What zlib is told about the beginning of the data.
GZIP_HEADER = 16 + zlib.MAX_WBITS
ZLIB_HEADER = zlib.MAX_WBITS
NO_HEADER = -zlib.MAX_WBITS


class BodyTooLarge(LimitExceeded):
    """More bytes than the limit."""


class BrokenBody(ProblemError):
    """A compressed body that cannot be unpacked."""


class UnsupportedCoding(ProblemError):
    """A body that is compressed in a way that is not supported."""

    status = 415
    headers: Mapping[str, str] = {"Accept-Encoding": f"{GZIP}, {DEFLATE}"}


@dataclass(frozen=True)
class BodyLimit:
    """The most bytes that a body may have, and the field of Settings that says so."""

    size: int
    setting: str

    @classmethod
    def of(cls, settings: Settings, setting: str) -> "BodyLimit":
        """The limit in a field of the settings."""
        return cls(getattr(settings, setting), setting)

    def check(self, size: int, least: str = "") -> None:
        """Raises BodyTooLarge for a size beyond the limit. least: "at least " if it may become larger."""
        if size > self.size:
            raise BodyTooLarge(
                f"The body has {least}{size} bytes; at most {self.size} are allowed.", self.setting
            )


def announced(request: Request, limit: BodyLimit) -> int:
    """The body's size by its headers, in bytes; 0 if they do not say.

    The size of a compressed body says little about its size once it is unpacked.
    Raises BodyTooLarge or UnsupportedCoding.
    """
    coding = _coding(request)
    header = request.headers.get("content-length", "")
    size = int(header) if header.isdecimal() else 0
    limit.check(size)
    return 0 if coding else size


def counted(request: Request, limit: BodyLimit, arrived: Callable[[int], None] = lambda more: None) -> Request:
    """The same request. Reading its body raises BodyTooLarge at the first chunk beyond the limit.

    A compressed body is unpacked. The limit holds before and after that.
    arrived: called with the number of bytes of each chunk, unpacked; what it raises ends the upload.
    Raises BodyTooLarge at once if the headers announce more, UnsupportedCoding, and BrokenBody while it is read.
    """
    announced(request, limit)
    receive = request.receive
    if coding := _coding(request):
        receive = _unpacked(_counted(receive, limit, lambda more: None), _Unpacker(coding))
    return Request(request.scope, _counted(receive, limit, arrived))


def _coding(request: Request) -> str | None:
    """How the body is compressed, if it is."""
    header = request.headers.get("content-encoding", "")
    name = header.strip().lower()
    if name not in CODINGS:
        raise UnsupportedCoding(
            f"The body's Content-Encoding is {header[:200]!r}. Supported are {GZIP}, {DEFLATE} and none."
        )
    return CODINGS[name]


def _counted(receive: Receive, limit: BodyLimit, arrived: Callable[[int], None]) -> Receive:
    received = 0

    async def receive_and_count() -> Message:
        nonlocal received
        message = await receive()
        more = len(message.get("body", b""))
        received += more
        limit.check(received, "at least ")
        arrived(more)
        return message

    return receive_and_count


def _unpacked(receive: Receive, unpacker: "_Unpacker") -> Receive:
    """The same messages with unpacked bodies, none of more than PIECE_BYTES."""
    complete = False

    async def receive_and_unpack() -> Message:
        nonlocal complete
        while not (piece := unpacker.next_piece()):
            if complete:
                unpacker.finish()
                return {"type": "http.request", "body": b"", "more_body": False}
            message = await receive()
            if message["type"] != "http.request":
                return message
            unpacker.feed(message.get("body", b""))
            complete = not message.get("more_body", False)
        # Others get their turn: a bomb keeps this loop busy without a wait for the network.
        await asyncio.sleep(0)
        return {"type": "http.request", "body": piece, "more_body": True}

    return receive_and_unpack


class _Unpacker:
    """Unpacks a compressed body, piece by piece."""

    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._packed = b""
        # zlib's object for the gzip member, or the deflate stream, that has begun and not ended.
        self._stream: zlib._Decompress | None = None
        self._ended = 0

    def feed(self, data: bytes) -> None:
        """Adds compressed bytes. Call `next_piece` until it returns none before more are added."""
        self._packed += data

    def next_piece(self) -> bytes:
        """The next bytes, at most PIECE_BYTES; none if that takes more compressed ones. Raises BrokenBody."""
        piece = b""
        while not piece and self._begin():
            assert self._stream is not None
            try:
                piece = self._stream.decompress(self._packed, PIECE_BYTES)
            except zlib.error as error:
                raise self._broken(str(error)) from error
            self._packed = self._stream.unconsumed_tail
            if self._stream.eof:
                self._packed = self._stream.unused_data
                self._stream = None
                self._ended += 1
            elif not piece:
                break
        return piece

    def finish(self) -> None:
        """Raises BrokenBody if the end of the data has not come."""
        if self._stream or not self._ended:
            raise self._broken("it is cut short")

    def _begin(self) -> bool:
        """Begins a stream, unless one has begun. Returns False if that takes more bytes."""
        if self._stream:
            return True
        if self._ended and self._packed and (self._coding == DEFLATE or self._ended == MAX_GZIP_MEMBERS):
            raise self._broken("other data follows its end")
        if len(self._packed) < (2 if self._coding == DEFLATE else 1):
            return False
        self._stream = zlib.decompressobj(self._header())
        return True

    def _header(self) -> int:
        if self._coding == GZIP:
            return GZIP_HEADER
        # "deflate" means zlib's format, but some programs send the data without its header. The two bytes of the
        # header are a multiple of 31. Source: RFC 1950, section 2.2, and RFC 9110, section 8.4.1.2.
        has_header = self._packed[0] & 0x0F == zlib.DEFLATED and int.from_bytes(self._packed[:2]) % 31 == 0
        return ZLIB_HEADER if has_header else NO_HEADER

    def _broken(self, fault: str) -> BrokenBody:
        return BrokenBody(f"The body cannot be unpacked as {self._coding}, its Content-Encoding: {fault}.")
