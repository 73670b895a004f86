"""Every request is seen: it gets an id, is counted, and has a line in the log when it is done."""

import time
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars, clear_contextvars

from service.middleware.request_limits import is_probe
from service.telemetry.logs import log
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import Record, begin, request_id, span

# Where the client went away before it had its answer: nobody was told a status. nginx calls it so.
GONE = 499
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
DIGITS = 12  # of a digest, in the log


class RequestLog:
    """ASGI middleware, around all others."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Have it answered, and tell of it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        record = Record(request_id(headers.get("x-request-id")))
        part = span(headers.getlist("traceparent"))
        # What an earlier request of the connection left.
        clear_contextvars()
        bind_contextvars(request_id=record.request_id, trace_id=part.trace_id, span_id=part.span_id)
        if part.parent_id:
            bind_contextvars(parent_id=part.parent_id)
        begin(record)
        probe = is_probe(scope)
        passing = _Passing(receive, send, record)
        try:
            await self.app(scope, passing.receive, passing.send)
        except Exception as error:
            # The framework answers with this status around us; the server logs it with its traceback.
            record.error = type(error).__name__
            if not passing.answered:
                passing.status = 500
            raise
        finally:
            self._tell(scope, record, passing, log.debug if probe else log.info)

    def _tell(self, scope: Scope, record: Record, passing: "_Passing", say: Callable[..., None]) -> None:
        route, method = _template(scope), scope["method"] if scope["method"] in METHODS else "other"
        seconds = time.perf_counter() - passing.start
        self.metrics.requests.labels(route, method, passing.status).inc()
        self.metrics.request_seconds.labels(route).observe(seconds)
        if record.error:
            self.metrics.errors.labels(record.error).inc()
        if record.pixels:
            for stage, taken in passing.seconds.items():
                self.metrics.stage_seconds.labels(stage, "").observe(taken)
        facts = {
            "pixels": record.pixels,
            "model": ",".join(record.models),
            "digest": ",".join(digest[:DIGITS] for digest in record.models.values()),
            "key": record.key,
            "error": record.error,
        }
        say(
            "request",
            method=method,
            route=route,
            status=passing.status,
            seconds=round(seconds, 4),
            bytes_in=passing.bytes_in,
            bytes_out=passing.bytes_out,
            **{name: value for name, value in facts.items() if value},
        )


def _template(scope: Scope) -> str:
    """The route that was taken, with names for what varies in it; a path that leads nowhere may be any text."""
    if route := scope.get("route"):
        return str(route.path)
    return "files" if "endpoint" in scope else "none"


class _Passing:
    """What passes between the server and the application. seconds: of reading the body, and of sending."""

    def __init__(self, receive: Receive, send: Send, record: Record) -> None:
        self._receive, self._send, self._record = receive, send, record
        self.start = time.perf_counter()
        self.status = GONE
        self.bytes_in = self.bytes_out = 0
        self.seconds: dict[str, float] = {}
        self.disconnected = self.answered = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.disconnected = True
        else:
            self.bytes_in += len(message.get("body", b""))
            if not message.get("more_body", False):
                self.seconds["read"] = time.perf_counter() - self.start
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.answered = True
            self.status = GONE if self.disconnected else message["status"]
            MutableHeaders(scope=message)["X-Request-ID"] = self._record.request_id
            self._began = time.perf_counter()
            await self._send(message)
            return
        self.bytes_out += len(message.get("body", b""))
        await self._send(message)
        self.seconds["send"] = time.perf_counter() - self._began
