"""What answers tell browsers: to guess nothing, to pass nothing on, and which other pages may read them."""

from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.problems import SECURITY_HEADERS
from service.settings import Settings, separate


class SecurityHeaders:
    """Adds them to every answer that does not say otherwise."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""

        async def send_safe(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, send_safe)


def allow_origins(app: FastAPI, settings: Settings) -> None:
    """Let pages of the origins that are named read what is answered. Without any, browsers let no other page."""
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=separate(settings.cors_origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=["*"],
        )
