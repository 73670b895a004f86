"""HTTP server: binds its sockets, runs the application, and shuts down gracefully."""

import asyncio
import errno
import gc
import math
import os
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
from service.auth.dependencies import refuse_unprotected
from service.runtime.shutdown import GracefulShutdown
from service.server.connection import ServerConfig
from service.settings import Settings, split_list, unknown_variables
from service.storage.away import StorageAway
from service.telemetry import logs
from service.telemetry.logs import log

# Aborted requests end within this time, in seconds. Each finishes its current tile in the network, or the file
# that it is decoding or encoding.
ABORT_SECONDS = 10


def serve(settings: Settings, host: str, port: int) -> None:
    """Run the service until SIGTERM or Ctrl-C.

    Raises OSError if it cannot listen on the address, ValueError if DENOISE_KERNELS names kernels that do not run
    on this machine, and the errors of refuse_unprotected and create_app.
    """
    refuse_unprotected(host, settings)
    logs.configure(settings)
    with ExitStack() as stack:
        # Before the weights are loaded, so that an address in use is reported at once.
        sockets = [stack.enter_context(each) for each in bind(host, port)]
        _log_start()
        try:
            server = Server(create_app(settings), settings)
        except StorageAway as error:
            raise ValueError(str(error)) from error
        _reduce_latency()
        server.run(sockets)


def _log_start() -> None:
    log.info("starting", version=version(), kernels=kernels.name())
    if missing := kernels.warning():
        log.warning(missing)
    for unknown in unknown_variables(os.environ):
        log.warning(unknown)


def _reduce_latency() -> None:
    """Reduce the time that the event loop waits for threads that work on images, for the whole process."""
    # Exempt everything loaded so far from garbage collection, which stopped all threads for half a second.
    gc.collect()
    gc.freeze()
    # The longest time, in seconds, that a thread keeps the interpreter when another waits. An answer waits for it
    # several times. Python's default is 0.005.
    sys.setswitchinterval(0.001)


def bind(host: str, port: int) -> Iterator[socket.socket]:
    """Bind a socket to each address of the host. Raises OSError."""
    for family, kind, protocol, _, address in socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    ):
        bound = socket.socket(family, kind, protocol)
        # Connections that an earlier server left half closed must not block the port.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            bound.bind(address)
        except OSError as error:
            bound.close()
            hint = "; choose another one with --port" if error.errno == errno.EADDRINUSE else ""
            raise OSError(f"cannot listen on {host}, port {port}: {error.strerror}{hint}") from error
        yield bound


class Server(uvicorn.Server):
    """uvicorn's server with a graceful shutdown: it finishes accepted requests and refuses new ones meanwhile."""

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        super().__init__(
            ServerConfig(
                app,
                settings,
                lifespan="on",
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                root_path=settings.root_path or "",
                # uvicorn would trust these headers from any program on this machine.
                proxy_headers=bool(settings.proxies),
                forwarded_allow_ips=split_list(settings.proxies),
            )
        )
        self._graceful: GracefulShutdown = app.state.shutdown
        self._drain_seconds = settings.drain_seconds
        self._grace_seconds = settings.grace_seconds

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and log the addresses."""
        await super().startup(sockets)
        for address, port, *_ in [each.getsockname() for each in sockets or []]:
            host = f"[{address}]" if ":" in address else address
            log.info("listening", url=f"http://{host}:{port}")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to shut down. A second signal ends the process at once, as without a handler."""
        # uvicorn's handler would end the process by this signal. A requested stop must exit with code 0.
        self._graceful.drain()
        self.should_exit = True
        for each in HANDLED_SIGNALS:
            signal.signal(each, signal.SIG_DFL)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept requests for the drain time, then only finish the accepted ones.

        The sockets listen until the end. Requests that take longer than the grace time are aborted.
        """
        if self._drain_seconds:
            log.info("draining", working=self._graceful.working, drain_seconds=self._drain_seconds)
            await asyncio.sleep(self._drain_seconds)
        log.info("stopping", working=self._graceful.working, grace_seconds=self._grace_seconds)
        self._graceful.begin()
        end = time.monotonic() + self._grace_seconds
        try:
            async with asyncio.timeout(self._grace_seconds):
                await self._graceful.idle()
        except TimeoutError:
            log.warning("requests aborted", working=self._graceful.working)
            # A request whose connection is aborted ends at its next tile, as if its client had gone.
            for connection in list(self.server_state.connections):
                connection.transport.abort()
            end = time.monotonic() + ABORT_SECONDS
        # The last bytes of an answer may not be sent yet.
        self.config.timeout_graceful_shutdown = max(1, math.ceil(end - time.monotonic()))
        await super().shutdown(sockets)
        log.info("stopped")
