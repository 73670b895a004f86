"""Group `workers`: a training step of two processes of one core each, compared with one process of one core.

The batch is the same, and so is the step: passes, clipping, optimiser, and with two processes the exchange of
gradients in float32. Columns `exchange` are the time of an exchange by itself, as a share of the step of two
processes. Each round runs all of them in turns.
"""

import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from engine.layers import MSE, Arena, parameters
from engine.models.networks import AutoencoderConfig, NetworkConfig
from engine.optim import SGD, Optimizer, clip_gradients, muon_with_adam
from engine.training.workers import Exchange, Group

from .rows import PRECISIONS, Options, Row, compared
from .step import BATCHES, CLIP, LR, cases
from .subjects import NETWORKS, network

PROCESSES = 2
# Types in which gradients are exchanged. The steps use the first.
WIRES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Rounds before the measured ones.
WARM_UP = 2


def rows(
    options: Options,
    networks: Mapping[str, NetworkConfig] = NETWORKS,
    batches: Mapping[str, tuple[int, int]] = BATCHES,
) -> Iterator[Row]:
    """batches: patches and their side in pixels, by the network's name."""
    for name, case, count, side, precision in cases(options, batches):
        yield _row(case, networks[name], count, side, precision, options.rounds)


def _row(case: str, spec: NetworkConfig, count: int, side: int, precision: str, rounds: int) -> Row:
    seconds = _in_processes(spec, count, side, precision, rounds)
    one, two = seconds["one"], seconds["two"]
    shares = {
        f"exchange, {wire}": median(part / step for part, step in zip(seconds[wire], two, strict=True))
        for wire in WIRES
    }
    return compared("workers", case, precision, count * side**2 / 1e6, "Mpx/s", two, one, "one process", **shares)


def _in_processes(
    spec: NetworkConfig, count: int, side: int, precision: str, rounds: int
) -> dict[str, list[float]]:
    """Seconds of each round, as the first of the processes measures them."""
    context = multiprocessing.get_context("spawn")
    with TemporaryDirectory() as folder:
        receiver, sender = context.Pipe(duplex=False)
        arguments = (str(Path(folder, "store")), spec, count, side, precision, rounds, sender)
        processes = [context.Process(target=_work, args=(rank, *arguments)) for rank in range(PROCESSES)]
        try:
            for process in processes:
                process.start()
            sender.close()
            # Raises EOFError if both processes have failed.
            seconds: dict[str, list[float]] = receiver.recv()
            for process in processes:
                process.join()
        finally:
            for process in processes:
                process.kill()
                process.join()
    return seconds


class Training:
    """A network, its optimiser, and the share of a batch that it is trained on."""

    def __init__(self, spec: NetworkConfig, precision: str, x: Tensor, target: Tensor) -> None:
        self.net, self.x, self.target = network(spec, PRECISIONS[precision]), x, target
        self.parameters, self.mse, self.arena = list(parameters(self.net)), MSE(), Arena()
        is_paper = isinstance(spec, AutoencoderConfig)
        self.optimiser: Optimizer = SGD(self.parameters, LR) if is_paper else muon_with_adam(self.net, LR, LR)

    def step(self, exchange: Exchange | None = None) -> None:
        """A step, as training makes it."""
        with self.arena.used():
            y = self.net.forward(self.x, train=True)
            loss = self.mse.forward(y, self.target)
            if exchange:
                exchange.start(loss)
            self.net.backward(self.mse.backward(y, self.target))
        if exchange:
            exchange.finish()
        clip_gradients(self.parameters, CLIP)
        self.optimiser.step()


def _exchange(exchange: Exchange) -> None:
    exchange.start(torch.zeros(()))
    exchange.finish()


def _work(
    rank: int,
    store: str,
    spec: NetworkConfig,
    count: int,
    side: int,
    precision: str,
    rounds: int,
    sender: "Connection[Any, Any]",
) -> None:
    """The life of one of the processes."""
    torch.set_num_threads(1)
    group = Group(rank, PROCESSES, f"file://{store}", torch.device("cpu"))
    x, target = torch.rand(2, count, side, side, 3, generator=torch.Generator().manual_seed(0))
    part = group.share(count)
    whole, share = (Training(spec, precision, *both) for both in ((x, target), (x[part], target[part])))
    exchanges = {}
    for name, group.wire in WIRES.items():
        exchanges[name] = group.exchange(share.parameters)
    works: dict[str, Callable[[], None]] = {
        "one": lambda: None if rank else whole.step(),
        "two": lambda: share.step(exchanges["float32"]),
        "float32": lambda: _exchange(exchanges["float32"]),
        "bfloat16": lambda: _exchange(exchanges["bfloat16"]),
    }
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for number in range(WARM_UP + rounds):
        for name, work in works.items():
            group.wait_until_ready()
            begin = time.perf_counter()
            work()
            if number >= WARM_UP:
                seconds[name].append(time.perf_counter() - begin)
    group.wait_until_ready()
    if rank == 0:
        sender.send(seconds)
    group.close()
