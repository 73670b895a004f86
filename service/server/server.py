"""The server under the application: where it listens, how it ends."""

import asyncio
import gc
import math
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from types import FrameType

import uvicorn
from fastapi import FastAPI
from uvicorn.server import HANDLED_SIGNALS

from engine.layers import kernels
from service import version
from service.app import create_app
from service.auth.dependencies import refuse_unguarded
from service.runtime.shutdown import GracefulShutdown
from service.server.connection import Configuration
from service.settings import Settings, separate
from service.telemetry import logs
from service.telemetry.logs import log

# What was cut off at the end of the grace time has so long to notice it, in seconds: a window in the network is
# finished, and a file that is being decoded or encoded.
CUT_SECONDS = 10


def serve(settings: Settings, host: str, port: int) -> None:
    """Answer until told to stop by SIGTERM or Ctrl-C.

    Raises OSError if the address cannot be listened on, ValueError if DENOISE_KERNELS asks for kernels that do
    not run here, and what refuse_unguarded and create_app raise.
    """
    refuse_unguarded(host, settings)
    logs.configure(settings)
    with ExitStack() as stack:
        # Taken before the weights are loaded: who is refused it is told at once.
        sockets = [stack.enter_context(taken) for taken in bind(host, port)]
        _announce()
        server = Server(create_app(settings), settings)
        _answer_promptly()
        server.run(sockets)


def _announce() -> None:
    log.info("starting", version=version(), kernels=kernels.name())
    if missing := kernels.warning():
        log.warning(missing)


def _answer_promptly() -> None:
    """Have the event loop held up less by the threads that work on images; for the whole process."""
    # What is loaded now stays: looking for garbage among it stopped every thread for half a second.
    gc.collect()
    gc.freeze()
    # How long a thread may go on when another wants the interpreter, in seconds: each answer waits several times.
    sys.setswitchinterval(0.001)


def bind(host: str, port: int) -> Iterator[socket.socket]:
    """A socket for each address that the host's name stands for, that does not listen yet. Raises OSError."""
    for family, kind, protocol, _, address in socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    ):
        taken = socket.socket(family, kind, protocol)
        # Those that an earlier server left half closed do not count.
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            taken.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            taken.bind(address)
        except OSError as error:
            taken.close()
            raise OSError(f"cannot listen on {host}, port {port}: {error.strerror}") from error
        yield taken


class Server(uvicorn.Server):
    """uvicorn's, but for its end: it finishes what was accepted while it tells who asks that it takes no more."""

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        super().__init__(
            Configuration(
                app,
                settings,
                lifespan="on",
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                root_path=settings.root_path or "",
                # uvicorn's default believes whatever this machine sends: any program of it, and any proxy on it.
                proxy_headers=bool(settings.proxies),
                forwarded_allow_ips=separate(settings.proxies),
            )
        )
        self._closing: GracefulShutdown = app.state.closing
        self._grace = settings.grace_seconds

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say where."""
        await super().startup(sockets)
        for name in [taken.getsockname() for taken in sockets or []]:
            host = f"[{name[0]}]" if ":" in name[0] else name[0]
            log.info("listening", url=f"http://{host}:{name[1]}")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end. Another signal ends the process at once, as if nobody handled it."""
        # uvicorn's own would end by this signal in the end; to stop as told is to succeed.
        self._closing.begin()
        self.should_exit = True
        for each in HANDLED_SIGNALS:
            signal.signal(each, signal.SIG_DFL)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait for accepted work, listening all the while; cut off what takes longer than the grace time."""
        log.info("stopping", working=self._closing.working, grace_seconds=self._grace)
        self._closing.begin()
        end = time.monotonic() + self._grace
        try:
            async with asyncio.timeout(self._grace):
                await self._closing.idle()
        except TimeoutError:
            log.warning("cut off", working=self._closing.working)
            # To the work this looks as if its client had gone, which ends it at the next window.
            for connection in list(self.server_state.connections):
                connection.transport.abort()
            end = time.monotonic() + CUT_SECONDS
        # The last bytes of an answer may still be on their way.
        self.config.timeout_graceful_shutdown = max(1, math.ceil(end - time.monotonic()))
        await super().shutdown(sockets)
        log.info("stopped")
