"""Request log: gives every request an ID, counts it, and logs one line when it is done."""

import time
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars, clear_contextvars

from service.middleware.request_limits import is_probe
from service.telemetry.logs import log
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import RequestRecord, begin_request, request_id, start_span

# nginx's status for a client that disconnected before it had its answer.
CLIENT_CLOSED_REQUEST = 499
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
DIGEST_DIGITS = 12  # in the log


class RequestLog:
    """ASGI middleware. It must be the outermost one, to see the answers of all others."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the application answer, then log and count the request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        record = RequestRecord(request_id(headers.get("x-request-id")))
        span = start_span(headers.getlist("traceparent"))
        # An earlier request of the same connection may have left its values.
        clear_contextvars()
        bind_contextvars(request_id=record.request_id, trace_id=span.trace_id, span_id=span.span_id)
        if span.parent_id:
            bind_contextvars(parent_id=span.parent_id)
        begin_request(record)
        exchange = _Exchange(receive, send, record)
        try:
            await self.app(scope, exchange.receive, exchange.send)
        except Exception as error:
            # The framework answers with status 500 outside of this middleware. The server logs the traceback.
            record.error = type(error).__name__
            if not exchange.answered:
                exchange.status = 500
            raise
        finally:
            self._report(scope, record, exchange, log.debug if is_probe(scope) else log.info)

    def _report(
        self, scope: Scope, record: RequestRecord, exchange: "_Exchange", write: Callable[..., None]
    ) -> None:
        route = _route_template(scope)
        method = scope["method"] if scope["method"] in METHODS else "other"
        seconds = time.perf_counter() - exchange.start
        self.metrics.requests.labels(route, method, exchange.status).inc()
        self.metrics.request_seconds.labels(route).observe(seconds)
        if record.error:
            self.metrics.errors.labels(record.error).inc()
        if record.pixels:
            for stage, taken in exchange.seconds.items():
                self.metrics.stage_seconds.labels(stage, "").observe(taken)
        facts = {
            "pixels": record.pixels,
            "model": ",".join(record.models),
            "digest": ",".join(digest[:DIGEST_DIGITS] for digest in record.models.values()),
            "key": record.key,
            "error": record.error,
        }
        write(
            "request",
            method=method,
            route=route,
            status=exchange.status,
            seconds=round(seconds, 4),
            bytes_in=exchange.bytes_in,
            bytes_out=exchange.bytes_out,
            **{name: value for name, value in facts.items() if value},
        )


def _route_template(scope: Scope) -> str:
    """The template of the route. Never the path itself: a client can make up any number of paths."""
    if route := scope.get("route"):
        return str(route.path)
    return "files" if "endpoint" in scope else "none"


class _Exchange:
    """Measures the messages between server and application. seconds: to read the body, and to send the answer."""

    def __init__(self, receive: Receive, send: Send, record: RequestRecord) -> None:
        self._receive = receive
        self._send = send
        self._record = record
        self.start = time.perf_counter()
        self.status = CLIENT_CLOSED_REQUEST
        self.bytes_in = 0
        self.bytes_out = 0
        self.seconds: dict[str, float] = {}
        self.disconnected = False
        self.answered = False

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
            self.status = CLIENT_CLOSED_REQUEST if self.disconnected else message["status"]
            MutableHeaders(scope=message)["X-Request-ID"] = self._record.request_id
            self._send_start = time.perf_counter()
            await self._send(message)
            return
        self.bytes_out += len(message.get("body", b""))
        await self._send(message)
        self.seconds["send"] = time.perf_counter() - self._send_start
