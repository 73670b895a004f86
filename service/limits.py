"""What is refused or ended whatever it asks for: what comes while the service ends."""

from starlette.types import ASGIApp, Receive, Scope, Send

from service.closing import Closing
from service.errors import ClientError, problem_of

# They are answered whatever happens: whoever watches the service has to know.
PROBES = ("/health", "/health/live", "/health/ready", "/metrics")


def is_probe(scope: Scope) -> bool:
    """Whether the request asks how the service is."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "")) in PROBES


class Stopping(ClientError):
    """What comes once the service has been told to stop."""

    status = 503

    def __init__(self) -> None:
        super().__init__("The service is stopping, and takes nothing new.")
        # Whatever starts it again takes a few seconds.
        self.headers = {"Retry-After": "5", "Connection": "close"}


class Limited:
    """ASGI middleware: passes on what is within the limits."""

    def __init__(self, app: ASGIApp, closing: Closing) -> None:
        self.app = app
        self.closing = closing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or have the application answer."""
        if scope["type"] != "http" or is_probe(scope):
            await self.app(scope, receive, send)
        elif self.closing.begun:
            await problem_of(Stopping())(scope, receive, send)
        else:
            with self.closing.work():
                await self.app(scope, receive, send)
