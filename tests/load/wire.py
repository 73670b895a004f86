"""HTTP/1.1 client that can be fast, slow, or leave before the end."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple, Self

# A slow client sends or reads this many bytes at a time, and then pauses for this many seconds.
SLOW_BYTES = 16 * 1024
SLOW_SECONDS = 0.02
BYTES = "application/octet-stream"


class Dropped(Exception):
    """The connection ended before the response did."""


class Answer(NamedTuple):
    """A response. headers: by name in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Connection:
    """A connection for one request after another, while it is open."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.open = True

    @classmethod
    async def to(cls, port: int, slow: bool = False) -> Self:
        """slow: with the smallest receive buffer that the system allows. Raises Dropped."""
        wire = socket.socket()
        wire.setblocking(False)
        if slow:
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_BYTES)
        try:
            await asyncio.get_running_loop().sock_connect(wire, ("127.0.0.1", port))
            return cls(*await asyncio.open_connection(sock=wire, limit=SLOW_BYTES if slow else 2**20))
        except OSError as error:
            wire.close()
            raise Dropped(str(error)) from error

    async def ask(
        self, head: str, body: bytes = b"", slow_up: bool = False, slow_down: bool = False, kind: str = BYTES
    ) -> Answer:
        """head: method and path; kind: the body's Content-Type. Raises Dropped."""
        try:
            await self.send(head, body, slow_up, kind=kind)
            return await self.read(slow_down)
        except (OSError, EOFError, ValueError) as error:
            raise Dropped(f"{type(error).__name__}: {error}") from error

    async def send(
        self, head: str, body: bytes = b"", slow: bool = False, claimed: int | None = None, kind: str = BYTES
    ) -> None:
        """claimed: the Content-Length, if it differs from the body's length. Raises OSError."""
        length = len(body) if claimed is None else claimed
        lines = (f"{head} HTTP/1.1", "host: 127.0.0.1", f"content-type: {kind}", f"content-length: {length}")
        self._writer.write("\r\n".join((*lines, "", "")).encode())
        size = SLOW_BYTES if slow else max(1, len(body))
        for at in range(0, len(body), size):
            self._writer.write(body[at : at + size])
            await self._writer.drain()
            if slow:
                await asyncio.sleep(SLOW_SECONDS)

    async def read(self, slow: bool = False) -> Answer:
        """Raises OSError, EOFError or ValueError if the connection ends early."""
        status, headers = await self.read_head()
        if headers.get("transfer-encoding") == "chunked":
            body = await self._chunks(slow)
        else:
            body = await self._bytes(int(headers.get("content-length", 0)), slow)
        if headers.get("connection", "").lower() == "close":
            self.close()
        return Answer(status, headers, body)

    async def read_head(self) -> tuple[int, dict[str, str]]:
        """Status and headers. Raises the same errors as read."""
        lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = (line.split(":", 1) for line in lines[1:] if line)
        return int(lines[0].split()[1]), {name.lower(): value.strip() for name, value in pairs}

    async def _bytes(self, count: int, slow: bool) -> bytes:
        if not slow:
            return await self._reader.readexactly(count)
        got = bytearray()
        while len(got) < count:
            got += await self._reader.readexactly(min(SLOW_BYTES, count - len(got)))
            await asyncio.sleep(SLOW_SECONDS)
        return bytes(got)

    async def _chunks(self, slow: bool) -> bytes:
        got = bytearray()
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            got += (await self._bytes(size + 2, slow))[:-2]
        await self._reader.readuntil(b"\r\n")
        return bytes(got)

    def close(self, abort: bool = False) -> None:
        """abort: reset the connection and throw away unsent data."""
        self.open = False
        if abort:
            self._writer.transport.abort()
        else:
            self._writer.close()


@asynccontextmanager
async def connected(port: int, slow: bool = False) -> AsyncIterator[Connection]:
    """A connection that is closed at the end. Raises Dropped."""
    connection = await Connection.to(port, slow)
    try:
        yield connection
    finally:
        connection.close()


async def ask(port: int, head: str, body: bytes = b"") -> Answer:
    """One request on a connection of its own. Raises Dropped."""
    async with connected(port) as connection:
        return await connection.ask(head, body)
