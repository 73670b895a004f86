"""Workers: the processes of a training run, on one or several machines, and what they exchange.

Each worker takes its share of every batch, and the gradients of all shares are summed. So all workers make the
same step. Worker 0 also validates, logs and saves.
"""

import math
import os
import re
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from engine.layers import Parameter

# Seconds after which a worker ends that waits for the others in vain, in a step.
PEER_TIMEOUT = 120.0
# Seconds for which workers wait for each other at the start, while they read their data.
START_TIMEOUT = 1800.0
# For workers of one machine: the file through which they find each other, in place of an address.
STORE_SETTING = "DENOISE_WORKERS_STORE"
# A torchrun job that was given no name has this one.
NO_NAME = "none"


class WorkerLost(ValueError):
    """Another worker ended, or does not answer."""


class Exchange(Protocol):
    """Sums the loss and the gradients of a step over all workers."""

    def start(self, loss: Tensor) -> None:
        """Call it after the forward pass. loss: this worker's part of the loss of the whole batch."""

    def finish(self) -> Tensor:
        """Call it after the backward pass. Returns the loss of the whole batch; gradients are then its too."""


class Workers(Protocol):
    """The processes of a run. rank: the number of this one, from 0 on; count: of all.

    All methods are called by all workers, in the same order. They raise WorkerLost.
    """

    rank: int
    count: int

    def share(self, size: int, rank: int | None = None) -> slice:
        """The samples of this worker, or another, in a batch. Raises ValueError if there are too few for all."""

    def exchange(self, trained: Sequence[Parameter]) -> Exchange:
        """For steps that train these parameters."""

    def agree(self, part: float, stopping: bool) -> tuple[float, bool]:
        """What holds for all: worker 0's part of the run that is done, and whether any worker is to stop."""

    def gather(self, text: str) -> list[str]:
        """The texts of all workers, by rank."""

    def copy_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Give the tensors worker 0's values."""

    def send(self, tensors: Mapping[int, Tensor]) -> None:
        """Send tensors to other workers, by rank. `send` and `receive` may run beside the other methods."""

    def receive(self, tensor: Tensor, rank: int) -> None:
        """Fill a tensor with what another worker sends."""

    def wait_until_ready(self) -> None:
        """Wait until all workers have come here, as long as the start of a run may take."""

    def close(self) -> None:
        """Leave the others. Not called after an error: they notice that the connection closes."""


class Alone:
    """The only worker of a run."""

    rank = 0
    count = 1

    def share(self, size: int, rank: int | None = None) -> slice:
        return slice(0, size)

    def exchange(self, trained: Sequence[Parameter]) -> Exchange:
        return _NoExchange()

    def agree(self, part: float, stopping: bool) -> tuple[float, bool]:
        return part, stopping

    def gather(self, text: str) -> list[str]:
        return [text]

    def copy_from_first(self, tensors: Iterable[Tensor]) -> None:
        """They are worker 0's already."""

    def send(self, tensors: Mapping[int, Tensor]) -> None:
        """There is nobody to send to."""

    def receive(self, tensor: Tensor, rank: int) -> None:
        """Nobody sends."""

    def wait_until_ready(self) -> None:
        """There is nobody to wait for."""

    def close(self) -> None:
        """There is nobody to leave."""


ALONE = Alone()


class _NoExchange:
    loss: Tensor

    def start(self, loss: Tensor) -> None:
        self.loss = loss

    def finish(self) -> Tensor:
        return self.loss


class Group:
    """One of several workers. They exchange over gloo, and gradients on GPUs over nccl.

    wire: the type in which gradients are exchanged. timeout: of each exchange in a step, in seconds.
    """

    def __init__(
        self,
        rank: int,
        count: int,
        method: str,
        device: torch.device,
        wire: torch.dtype = torch.float32,
        timeout: float = PEER_TIMEOUT,
    ) -> None:
        """method: where the workers meet, as `init_process_group` takes it. Raises WorkerLost."""
        # Here, so that a torch that was built without torch.distributed trains alone.
        from engine.training.meeting import meet

        self.rank, self.count, self.wire, self.timeout = rank, count, wire, timeout
        with _others(START_TIMEOUT):
            store = meet(method, rank, count, START_TIMEOUT)
            start = timedelta(seconds=START_TIMEOUT)
            dist.init_process_group("gloo", store=store, rank=rank, world_size=count, timeout=start)
            brief = timedelta(seconds=timeout)
            self._steps = dist.new_group(timeout=brief)
            # Apart, since a thread of its own uses it.
            self._batches = dist.new_group(timeout=brief)
            # Untried on a GPU.
            on_gpu = device.type == "cuda"
            self._gradients = dist.new_group(backend="nccl", timeout=brief) if on_gpu else self._steps

    def share(self, size: int, rank: int | None = None) -> slice:
        if size < self.count:
            raise ValueError(
                f"a batch of {size} cannot be shared by {self.count} workers;"
                f" set batch to {self.count} or more, or start fewer workers"
            )
        rank = self.rank if rank is None else rank
        return slice(rank * size // self.count, (rank + 1) * size // self.count)

    def exchange(self, trained: Sequence[Parameter]) -> Exchange:
        return GradientExchange(trained, self._gradients, self.wire, self.timeout)

    def agree(self, part: float, stopping: bool) -> tuple[float, bool]:
        message = torch.tensor([0.0 if self.rank else part, stopping], dtype=torch.float64)
        with _others(self.timeout):
            dist.all_reduce(message, group=self._steps)
        agreed, stops = message.tolist()
        return agreed, stops > 0

    def gather(self, text: str) -> list[str]:
        data = torch.tensor(list(text.encode()), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.count)]
        with _others(START_TIMEOUT):
            dist.all_gather(sizes, torch.tensor([len(data)]))
            longest = max(1, *map(int, sizes))
            parts = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.count)]
            dist.all_gather(parts, torch.constant_pad_nd(data, (0, longest - len(data))))
        return [part[: int(size)].numpy().tobytes().decode() for part, size in zip(parts, sizes, strict=True)]

    def copy_from_first(self, tensors: Iterable[Tensor]) -> None:
        with _others(self.timeout):
            for tensor in tensors:
                # A scalar of the CPU goes over gloo, also where the gradients are on a GPU.
                dist.broadcast(tensor, 0, self._gradients if tensor.is_cuda else self._steps)

    def send(self, tensors: Mapping[int, Tensor]) -> None:
        with _others(self.timeout):
            # dist.send for each in turn would wait for the slowest before the next.
            sent = [dist.isend(tensor, rank, self._batches) for rank, tensor in tensors.items()]
            for work in sent:
                if work:
                    work.wait()

    def receive(self, tensor: Tensor, rank: int) -> None:
        with _others(self.timeout):
            dist.recv(tensor, rank, self._batches)

    def wait_until_ready(self) -> None:
        with _others(START_TIMEOUT):
            dist.barrier()

    def close(self) -> None:
        dist.destroy_process_group()


class AgreedProgress:
    """The part of the run that is done, as `train` takes it: the same for all workers.

    own: the part as this worker counts it. If any worker is to stop, the run is over for all.
    """

    def __init__(self, workers: Workers, own: Callable[[int], float], stopping: threading.Event) -> None:
        self.workers, self.own, self.stopping = workers, own, stopping
        self.ended = False

    def __call__(self, step: int) -> float:
        part, stops = self.workers.agree(self.own(step), self.stopping.is_set())
        self.ended = part >= 1
        return math.inf if stops else part


class GradientExchange:
    """Sums the gradients of all workers in one flat buffer. wire: the type in which they travel.

    Each worker gets the same bits, so weights that were equal stay equal.
    """

    def __init__(
        self, trained: Sequence[Parameter], group: "dist.ProcessGroup", wire: torch.dtype, timeout: float
    ) -> None:
        self.trained, self.group, self.timeout = trained, group, timeout
        values = [parameter.value for parameter in trained]
        sizes = [value.numel() for value in values]
        self.sums = values[0].new_empty(sum(sizes))
        self.sent = self.sums if wire == self.sums.dtype else self.sums.to(wire)
        self.sums_of, self.sent_of = (
            [part.view_as(value) for part, value in zip(torch.split(flat, sizes), values, strict=True)]
            for flat in (self.sums, self.sent)
        )
        self.loss: Tensor
        self.loss_sum: dist.Work

    def start(self, loss: Tensor) -> None:
        """The loss travels during the backward pass."""
        # Never in bfloat16: whether a run diverges is decided by it.
        self.loss = loss.float()
        with _others(self.timeout):
            self.loss_sum = dist.all_reduce(self.loss, group=self.group, async_op=True)

    def finish(self) -> Tensor:
        for parameter, part in zip(self.trained, self.sent_of, strict=True):
            part.copy_(parameter.grad)
        with _others(self.timeout):
            dist.all_reduce(self.sent, group=self.group)
            self.loss_sum.wait()
        if self.sent is not self.sums:
            self.sums.copy_(self.sent)
        for parameter, part in zip(self.trained, self.sums_of, strict=True):
            parameter.layer.grads[parameter.key] = part
        return self.loss


def rank() -> int:
    """The number of this process among the workers, 0 for the only one."""
    return int(os.environ.get("RANK", "0"))


def count() -> int:
    """The number of workers, 1 unless torchrun or `denoise train --workers` started this process."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def threads() -> int | None:
    """The processor threads of each worker: the cores divided by the workers on this machine. None: all.

    torchrun itself would set one thread for each.
    """
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if beside == 1:
        return None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // beside)


def job_name() -> str:
    """The name of the torchrun job, `--rdzv-id`; "" without one. A restarted worker has the same.

    Raises ValueError if torchrun restarts workers, but they could not tell their checkpoint from an older run's.
    """
    name = os.environ.get("TORCHELASTIC_RUN_ID", NO_NAME)
    if name != NO_NAME:
        return name
    if int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")):
        raise ValueError(
            "torchrun was given --max-restarts but no --rdzv-id, by which a restarted worker knows the checkpoint"
            " of its own run; add --rdzv-id with a name that no other run has"
        )
    return ""


def own_device(device: torch.device) -> torch.device:
    """The GPU of this worker, if the device is a GPU. Raises ValueError if there are fewer GPUs than workers."""
    if device.type != "cuda" or count() == 1:
        return device
    # Untried on a GPU.
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if local >= torch.cuda.device_count():
        raise ValueError(
            f"worker {rank()} is number {local + 1} on its machine, where torch finds"
            f" {torch.cuda.device_count()} GPUs; start as many workers as GPUs, or use device cpu"
        )
    own = torch.device("cuda", local)
    torch.cuda.set_device(own)
    return own


def join(device: torch.device, wire: torch.dtype, timeout: float) -> Workers:
    """The workers that this process was started as one of, by torchrun or by `denoise train --workers`.

    They are found by the variables that torchrun sets. Raises WorkerLost if not all come.
    """
    if count() == 1:
        return Alone()
    store = os.environ.get(STORE_SETTING)
    return Group(rank(), count(), f"file://{store}" if store else "env://", device, wire, timeout)


@contextmanager
def _others(timeout: float) -> Iterator[None]:
    """Turns an error of an exchange into a WorkerLost."""
    try:
        yield
    # gloo raises RuntimeError itself, and torch subclasses of it.
    except RuntimeError as error:
        # Without the place in gloo's source before it, and the advice after it.
        reason = re.sub(r"^\[\S*\] ", "", str(error).partition("\n")[0]).partition(". ")[0]
        raise WorkerLost(
            f"worker {rank()} on {socket.gethostname()} lost another worker, which ended or did not answer for"
            f" {timeout:g} s ({reason}); look at the others' messages, then resume the run"
        ) from error
