"""Group `service`: compares images per second over HTTP with the engine alone, and shows what takes the time.

The benchmark starts a server on the loopback. Its network has size M and is not trained: the speed does not
depend on the weights. It returns its input, so the PNG encoder gets a noisy image, the hardest to compress.
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

from .rows import PRECISIONS, Options, ResultsDiffer, Row, compared
from .subjects import NETWORKS, image
from .timing import interleaved

SIZE = (1224, 1632)  # height, width in pixels
START = 120.0  # longest wait for the server, in seconds
# Images that each connection sends, one after the other. The first decoding and the last encoding overlap with
# nothing, so they should be few among many.
TURNS = 4


def rows(
    options: Options,
    spec: NetworkConfig = NETWORKS["M"],
    size: tuple[int, int] = SIZE,
    in_flight: tuple[int, ...] = (1, 2),
) -> Iterator[Row]:
    """size: (height, width) in pixels. in_flight: numbers of simultaneous requests."""
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
                raise ResultsDiffer(f"{case}, {precision}: the service and the engine give different images")
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
    """A server that is started by the command line, without kept results. Yields its port and process number."""
    settings = {"CACHE_BYTES": 0, **settings}
    process = subprocess.Popen(
        [sys.executable, "-c", "from service.cli import main; main()", "serve", "--port", "0"],
        env={**os.environ, **{f"DENOISE_{name}": str(value) for name, value in settings.items()}},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines: Queue[str] = Queue()
    assert process.stderr is not None
    # Read all of it. A server whose log fills the pipe would stop.
    reader = Thread(target=_copy, args=(process.stderr, lines), daemon=True)
    reader.start()
    try:
        yield _port(process, lines), process.pid
    finally:
        process.terminate()
        process.wait()
        reader.join()
        process.stderr.close()


def _copy(stream: IO[str], lines: "Queue[str]") -> None:
    for line in stream:
        lines.put(line)


def _port(process: "subprocess.Popen[str]", lines: "Queue[str]") -> int:
    """The port in the server's log. Raises RuntimeError with the log if the server does not start."""
    log, deadline = "", time.monotonic() + START
    while time.monotonic() < deadline:
        try:
            log += lines.get(timeout=0.2)
        except Empty:
            if process.poll() is not None:
                break
        if found := re.search(r"http://[^:]+:(\d+)", log):
            return int(found[1])
    raise RuntimeError(f"the service did not start:\n{log}")


def post(port: int, png: bytes) -> bytes:
    """Returns the denoised file. Raises RuntimeError for an error response."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    try:
        connection.request("POST", "/denoise", png, {"Content-Type": "application/octet-stream"})
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    if response.status != 200:
        raise RuntimeError(f"the service answered {response.status}: {body[:300]!r}")
    return body
