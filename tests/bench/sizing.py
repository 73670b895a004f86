"""Group `sizing`: pictures an hour through HTTP, one after another, and the most memory that the service takes.

The shipped weights, chosen by `auto`; JPEG files in, PNG files out, as an archive would send them.
"""

import io
import re
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image

from .rows import Options, Row
from .service import post, served
from .subjects import picture

# (height, width) in pixels.
SIZES = ((1224, 1632), (3000, 4000), (4000, 6000))
# Pictures beyond so many megapixels are sent a few times only: they take long enough.
LARGE, FEW = 4.0, 3


def rows(options: Options, sizes: Sequence[tuple[int, int]] = SIZES) -> Iterator[Row]:
    """sizes: (height, width) of the pictures, in pixels; those above `options.largest` are left out."""
    for precision in options.precisions:
        for height, width in sizes:
            megapixels, case = height * width / 1e6, f"auto, {width} x {height}"
            if megapixels <= options.largest and options.wants(case):
                rounds = options.rounds if megapixels < LARGE else min(options.rounds, FEW)
                yield _row(case, _jpeg(height, width), precision, rounds, options.threads)


def _row(case: str, jpeg: bytes, precision: str, rounds: int, threads: int) -> Row:
    """From a server of its own: the most memory that one took says nothing of the next picture."""
    with served({"PRECISION": precision, "THREADS": threads}) as (port, process):
        post(port, jpeg)
        seconds = []
        for _ in range(rounds):
            start = time.perf_counter()
            post(port, jpeg)
            seconds.append(time.perf_counter() - start)
        memory = _most_memory(process)
    each = statistics.median(seconds)
    return Row("sizing", case, precision, 3600 / each, None, None, "pictures/h", None, {"s": each, "GB": memory})


def _jpeg(height: int, width: int) -> bytes:
    file = io.BytesIO()
    pixels = picture(height, width).mul(255).round().to(torch.uint8).numpy()
    Image.fromarray(pixels).save(file, "JPEG", quality=92)
    return file.getvalue()


def _most_memory(process: int) -> float | None:
    """The most that the process had resident, in GB; None where the system does not tell."""
    status = Path(f"/proc/{process}/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) * 1024 / 1e9 if found else None
