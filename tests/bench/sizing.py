"""Group `sizing`: images an hour through HTTP, one after another, and the most memory that the service takes.

The shipped weights, chosen by `auto`; JPEG files in, PNG files out, as an archive would send them.
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
# Images beyond so many megapixels are sent a few times only: they take long enough.
LARGE, FEW = 4.0, 3
# Seconds between two looks at the memory.
EVERY = 0.02


def rows(options: Options, sizes: Sequence[tuple[int, int]] = SIZES) -> Iterator[Row]:
    """sizes: (height, width) of the images, in pixels; those above `options.largest` are left out."""
    for precision in options.precisions:
        for height, width in sizes:
            megapixels, case = height * width / 1e6, f"auto, {width} x {height}"
            if megapixels <= options.largest and options.wants(case):
                rounds = options.rounds if megapixels < LARGE else min(options.rounds, FEW)
                yield _row(case, _jpeg(height, width), precision, rounds, options.threads)


def _row(case: str, jpeg: bytes, precision: str, rounds: int, threads: int) -> Row:
    """From a server of its own: the most memory that one took says nothing of the next image."""
    with served({"PRECISION": precision, "THREADS": threads}) as (port, process), _Watch(process) as watch:
        post(port, jpeg)
        seconds = []
        for _ in range(rounds):
            start = time.perf_counter()
            post(port, jpeg)
            seconds.append(time.perf_counter() - start)
    each = statistics.median(seconds)
    figures = {"s": each, "GB": watch.most / 1e9 if watch.most else None}
    return Row("sizing", case, precision, 3600 / each, None, None, "images/h", None, figures)


def _jpeg(height: int, width: int) -> bytes:
    file = io.BytesIO()
    pixels = image(height, width).mul(255).round().to(torch.uint8).numpy()
    Image.fromarray(pixels).save(file, "JPEG", quality=92)
    return file.getvalue()


class _Watch:
    """The most memory, in bytes, that a process and those below it have at once; what they share counts once.

    0 where the system does not tell, which is everywhere but on Linux.
    """

    def __init__(self, process: int) -> None:
        self.most, self._process, self._done = 0, process, Event()
        self._thread = Thread(target=self._look)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(EVERY):
            self.most = max(self.most, sum(map(_memory, _family(self._process))))


def _family(process: int) -> Iterator[int]:
    yield process
    for children in Path(f"/proc/{process}/task").glob("*/children"):
        # A thread may have ended meanwhile.
        with suppress(OSError):
            for child in children.read_text().split():
                yield from _family(int(child))


def _memory(process: int) -> int:
    """In bytes: its own, and its part of what it shares; without files, which the system may read anew."""
    try:
        told = Path(f"/proc/{process}/smaps_rollup").read_text()
    except OSError:
        return 0
    return 1024 * sum(int(size) for size in re.findall(r"Pss_(?:Anon|Shmem):\s+(\d+) kB", told))
