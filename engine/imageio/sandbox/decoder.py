"""Decoding in processes apart: a file that hangs a codec, crashes it or eats memory takes nothing else along.

One process, the nursery, has the codecs loaded and forks workers from itself, within milliseconds and with most
of their memory in common. (The fork server of Python's multiprocessing would run the caller's main module in
each.) A worker decodes one file after another, and is killed when one takes too much. All of them end when the
process that has the Decoder does, however that happens.

What one process gives to another lies in memory that both map, and is numbers, text and samples: nothing that
comes from a worker is run, and nothing of it changes once it is given. For Linux only.
"""

import fcntl
import gc
import json
import mmap
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Self

import torch

from engine.defaults import DECODE_MEMORY, DECODE_SECONDS, MAX_PAGES
from engine.imageio.formats import (
    BrokenImage,
    Format,
    ImageTooLarge,
    NotAnImage,
    PageNotFound,
    UnsupportedImage,
    detect_format,
)
from engine.imageio.image import Image, ImageInfo, ImageSequence
from engine.imageio.metadata import Metadata
from engine.imageio.read import load_codecs, read, read_info
from engine.system.runtime import lower_priority, return_freed_memory

# Workers that are kept for the next files.
IDLE = 4
# In which it is looked whether a file is still wanted, and in which a nursery has to answer, in seconds.
TICK, START = 0.05, 120.0
if sys.platform == "linux":
    _SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
# Where parts begin, so that any type of number may lie there.
_ALIGN = 64
_TYPES = {str(dtype): dtype for dtype in (torch.uint8, torch.uint16, torch.float32)}
_REFUSALS = (BrokenImage, PageNotFound, NotAnImage, ImageTooLarge, UnsupportedImage)
_NURSERY = f"import sys; sys.path[:] = sys.argv[2:]; from {__name__} import nurse; nurse(int(sys.argv[1]))"

# Bytes that lie beside the words; None where there are none.
Part = bytes | memoryview | None


class TooSlowToDecode(ValueError):
    """A file that takes longer than it is given."""


class TooLargeToDecode(ImageTooLarge):
    """A file that takes more memory than it is given."""


class Crashed(BrokenImage):
    """A file that ends the process that decodes it."""


def require_linux() -> None:
    """Raises OSError where there is no other way to decode apart than the one that is taken here."""
    if sys.platform != "linux":
        raise OSError("images are decoded in processes apart, in a way that only Linux has")


class Decoder:
    """Reads image files in processes apart, as many at once as are asked for. To be closed in the end.

    seconds, memory: what one file may take; the latter in bytes, beside what the process has anyway.
    """

    def __init__(self, seconds: float = DECODE_SECONDS, memory: int = DECODE_MEMORY) -> None:
        """Returns at once; the first file waits until the codecs are loaded. Raises OSError."""
        self.seconds, self.memory = seconds, memory
        self._nursery = ForkServer()
        self._idle: list[_Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Ends all processes."""
        while self._idle:
            self._nursery.end(self._idle.pop())
        self._nursery.close()

    def read(
        self,
        data: bytes,
        max_pixels: int | None = None,
        max_pages: int = MAX_PAGES,
        page: int | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> ImageSequence:
        """As images.read. check: called again and again meanwhile; what it raises ends the decoding.

        Raises what images.read does, TooSlowToDecode, TooLargeToDecode and Crashed; all are ValueErrors.
        """
        made = self._made(data, {"max_pixels": max_pixels, "max_pages": max_pages, "page": page}, False, check)
        assert isinstance(made, ImageSequence)
        return made

    def read_info(
        self, data: bytes, max_pixels: int | None = None, max_pages: int = MAX_PAGES, page: int | None = None
    ) -> ImageInfo:
        """As images.read_info. Raises as `read` does."""
        made = self._made(data, {"max_pixels": max_pixels, "max_pages": max_pages, "page": page}, True)
        assert isinstance(made, ImageInfo)
        return made

    def _made(
        self, data: bytes, wishes: dict[str, Any], outlined: bool, check: Callable[[], None] = lambda: None
    ) -> ImageSequence | ImageInfo:
        kind = detect_format(data)
        worker = self._worker()
        try:
            told = {"outlined": outlined, "memory": self.memory, "wishes": wishes}
            made = self._ask(worker, kind, data, told, check)
        except BaseException as error:
            how = self._nursery.end(worker)
            if isinstance(error, EOFError | ConnectionError):
                raise Crashed(f"The {kind.title} file is broken: decoding it ended by {how}.") from error
            raise
        if len(self._idle) < IDLE:
            self._idle.append(worker)
        else:
            self._nursery.end(worker)
        if isinstance(made, ValueError):
            raise made
        return made

    def _worker(self) -> "_Worker":
        while True:
            try:
                worker = self._idle.pop()
            except IndexError:
                return self._nursery.start()
            if worker.waits():
                return worker
            self._nursery.end(worker)

    def _ask(
        self, worker: "_Worker", kind: Format, data: bytes, told: dict[str, Any], check: Callable[[], None]
    ) -> ImageSequence | ImageInfo | ValueError:
        """What is in the file, or why it is refused."""
        end = time.monotonic() + self.seconds
        _send(worker.socket, told, [data])
        pages = []
        while True:
            told, parts = self._answer(worker, kind, end, check)
            match told.pop("what"):
                case "page":
                    pages.append(_image(parts, **told))
                case "end":
                    durations, changed = told["durations"], tuple(told["changed"])
                    return ImageSequence(
                        kind, tuple(pages), durations and tuple(durations), told["plays"], changed
                    )
                case "read_info":
                    return ImageInfo(kind, **told)
                case "refusal":
                    return _REFUSALS[told["kind"]](told["words"])
                case "memory":
                    most = f"{self.memory} bytes of memory, which is what one may take"
                    raise TooLargeToDecode(f"The {kind.title} file was not decoded within {most}.")

    def _answer(
        self, worker: "_Worker", kind: Format, end: float, check: Callable[[], None]
    ) -> tuple[dict[str, Any], list[memoryview | None]]:
        while time.monotonic() < end:
            check()
            with suppress(TimeoutError):
                return _receive(worker.socket, self.memory)
        most = f"{self.seconds:g} seconds, which is what one may take"
        raise TooSlowToDecode(f"The {kind.title} file was not decoded within {most}.")


@dataclass(frozen=True)
class _Worker:
    """A process that decodes, and the way to it."""

    pid: int
    socket: socket.socket

    def waits(self) -> bool:
        """Whether it does, and has not been ended by something else."""
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        return not poll.poll(0)


class ForkServer:
    """The process from which workers come, which alone may end them: it knows which of them there still are."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._closed = False
        self._launch()

    def start(self) -> _Worker:
        """A new worker."""
        with self._lock:
            try:
                return self._fork()
            except OSError:
                if self._closed:
                    raise
                # Something else has ended the nursery: the system, if it was short of memory.
                self._stop()
                self._launch()
                return self._fork()

    def end(self, worker: _Worker) -> str:
        """Kill a worker, if it has not ended; gives how it did."""
        worker.socket.close()
        with self._lock:
            try:
                code = os.waitstatus_to_exitcode(self._order(worker.pid))
            except OSError:
                return "something unknown"
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"

    def close(self) -> None:
        """End it and all workers."""
        with self._lock:
            self._closed = True
            self._stop()

    def _launch(self) -> None:
        self._control, theirs = _pair()
        with theirs:
            fd = theirs.fileno()
            self._process = subprocess.Popen(
                [sys.executable, "-c", _NURSERY, str(fd), *sys.path],
                pass_fds=[fd],
                # A group, to be ended as one; and one that a terminal's Ctrl-C does not reach.
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                # Threads of their own do not survive a fork.
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )
        self._control.settimeout(START)

    def _stop(self) -> None:
        self._control.close()
        # Until it is waited for, its number is its own, even if it has ended and only workers are left.
        if self._process.returncode is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _fork(self) -> _Worker:
        ours, theirs = _pair()
        with theirs:
            try:
                pid = self._order(0, theirs)
            except BaseException:
                ours.close()
                raise
        ours.settimeout(TICK)
        return _Worker(pid, ours)

    def _order(self, pid: int, theirs: socket.socket | None = None) -> int:
        """Have a worker made that listens to `theirs`: its process's number. Or one ended: its status."""
        socket.send_fds(self._control, [_word(pid)], [theirs.fileno()] if theirs else [])
        if not (answer := self._control.recv(8)):
            raise ConnectionResetError("the nursery has ended")
        return int.from_bytes(answer, "little")


# In the nursery and its workers


def nurse(fd: int) -> None:
    """Fork workers, and end them, as the parent at the other end of the socket asks; until it is gone."""
    # Whoever stops a service may tell so every process of it. What is begun is decoded, and the parent says when.
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    lower_priority()
    return_freed_memory()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        load_codecs()
        # To look for garbage would write to all memory, of which workers then had copies.
        gc.collect()
        gc.freeze()
        # A parent that is killed before it has read the last answer ends as a reset.
        with socket.socket(fileno=fd) as parent, suppress(ConnectionError):
            _obey(parent)
    except BaseException:
        traceback.print_exc()
    finally:
        os.killpg(0, signal.SIGKILL)


def _obey(parent: socket.socket) -> None:
    workers = set()
    while True:
        word, fds, _, _ = socket.recv_fds(parent, 8, 1)
        if not word:
            return
        if fds:
            answer = _forked(fds[0], parent)
            workers.add(answer)
        else:
            pid = int.from_bytes(word, "little")
            answer = 0
            # One of an earlier nursery is none of this.
            if pid in workers:
                workers.remove(pid)
                os.kill(pid, signal.SIGKILL)
                answer = os.waitpid(pid, 0)[1]
        parent.send(_word(answer))


def _forked(fd: int, parent: socket.socket) -> int:
    """The number of a new worker, which listens to the socket."""
    pid = os.fork()
    if pid:
        os.close(fd)
        return pid
    try:
        parent.close()
        # If memory is short, the system is to end this, and not the service.
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")
        # Codecs write there what they find odd in a file; what goes wrong with us is still told.
        sys.stderr = os.fdopen(os.dup(2), "w")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        _work(socket.socket(fileno=fd))
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def _work(parent: socket.socket) -> None:
    """Decode one file after another, until the parent is gone."""
    with suppress(EOFError, ConnectionError):
        while True:
            told, parts = _receive(parent)
            data = bytes(parts.pop() or b"")
            _allow(told["memory"])
            try:
                made = (read_info if told["outlined"] else read)(data, **told["wishes"])
            except MemoryError:
                _allow(None)
                _send(parent, {"what": "memory"})
            except _REFUSALS as error:
                _allow(None)
                _send(parent, {"what": "refusal", "kind": _REFUSALS.index(type(error)), "words": str(error)})
            else:
                _allow(None)
                del data
                _send_made(parent, made)
                del made


def _allow(memory: int | None) -> None:
    """So many bytes more than there are now. Memory that is given to the parent does not count."""
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    soft = hard
    if memory is not None:
        pages = int(Path("/proc/self/statm").read_text().split()[5])
        soft = pages * resource.getpagesize() + memory
        soft = soft if hard == resource.RLIM_INFINITY else min(soft, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _send_made(parent: socket.socket, made: ImageSequence | ImageInfo) -> None:
    if isinstance(made, ImageInfo):
        _send(parent, {"what": "read_info", "pixels": made.pixels, "depth": made.depth})
        return
    for page in made.pages:
        _send(parent, *_described(page))
    told = {"durations": made.durations, "plays": made.plays, "changed": made.changed}
    _send(parent, {"what": "end", **told})


# Between them


def _described(page: Image) -> tuple[dict[str, Any], list[Part]]:
    """Words and numbers, and what lies beside them. `_image` undoes it."""
    known = page.metadata
    told = {
        "what": "page",
        "shape": page.samples.shape,
        "dtype": str(page.samples.dtype),
        "resolution": known.resolution,
        "lost": known.lost,
    }
    alpha = None if page.alpha is None else page.alpha.numpy().data
    return told, [page.samples.numpy().data, alpha, known.icc_profile, known.exif, known.xmp, known.chunks]


def _image(
    parts: list[memoryview | None],
    shape: list[int],
    dtype: str,
    resolution: list[float] | None,
    lost: list[str],
) -> Image:
    samples, alpha = (part if part is None else torch.frombuffer(part, dtype=_TYPES[dtype]) for part in parts[:2])
    assert samples is not None
    icc, exif, xmp, chunks = (part if part is None else bytes(part) for part in parts[2:])
    known = Metadata(
        icc, exif, xmp, (resolution[0], resolution[1]) if resolution else None, chunks or b"", tuple(lost)
    )
    return Image(samples.view(shape), None if alpha is None else alpha.view(shape[:2]), known)


def _pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def _word(number: int) -> bytes:
    return number.to_bytes(8, "little")


def _send(to: socket.socket, told: dict[str, Any], parts: Sequence[Part] = ()) -> None:
    """Words and numbers, and what lies beside them, in memory that belongs to nobody once it is let go of."""
    fd = os.memfd_create("decoder", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(fd, "wb", closefd=False) as file:
            for part in parts:
                file.write(b"" if part is None else part)
                file.write(bytes(-file.tell() % _ALIGN))
            start = file.tell()
            lengths = [None if part is None else memoryview(part).nbytes for part in parts]
            file.write(json.dumps({**told, "lengths": lengths}).encode())
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        socket.send_fds(to, [_word(start)], [fd])
    finally:
        os.close(fd)


def _receive(from_: socket.socket, most: int | None = None) -> tuple[dict[str, Any], list[memoryview | None]]:
    """What was sent; its parts may be written to, and whoever sent them does not see that.

    most: bytes that are taken. Raises EOFError, TimeoutError, ValueError.
    """
    word, fds, _, _ = socket.recv_fds(from_, 8, 1)
    if not fds:
        raise EOFError("the other process has ended")
    try:
        size = os.fstat(fds[0]).st_size
        if most is not None and size > most:
            raise ValueError(f"{size} bytes came from a decoder; at most {most} can")
        # Memory that its maker cuts short would end whoever reads it.
        if fcntl.fcntl(fds[0], fcntl.F_GET_SEALS) & _SEALS != _SEALS:
            raise ValueError("memory came from a decoder that it can still change")
        mapped = memoryview(mmap.mmap(fds[0], size, access=mmap.ACCESS_COPY))
    finally:
        os.close(fds[0])
    start = int.from_bytes(word, "little")
    told = json.loads(bytes(mapped[start:]))
    parts: list[memoryview | None] = []
    at = 0
    for length in told.pop("lengths"):
        parts.append(None if length is None else mapped[at : at + length])
        at += (length or 0) + -(length or 0) % _ALIGN
    return told, parts
