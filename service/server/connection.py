"""HTTP connection: uvicorn's protocol, with time limits for clients that send or read too slowly."""

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

# Limit of a request's first line and headers. h11's own limit counts only what had arrived when it looks.
HEAD_BYTES = 16 * 1024


class ServerConfig(Config):
    """uvicorn's configuration, with the service's settings and metrics."""

    def __init__(self, app: FastAPI, settings: Settings, **others: Any) -> None:
        super().__init__(
            app,
            http=Connection,
            h11_max_incomplete_event_size=HEAD_BYTES,
            # Longer than the limit of Connection, which also counts an incomplete head. uvicorn's does not.
            timeout_keep_alive=math.ceil(settings.idle_seconds) + 1,
            **others,
        )
        self.settings = settings
        self.metrics: Metrics = app.state.metrics


class Connection(H11Protocol):
    """One client's connection, with two timers.

    The read timer runs while no request is being answered. The client must then send a request, complete its
    head, or send the rest of a body that was answered before its end.
    The write timer runs while the client does not read the answer.
    """

    config: ServerConfig
    _read_timer: TimerHandle | None = None
    _write_timer: TimerHandle | None = None

    def connection_made(self, transport: BaseTransport) -> None:
        """Accept the connection. Beyond twice the limit, close it: even a refusal would cost too much."""
        super().connection_made(cast(Transport, transport))
        settings = self.config.settings
        if len(self.connections) > 2 * settings.max_connections:
            self._abort("TooManyConnections")
        elif len(self.connections) > settings.max_connections:
            self.app_state = {**self.app_state, "too_many_connections": True}
        # A limit of 0 pauses writing until the client has taken the last piece. So only one piece is buffered,
        # and the write timer runs whenever the client is behind.
        self.transport.set_write_buffer_limits(high=0)
        self._update_read_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers."""
        super().connection_lost(exc)
        self._stop_read_timer()
        if self._write_timer:
            self._write_timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Pass data on. A head goes in pieces: h11 accepts a head of any length that comes at once."""
        if self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]:
            # A new request begins.
            self._stop_read_timer()
            self._write_seconds = self.config.settings.download_seconds
        while data and not self.transport.is_closing():
            size = HEAD_BYTES if self.conn.their_state is h11.IDLE else len(data)
            piece, data = data[:size], data[size:]
            super().data_received(piece)
        self._update_read_timer()

    def on_response_complete(self) -> None:
        """Start to wait for the next request."""
        super().on_response_complete()
        self._stop_read_timer()
        self._update_read_timer()

    def _update_read_timer(self) -> None:
        """Run the read timer if the client has to send something, else stop it."""
        if self.cycle and not self.cycle.response_complete:
            self._stop_read_timer()
        elif not self._read_timer:
            self._read_timer = self.loop.call_later(self.config.settings.idle_seconds, self._on_read_timeout)

    def _stop_read_timer(self) -> None:
        if self._read_timer:
            self._read_timer.cancel()
        self._read_timer = None

    def _on_read_timeout(self) -> None:
        if self.transport.is_closing():
            return
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            seconds = self.config.settings.idle_seconds
            self._refuse(408, "HeadTooSlow", f"The request head took longer than {seconds:g} seconds to arrive.")
        else:
            self.transport.close()

    def pause_writing(self) -> None:
        """The client reads more slowly than the service writes."""
        super().pause_writing()
        self._write_paused = self.loop.time()
        self._write_timer = self.loop.call_later(self._write_seconds, self._abort, "ReaderTooSlow")

    def resume_writing(self) -> None:
        """The client has caught up. All its pauses count together, or it could read a byte at a time for ever."""
        super().resume_writing()
        if self._write_timer:
            self._write_timer.cancel()
            self._write_seconds -= self.loop.time() - self._write_paused

    def send_400_response(self, msg: str) -> None:
        """Answer an invalid request. uvicorn calls this while it handles h11's error, which knows the status."""
        error = sys.exception()
        if isinstance(error, h11.RemoteProtocolError) and error.error_status_hint == 431:
            self._refuse(431, "HeadTooLarge", f"The request head has more than {HEAD_BYTES} bytes.")
        else:
            self._refuse(400, "NotHTTP", msg)

    def _refuse(self, status: int, kind: str, detail: str) -> None:
        self.config.metrics.errors.labels(kind).inc()
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            # An answer is being sent, so another one cannot follow.
            self.transport.close()
            return
        answer = ProblemResponse(status, detail, {"Connection": "close"})
        head = h11.Response(
            status_code=status, headers=answer.raw_headers, reason=HTTPStatus(status).phrase.encode()
        )
        for event in (head, h11.Data(data=bytes(answer.body)), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event))
        self.transport.close()

    def _abort(self, kind: str) -> None:
        self.config.metrics.errors.labels(kind).inc()
        log.warning("connection aborted", error=kind)
        self.transport.abort()
