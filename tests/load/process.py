"""The service as an operator starts it, and what the system tells of its processes."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parents[2]
START = "from service.cli import main; main()"
# It imports torch, on cores that others may have.
START_SECONDS = 120


class Service:
    """Started anew as often as one likes, on the same port with the same folders. log: JSON, of all its lives."""

    def __init__(self, folder: Path, **settings: object) -> None:
        """folder: for its log and its spool."""
        self.log, self.port = folder / "service.log", _free_port()
        given = {"spool": folder / "spool", "log_format": "json", **settings}
        self._env = {**os.environ, **{f"DENOISE_{name.upper()}": str(value) for name, value in given.items()}}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """End every process of it, at once."""
        if self._process:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    async def start(self) -> float:
        """Until it listens. Gives the seconds that took. Raises RuntimeError with the end of its log."""
        begun, before = time.monotonic(), len(self.logged("listening"))
        with self.log.open("ab") as log:
            # A group of its own, so that Ctrl-C is for us alone, who end it then.
            self._process = subprocess.Popen(
                [sys.executable, "-c", START, "serve", "--port", str(self.port)],
                cwd=ROOT, env=self._env, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        while len(self.logged("listening")) == before:
            if self._process.poll() is not None or time.monotonic() - begun > START_SECONDS:
                raise RuntimeError(f"the service did not start:\n{self.log.read_text()[-2000:]}")
            await asyncio.sleep(0.05)
        return time.monotonic() - begun

    @property
    def pid(self) -> int:
        """Of the process that answers."""
        assert self._process
        return self._process.pid

    @property
    def pids(self) -> list[int]:
        """Of all its processes that are alive."""
        return [pid for pid in (self.pid, *_below(self.pid)) if _alive(pid)]

    async def kill(self) -> list[int]:
        """As the system does when memory is short: the one that answers. Gives its children, alive as yet."""
        children = self.pids[1:]
        os.kill(self.pid, signal.SIGKILL)
        assert self._process
        await asyncio.to_thread(self._process.wait)
        return children

    async def stop(self) -> int:
        """As an operator does. Gives the exit code."""
        assert self._process
        self._process.terminate()
        return await asyncio.to_thread(self._process.wait, 60)

    @property
    def memory(self) -> int:
        """Bytes that are resident, of all its processes, what they share counted once."""
        return sum(filter(None, map(_resident, self.pids)))

    @property
    def descriptors(self) -> int:
        """Open files and connections of the one that answers."""
        return sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The log's lines of that event."""
        return [line for line in map(_parsed, self._lines()) if line and line["event"] == event]

    def faults(self) -> list[str]:
        """Lines of the log that tell of a mistake in the service."""
        return [text for text in self._lines() if (_parsed(text) or {"level": "error"})["level"] == "error"]

    def _lines(self) -> list[str]:
        return self.log.read_text("utf-8").splitlines() if self.log.exists() else []


def _parsed(text: str) -> dict[str, Any] | None:
    """None of what is no line of ours, as where a library writes to standard error."""
    with suppress(ValueError):
        line: dict[str, Any] = json.loads(text)
        return line
    return None


def _below(pid: int) -> Iterator[int]:
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, tasks.read_text().split()):
                yield child
                yield from _below(child)


def _alive(pid: int) -> bool:
    with suppress(OSError):
        # The state follows the name, which may hold anything but ends with the last bracket.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def _resident(pid: int) -> int | None:
    with suppress(OSError):
        if found := re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE):
            return int(found[1]) * 1024
    return None


async def gone(pids: list[int], seconds: float = 10) -> bool:
    """Whether they all end by themselves in that time."""
    end = time.monotonic() + seconds
    while any(map(_alive, pids)) and time.monotonic() < end:
        await asyncio.sleep(0.05)
    return not any(map(_alive, pids))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    return port


@contextmanager
def probing(port: int, file: Path) -> Iterator[None]:
    """Meanwhile, /health is asked from a process of its own."""
    probe = Path(__file__).with_name("probe.py")
    with subprocess.Popen([sys.executable, str(probe), str(port), str(file)], start_new_session=True) as process:
        try:
            yield
        finally:
            process.kill()


def probed(file: Path) -> list[float]:
    """Seconds of each answer, in order of their length."""
    lines = file.read_text("ascii").splitlines() if file.exists() else []
    return sorted(float(line.split()[1]) for line in lines if line.count(" ") == 1)
