"""Request limits: refuses requests while stopping or overloaded, and ends slow uploads."""

import asyncio

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.problems import ProblemError, limit_note, problem_of
from service.runtime.shutdown import GracefulShutdown

# These are always answered, also by a service that is stopping or overloaded.
PROBES = ("/health", "/health/live", "/health/ready", "/metrics")

# A response body is sent in pieces of this size: the server copies each piece, and sends the next one only
# after the client has read it.
PIECE_BYTES = 256 * 1024


def is_probe(scope: Scope) -> bool:
    """Whether the request is for health or metrics."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "")) in PROBES


def stopping_error() -> ProblemError:
    """The answer to new requests once the service is stopping."""
    # A supervisor takes a few seconds to start the next process.
    headers = {"Retry-After": "5", "Connection": "close"}
    return ProblemError("The service is stopping. It accepts no new requests.", 503, headers, kind="Stopping")


def _too_many_connections() -> ProblemError:
    headers = {"Retry-After": "1", "Connection": "close"}
    return ProblemError("The service has too many open connections.", 503, headers, kind="TooManyConnections")


class RequestLimits:
    """ASGI middleware: passes requests on if they are within the limits."""

    def __init__(self, app: ASGIApp, shutdown: GracefulShutdown, upload_seconds: float) -> None:
        self.app = app
        self.shutdown = shutdown
        self.upload_seconds = upload_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request, or let the application answer it."""
        if scope["type"] != "http" or is_probe(scope):
            await self.app(scope, receive, send)
        elif self.shutdown.begun:
            await problem_of(stopping_error())(scope, receive, send)
        elif scope.get("state", {}).get("too_many_connections"):
            await problem_of(_too_many_connections())(scope, receive, send)
        else:
            with self.shutdown.work():
                await self.app(
                    scope, self._limit_upload_time(receive), self._close_if_draining(_split_body(send))
                )

    def _close_if_draining(self, send: Send) -> Send:
        """Ends the connection after the answer while draining, so that its client connects to another replica."""

        async def send_closing(message: Message) -> None:
            if message["type"] == "http.response.start" and self.shutdown.draining:
                MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)

        return send_closing

    def _limit_upload_time(self, receive: Receive) -> Receive:
        """The same messages. Raises ProblemError with status 408 if the body is not complete in time."""
        end = asyncio.get_running_loop().time() + self.upload_seconds
        complete = False

        async def receive_in_time() -> Message:
            nonlocal complete
            try:
                async with asyncio.timeout_at(None if complete else end):
                    message = await receive()
            except TimeoutError:
                raise ProblemError(
                    f"The request body took longer than {self.upload_seconds:g} seconds to arrive. "
                    + limit_note("upload_seconds"),
                    408,
                    {"Connection": "close"},
                    kind="UploadTooSlow",
                ) from None
            complete = complete or not message.get("more_body", False)
            return message

        return receive_in_time


def _split_body(send: Send) -> Send:
    """Send the same bytes in small messages."""

    async def send_pieces(message: Message) -> None:
        body = message.get("body", b"")
        sent = 0
        while len(body) - sent > PIECE_BYTES:
            piece = body[sent : sent + PIECE_BYTES]
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            sent += PIECE_BYTES
        await send({**message, "body": body[sent:]} if sent else message)

    return send_pieces
