"""Fork server: a process with the codecs loaded that forks decoder workers from itself.

A fork takes milliseconds and shares most of its memory with the server. (The fork server of Python's
multiprocessing would run the caller's main module in each child.) A worker decodes one file after another. All
these processes end when the process that started the server does, however it ends. Linux only.
"""

import gc
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from engine.imageio.codecs.raw import RawMosaic
from engine.imageio.formats import (
    BrokenImage,
    ImageTooLarge,
    NotAnImage,
    NotCameraRaw,
    PageNotFound,
    TooManyPages,
    TooManyPixels,
    UnsupportedImage,
)
from engine.imageio.image import ImageInfo, ImageSequence
from engine.imageio.read import develop, load_codecs, read, read_info, read_mosaic
from engine.imageio.sandbox.messages import (
    NUMBER_BYTES,
    decode_number,
    decode_values,
    encode_image,
    encode_mosaic,
    encode_number,
    receive_request,
    send,
    socket_pair,
)
from engine.system.runtime import lower_priority, return_freed_memory

# How often a caller that waits for a worker looks whether to go on, in seconds.
TICK = 0.05
# How long the server may take to answer, in seconds: at first it loads the codecs.
START = 120.0
# Errors that a worker passes on, by their place here.
REFUSALS = (
    BrokenImage,
    PageNotFound,
    NotAnImage,
    ImageTooLarge,
    TooManyPixels,
    TooManyPages,
    UnsupportedImage,
    NotCameraRaw,
)


@dataclass(frozen=True)
class Worker:
    """A process that decodes, and the socket to it."""

    pid: int
    socket: socket.socket

    def is_idle(self) -> bool:
        """Whether it still runs, and has nothing to say."""
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        return not poll.poll(0)


def server_command(fd: int, setup: str = "") -> list[str]:
    """The command that runs a fork server, controlled by the socket `fd`. setup: as ForkServer."""
    code = f"import sys; sys.path[:] = sys.argv[2:]; {setup and f'exec({setup!r}); '}"
    return [sys.executable, "-c", f"{code}from {__name__} import run_server; run_server(int(sys.argv[1]))",
            str(fd), *sys.path]  # fmt: skip


class ForkServer:
    """Starts and ends workers. Only this process knows which of them still run, so only it may end them."""

    def __init__(self, setup: str = "") -> None:
        """setup: Python code that the process runs first, so that tests can give it codecs that crash."""
        self._setup = setup
        self._lock = Lock()
        self._closed = False
        self._launch()

    @property
    def pid(self) -> int:
        """Of the server's process."""
        return self._process.pid

    def start(self) -> Worker:
        """A new worker."""
        with self._lock:
            try:
                return self._fork()
            except OSError:
                if self._closed:
                    raise
                # Something else ended the server: the system does when memory is short.
                self._stop()
                self._launch()
                return self._fork()

    def end(self, worker: Worker) -> str:
        """Kills a worker unless it has ended. Returns how it ended."""
        worker.socket.close()
        with self._lock:
            try:
                code = os.waitstatus_to_exitcode(self._ask(worker.pid))
            except OSError:
                return "an unknown cause"
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"

    def close(self) -> None:
        """Ends the server and all workers."""
        with self._lock:
            self._closed = True
            self._stop()

    def _launch(self) -> None:
        self._control, theirs = socket_pair()
        with theirs:
            fd = theirs.fileno()
            self._process = subprocess.Popen(
                server_command(fd, self._setup),
                pass_fds=[fd],
                # A process group of its own, which can be killed as one and which Ctrl-C does not reach.
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                # Threads do not survive a fork.
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )
        self._control.settimeout(START)

    def _stop(self) -> None:
        self._control.close()
        # The system does not reuse the process's number before wait() is called, even if only workers are left.
        if self._process.returncode is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _fork(self) -> Worker:
        ours, theirs = socket_pair()
        with theirs:
            try:
                pid = self._ask(0, theirs)
            except BaseException:
                ours.close()
                raise
        ours.settimeout(TICK)
        return Worker(pid, ours)

    def _ask(self, pid: int, theirs: socket.socket | None = None) -> int:
        """With a socket: forks a worker that listens to it, and returns its pid. Else: kills a worker, and
        returns its exit status.
        """
        socket.send_fds(self._control, [encode_number(pid)], [theirs.fileno()] if theirs else [])
        if not (answer := self._control.recv(NUMBER_BYTES)):
            raise ConnectionResetError("the fork server has ended")
        return decode_number(answer)


# In the server's process and its workers


def run_server(fd: int) -> None:
    """Forks and kills workers as the parent asks, until the parent is gone. fd: the socket to the parent."""
    # Whoever stops the service may signal all its processes. Work in progress is finished; the parent decides.
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    lower_priority()
    return_freed_memory()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        load_codecs()
        # A collection in a worker would write to all objects, and so copy the memory shared with the server.
        gc.collect()
        gc.freeze()
        # A parent that is killed with an answer unread ends the connection by a reset.
        with socket.socket(fileno=fd) as parent, suppress(ConnectionError):
            _serve_parent(parent)
    except BaseException:
        traceback.print_exc()
    finally:
        os.killpg(0, signal.SIGKILL)


def _serve_parent(parent: socket.socket) -> None:
    workers = set()
    while True:
        number, fds, _, _ = socket.recv_fds(parent, NUMBER_BYTES, 1)
        if not number:
            return
        if fds:
            answer = _fork_worker(fds[0], parent)
            workers.add(answer)
        else:
            pid = decode_number(number)
            answer = 0
            # A worker of an earlier server is not this one's to kill.
            if pid in workers:
                workers.remove(pid)
                os.kill(pid, signal.SIGKILL)
                answer = os.waitpid(pid, 0)[1]
        parent.send(encode_number(answer))


def _fork_worker(fd: int, parent: socket.socket) -> int:
    """Forks a worker that listens to the socket `fd`. Returns its pid."""
    pid = os.fork()
    if pid:
        os.close(fd)
        return pid
    try:
        parent.close()
        # If memory is short, the system should end this process rather than the service.
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")
        # Codecs write warnings about files to descriptor 2; only Python's own errors are kept.
        sys.stderr = os.fdopen(os.dup(2), "w")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        _decode_files(socket.socket(fileno=fd))
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def _decode_files(parent: socket.socket) -> None:
    """Decodes one file after another, until the parent is gone."""
    with suppress(EOFError, ConnectionError):
        while True:
            request, parts, file = receive_request(parent)
            with os.fdopen(file.fd, "rb"):
                data = file.read()
            _decode_file(parent, request, parts, data)


def _decode_file(
    parent: socket.socket, request: dict[str, Any], parts: list[memoryview | None], data: bytes
) -> None:
    _limit_memory(request["memory"])
    options = request["options"]
    decoded: ImageSequence | ImageInfo | RawMosaic | None
    try:
        match request["work"]:
            case "info":
                decoded = read_info(data, **options)
            case "mosaic":
                decoded = read_mosaic(data, **options)
            case "develop":
                decoded = develop(data, decode_values(request["shape"], parts), **options)
            case _:
                decoded = read(data, **options)
    except MemoryError:
        _limit_memory(None)
        send(parent, {"type": "memory"})
    except REFUSALS as error:
        _limit_memory(None)
        send(parent, {"type": "refusal", "error": REFUSALS.index(type(error)), "text": str(error)})
    else:
        _limit_memory(None)
        _send_decoded(parent, decoded)


def _limit_memory(more: int | None) -> None:
    """Let this process take `more` bytes beyond what it has now, or without a limit of ours if `more` is None.

    Memory given to the parent does not count.
    """
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    soft = hard
    if more is not None:
        pages = int(Path("/proc/self/statm").read_text().split()[5])
        soft = pages * resource.getpagesize() + more
        soft = soft if hard == resource.RLIM_INFINITY else min(soft, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _send_decoded(parent: socket.socket, decoded: ImageSequence | ImageInfo | RawMosaic | None) -> None:
    if decoded is None:
        send(parent, {"type": "no mosaic"})
        return
    if isinstance(decoded, RawMosaic):
        message, parts = encode_mosaic(decoded)
        send(parent, {"type": "mosaic", **message}, parts)
        return
    # Only with all its bytes are some camera raw files told from TIFF.
    kind = {"kind": decoded.kind.name}
    if isinstance(decoded, ImageInfo):
        about = {"pixels": decoded.pixels, "depth": decoded.depth, "pages": decoded.pages}
        send(parent, {"type": "info", **kind, **about})
        return
    for page in decoded.pages:
        message, parts = encode_image(page)
        send(parent, {"type": "page", **message}, parts)
    rest = {**kind, "durations": decoded.durations, "plays": decoded.plays, "changed": decoded.changed}
    send(parent, {"type": "end", **rest})
