"""Group `service`: images a second through HTTP, beside the engine alone; and where the difference goes.

A server of its own on the loopback, with a network of size M whose weights are not trained: its speed does not
depend on them. It gives back the image as noisy as it came, the most that the PNG coder can be given.
"""

import http.client
import io
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from queue import Empty, Queue
from statistics import median
from threading import Thread
from typing import IO

import torch
from PIL import Image
from torch import Tensor

from engine.imageio.read import decode
from engine.imageio.write import encode_png
from engine.inference.denoise import denoise
from engine.models import checkpoint
from engine.models.networks import NetworkConfig, build_network

from .rows import PRECISIONS, Differs, Options, Row, compared
from .subjects import NETWORKS, image
from .timing import interleaved

SIZE = (1224, 1632)
START = 120.0
# Images one after the other for each in flight: the first's decoding and the last's encoding overlap with
# nothing, and shall count for little.
TURNS = 4


def rows(
    options: Options,
    spec: NetworkConfig = NETWORKS["M"],
    size: tuple[int, int] = SIZE,
    in_flight: tuple[int, ...] = (1, 2),
) -> Iterator[Row]:
    """size: (height, width) in pixels; in_flight: how many requests at a time."""
    for precision in options.precisions:
        case = f"{size[1]} x {size[0]}"
        if options.wants(case):
            yield from _rows(case, spec, size, in_flight, precision, options)


def _rows(
    case: str,
    spec: NetworkConfig,
    size: tuple[int, int],
    in_flight: tuple[int, ...],
    precision: str,
    options: Options,
) -> Iterator[Row]:
    net = build_network(spec, torch.Generator().manual_seed(0), PRECISIONS[precision])
    png = _png(image(*size))
    noisy = decode(png)
    engine = partial(denoise, net, noisy)
    clean = engine()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(Path(folder) / f"photo{checkpoint.SUFFIX}", net, spec, {})
        settings = {"WEIGHTS": folder, "MODEL": "photo", "PRECISION": precision, "THREADS": options.threads}
        with served(settings) as (port, _):
            if post(port, png) != encode_png(clean):
                raise Differs(f"{case}, {precision}: the service's image is not the engine's")
            with ExitStack() as stack:
                senders = {n: stack.enter_context(ThreadPoolExecutor(n)) for n in in_flight}
                seconds = interleaved(
                    {
                        **{n: partial(_send, senders[n], port, [png] * (TURNS * n)) for n in in_flight},
                        "engine": engine,
                        "decode": lambda: decode(png),
                        "encode": lambda: encode_png(clean),
                    },
                    options.rounds,
                )
    spent = {f"{part}_s": median(seconds[part]) for part in ("decode", "engine", "encode")}
    for n in in_flight:
        each = [taken / (TURNS * n) for taken in seconds[n]]
        yield compared(
            "service",
            f"{case}, {n} in flight",
            precision,
            1.0,
            "images/s",
            each,
            seconds["engine"],
            "engine alone",
            request_s=median(seconds[n]) / TURNS,
            **spent,
        )


def _send(senders: ThreadPoolExecutor, port: int, images: list[bytes]) -> None:
    list(senders.map(partial(post, port), images))


def _png(pixels: Tensor) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels.mul(255).round().to(torch.uint8).numpy()).save(file, "PNG")
    return file.getvalue()


@contextmanager
def served(settings: Mapping[str, object]) -> Iterator[tuple[int, int]]:
    """A server, by the command line as its users start it; gives its port and its process's number."""
    process = subprocess.Popen(
        [sys.executable, "-c", "from service.cli import main; main()", "serve", "--port", "0"],
        env={**os.environ, **{f"DENOISE_{name}": str(value) for name, value in settings.items()}},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    told: Queue[str] = Queue()
    assert process.stderr is not None
    # Read to the end, or a server that logs more than a pipe holds would stop.
    reader = Thread(target=_copy, args=(process.stderr, told), daemon=True)
    reader.start()
    try:
        yield _port(process, told), process.pid
    finally:
        process.terminate()
        process.wait()
        reader.join()
        process.stderr.close()


def _copy(stream: IO[str], told: "Queue[str]") -> None:
    for line in stream:
        told.put(line)


def _port(process: "subprocess.Popen[str]", told: "Queue[str]") -> int:
    """The port that the server's log says it listens on. Raises RuntimeError with the log if it does not."""
    log, deadline = "", time.monotonic() + START
    while time.monotonic() < deadline:
        try:
            log += told.get(timeout=0.2)
        except Empty:
            if process.poll() is not None:
                break
        if found := re.search(r"http://[^:]+:(\d+)", log):
            return int(found[1])
    raise RuntimeError(f"the service did not start:\n{log}")


def post(port: int, png: bytes) -> bytes:
    """The denoised image's file. Raises RuntimeError for another answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    try:
        connection.request("POST", "/denoise", png, {"Content-Type": "application/octet-stream"})
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        raise RuntimeError(f"the service answered {answer.status}: {body[:300]!r}")
    return body
