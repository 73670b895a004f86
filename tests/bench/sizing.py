"""Group `sizing`: images per hour over HTTP, one after another, and the service's peak memory.

The service uses the shipped weights with `auto`. Images arrive as JPEG and leave as PNG.
"""

import io
import re
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from typing import Self

import torch
from PIL import Image

from .rows import Options, Row
from .service import post, served
from .subjects import image

# (height, width) in pixels.
SIZES = ((1224, 1632), (3000, 4000), (4000, 6000))
# A larger image, in megapixels, is sent at most FEW times.
LARGE = 4.0
FEW = 3
# Interval at which the memory is read, in seconds.
INTERVAL = 0.02


def rows(options: Options, sizes: Sequence[tuple[int, int]] = SIZES) -> Iterator[Row]:
    """sizes: (height, width) in pixels. Those above `options.largest` are skipped."""
    for precision in options.precisions:
        for height, width in sizes:
            megapixels, case = height * width / 1e6, f"auto, {width} x {height}"
            if megapixels <= options.largest and options.wants(case):
                rounds = options.rounds if megapixels < LARGE else min(options.rounds, FEW)
                yield _row(case, _jpeg(height, width), precision, rounds, options.threads)


def _row(case: str, jpeg: bytes, precision: str, rounds: int, threads: int) -> Row:
    """Starts a new server, because the peak memory of an old one says nothing about this image."""
    with served({"PRECISION": precision, "THREADS": threads}) as (port, process), _PeakMemory(process) as memory:
        post(port, jpeg)
        seconds = []
        for _ in range(rounds):
            start = time.perf_counter()
            post(port, jpeg)
            seconds.append(time.perf_counter() - start)
    each = statistics.median(seconds)
    figures = {"s": each, "GB": memory.peak / 1e9 if memory.peak else None}
    return Row("sizing", case, precision, 3600 / each, None, None, "images/h", None, figures)


def _jpeg(height: int, width: int) -> bytes:
    file = io.BytesIO()
    pixels = image(height, width).mul(255).round().to(torch.uint8).numpy()
    Image.fromarray(pixels).save(file, "JPEG", quality=92)
    return file.getvalue()


class _PeakMemory:
    """Measures the peak memory of a process and its children, in bytes. Shared memory counts once.

    It is 0 on systems other than Linux.
    """

    def __init__(self, process: int) -> None:
        self.peak, self._process, self._done = 0, process, Event()
        self._thread = Thread(target=self._measure)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def _measure(self) -> None:
        while not self._done.wait(INTERVAL):
            self.peak = max(self.peak, sum(map(_memory, _family(self._process))))


def _family(process: int) -> Iterator[int]:
    yield process
    for children in Path(f"/proc/{process}/task").glob("*/children"):
        # The thread may have ended.
        with suppress(OSError):
            for child in children.read_text().split():
                yield from _family(int(child))


def _memory(process: int) -> int:
    """In bytes: its own memory and its share of shared memory. Without files, which the system can read again."""
    try:
        rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
    except OSError:
        return 0
    return 1024 * sum(int(size) for size in re.findall(r"Pss_(?:Anon|Shmem):\s+(\d+) kB", rollup))
