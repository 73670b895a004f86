"""What is refused or ended whatever it asks for: what is too much, takes too long, or comes at the end."""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.problems import ProblemError, problem_of
from service.runtime.shutdown import GracefulShutdown

# They are answered whatever happens: whoever watches the service has to know.
PROBES = ("/health", "/health/live", "/health/ready", "/metrics")

# An answer leaves in pieces, in bytes: each is copied on its way, and the client reads one before the next is.
PIECE = 256 * 1024


def is_probe(scope: Scope) -> bool:
    """Whether the request asks how the service is."""
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
    """ASGI middleware: passes on what is within the limits."""

    def __init__(self, app: ASGIApp, closing: GracefulShutdown, upload_seconds: float) -> None:
        self.app = app
        self.closing = closing
        self.upload_seconds = upload_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or have the application answer."""
        if scope["type"] != "http" or is_probe(scope):
            await self.app(scope, receive, send)
        elif self.closing.begun:
            await problem_of(stopping_error())(scope, receive, send)
        elif scope.get("state", {}).get("full"):
            await problem_of(_too_many_connections())(scope, receive, send)
        else:
            with self.closing.work():
                await self.app(scope, self._timed(receive), _in_pieces(send))

    def _timed(self, receive: Receive) -> Receive:
        """The same messages. Raises UploadTooSlow unless the body's last has come in time."""
        end = asyncio.get_running_loop().time() + self.upload_seconds
        complete = False

        async def receive_in_time() -> Message:
            nonlocal complete
            try:
                async with asyncio.timeout_at(None if complete else end):
                    message = await receive()
            except TimeoutError:
                raise ProblemError(
                    f"The request body took longer than {self.upload_seconds:g} seconds to arrive.",
                    408,
                    {"Connection": "close"},
                    kind="UploadTooSlow",
                ) from None
            complete = complete or not message.get("more_body", False)
            return message

        return receive_in_time


def _in_pieces(send: Send) -> Send:
    """The same bytes, none of the messages large."""

    async def send_pieces(message: Message) -> None:
        body, sent = message.get("body", b""), 0
        while len(body) - sent > PIECE:
            piece = body[sent : sent + PIECE]
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            sent += PIECE
        await send({**message, "body": body[sent:]} if sent else message)

    return send_pieces
