"""One client's connection: uvicorn's, with an end to what a client may owe us, or leave unread."""

import math
import sys
from asyncio import BaseTransport, TimerHandle, Transport
from http import HTTPStatus
from typing import Any, cast

import h11
from fastapi import FastAPI
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol

from service.problems import ProblemResponse
from service.settings import Settings
from service.telemetry.logs import log
from service.telemetry.metrics import Metrics

# Of a request's first line and headers, in bytes. h11's own limit counts only what has come when it looks.
HEAD_BYTES = 16 * 1024


class Configuration(Config):
    """uvicorn's configuration, and ours."""

    def __init__(self, app: FastAPI, settings: Settings, **others: Any) -> None:
        super().__init__(
            app,
            http=Connection,
            h11_max_incomplete_event_size=HEAD_BYTES,
            # Ours comes first, and counts what uvicorn's does not.
            timeout_keep_alive=math.ceil(settings.idle_seconds) + 1,
            **others,
        )
        self.settings = settings
        self.metrics: Metrics = app.state.metrics


class Connection(H11Protocol):
    """Told by uvicorn and by the event loop how the connection fares; keeps a clock for each of two waits.

    One runs while no request is being worked on: the client owes us one, the rest of its head, or what is left of
    a body that was answered before its end. The other runs while the client does not read what is written.
    """

    config: Configuration
    _owed: TimerHandle | None = None
    _unread: TimerHandle | None = None

    def connection_made(self, transport: BaseTransport) -> None:
        """Take it, unless there are so many that even to refuse them costs too much."""
        super().connection_made(cast(Transport, transport))
        settings = self.config.settings
        if len(self.connections) > 2 * settings.max_connections:
            self._abort("TooManyConnections")
        elif len(self.connections) > settings.max_connections:
            self.app_state = {**self.app_state, "full": True}
        # Whatever is written waits until what was written before has left: a buffer of one piece, and a clock
        # that runs whenever the client is behind.
        self.transport.set_write_buffer_limits(high=0)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clocks."""
        super().connection_lost(exc)
        self._forget()
        if self._unread:
            self._unread.cancel()

    def data_received(self, data: bytes) -> None:
        """Take it, a head in pieces: h11 would take one in whole, however long, that came at once."""
        if self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]:
            # A request begins.
            self._forget()
            self._patience = self.config.settings.download_seconds
        while data and not self.transport.is_closing():
            size = HEAD_BYTES if self.conn.their_state is h11.IDLE else len(data)
            piece, data = data[:size], data[size:]
            super().data_received(piece)
        self._expect()

    def on_response_complete(self) -> None:
        """Count from here on to the next request."""
        super().on_response_complete()
        self._forget()
        self._expect()

    def _expect(self) -> None:
        """Have the clock run, or not, for what the client owes."""
        if self.cycle and not self.cycle.response_complete:
            self._forget()
        elif not self._owed:
            self._owed = self.loop.call_later(self.config.settings.idle_seconds, self._overdue)

    def _forget(self) -> None:
        if self._owed:
            self._owed.cancel()
        self._owed = None

    def _overdue(self) -> None:
        if self.transport.is_closing():
            return
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            seconds = self.config.settings.idle_seconds
            self._refuse(408, "HeadTooSlow", f"The head of the request took more than {seconds:g} seconds.")
        else:
            self.transport.close()

    def pause_writing(self) -> None:
        """The client does not read as fast as we write."""
        super().pause_writing()
        self._behind = self.loop.time()
        self._unread = self.loop.call_later(self._patience, self._abort, "ReaderTooSlow")

    def resume_writing(self) -> None:
        """It has read all. What it took is taken from what it has, or it could dribble for ever."""
        super().resume_writing()
        if self._unread:
            self._unread.cancel()
            self._patience -= self.loop.time() - self._behind

    def send_400_response(self, msg: str) -> None:
        """Answer what is no request: called by uvicorn while it handles h11's error, which knows the status."""
        error = sys.exception()
        if isinstance(error, h11.RemoteProtocolError) and error.error_status_hint == 431:
            self._refuse(431, "HeadTooLarge", f"The head of the request has more than {HEAD_BYTES} bytes.")
        else:
            self._refuse(400, "NotHTTP", msg)

    def _refuse(self, status: int, kind: str, detail: str) -> None:
        self.config.metrics.errors.labels(kind).inc()
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            # An answer is on its way: there is no room for another.
            self.transport.close()
            return
        answer = ProblemResponse(status, detail, {"Connection": "close"})
        head = h11.Response(
            status_code=status, headers=answer.raw_headers, reason=HTTPStatus(status).phrase.encode()
        )
        for event in (head, h11.Data(data=bytes(answer.body)), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event))
        self.transport.close()

    def _abort(self, why: str) -> None:
        self.config.metrics.errors.labels(why).inc()
        log.warning("connection ended", error=why)
        self.transport.abort()
