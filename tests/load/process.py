"""The service as a process: started, stopped and killed, its log, its memory and its open files."""

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
# Importing torch takes long if other work has the cores.
START_SECONDS = 120


class Service:
    """The service, which can be started again on the same port with the same folders. log: JSON of all starts."""

    def __init__(self, folder: Path, **settings: object) -> None:
        """folder: for the log and the job store."""
        self.log, self.port = folder / "service.log", _free_port()
        # Without kept results: clients send the same images again and again, and each has to be denoised.
        given = {"spool": folder / "spool", "log_format": "json", "cache_bytes": 0, **settings}
        self._env = {**os.environ, **{f"DENOISE_{name.upper()}": str(value) for name, value in given.items()}}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Kill all its processes."""
        if self._process:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    async def start(self) -> float:
        """Start and wait until it listens. Returns the seconds. Raises RuntimeError with the end of the log."""
        begun, before = time.monotonic(), len(self.logged("listening"))
        with self.log.open("ab") as log:
            # In a process group of its own, so Ctrl-C reaches only the load test, which then ends the service.
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
        """Process ID of the server."""
        assert self._process
        return self._process.pid

    @property
    def pids(self) -> list[int]:
        """Process IDs of the server and its descendants that are alive."""
        return family(self.pid)

    async def kill(self) -> list[int]:
        """Kill the server alone, as Linux does if memory runs out. Returns its children, still alive."""
        children = self.pids[1:]
        os.kill(self.pid, signal.SIGKILL)
        assert self._process
        await asyncio.to_thread(self._process.wait)
        return children

    async def stop(self) -> int:
        """Send SIGTERM and wait. Returns the exit code."""
        assert self._process
        self._process.terminate()
        return await asyncio.to_thread(self._process.wait, 60)

    @property
    def memory(self) -> int:
        """Resident bytes of all its processes. Shared memory counts once."""
        return memory_of(self.pid)

    @property
    def descriptors(self) -> int:
        """Number of open files and connections of the server."""
        return sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The lines of the log with this event."""
        return [line for line in map(_parsed, self._lines()) if line and line["event"] == event]

    def faults(self) -> list[str]:
        """Lines of the log that report an error, and lines that are not JSON."""
        return [text for text in self._lines() if (_parsed(text) or {"level": "error"})["level"] == "error"]

    def _lines(self) -> list[str]:
        return self.log.read_text("utf-8").splitlines() if self.log.exists() else []


def _parsed(text: str) -> dict[str, Any] | None:
    """None if the line is not JSON, such as a message of a library."""
    with suppress(ValueError):
        line: dict[str, Any] = json.loads(text)
        return line
    return None


def family(pid: int) -> list[int]:
    """IDs of a process and its descendants that are alive."""
    return [each for each in (pid, *_below(pid)) if _alive(each)]


def memory_of(pid: int) -> int:
    """Resident bytes of a process and its descendants. Shared memory counts once."""
    return sum(filter(None, map(_resident, family(pid))))


def _below(pid: int) -> Iterator[int]:
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, tasks.read_text().split()):
                yield child
                yield from _below(child)


def _alive(pid: int) -> bool:
    with suppress(OSError):
        # The state follows the name in brackets. The name may contain brackets itself, so the last one counts.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def _resident(pid: int) -> int | None:
    with suppress(OSError):
        if found := re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE):
            return int(found[1]) * 1024
    return None


async def gone(pids: list[int], seconds: float = 10) -> bool:
    """Whether all these processes end by themselves in this time."""
    end = time.monotonic() + seconds
    while any(map(_alive, pids)) and time.monotonic() < end:
        await asyncio.sleep(0.05)
    return not any(map(_alive, pids))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


@contextmanager
def probing(port: int, file: Path) -> Iterator[None]:
    """During the block, a process measures /health and writes the response times to a file."""
    probe = Path(__file__).with_name("probe.py")
    with subprocess.Popen([sys.executable, str(probe), str(port), str(file)], start_new_session=True) as process:
        try:
            yield
        finally:
            process.kill()


def probed(file: Path) -> list[float]:
    """The response times in a probe's file, in seconds, sorted."""
    lines = file.read_text("ascii").splitlines() if file.exists() else []
    return sorted(float(line.split()[1]) for line in lines if line.count(" ") == 1)
