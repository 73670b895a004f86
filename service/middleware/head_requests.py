"""HEAD requests: answered like GET, without the body. Monitors send them."""

from anyio import CancelScope
from anyio.lowlevel import checkpoint
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class HeadRequests:
    """ASGI middleware: the application sees a GET, and ends once the head of the answer is sent."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application until the head is sent."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.start":
                # The server has to know that no body follows, whatever Content-Length says.
                scope["method"] = "HEAD"
                await send(message)
                return
            await send({"type": "http.response.body", "body": b""})
            # A result is not read from the disk for nothing, and events would never end.
            answering.cancel()
            await checkpoint()

        # Changed in place: the other middleware finds the route in this scope.
        scope["method"] = "GET"
        try:
            with CancelScope() as answering:
                await self.app(scope, receive, send_head)
        finally:
            scope["method"] = "HEAD"
