"""Batches of a run: drawn ahead in a thread of their own, and shared between the workers.

A batch depends on the seed and its step alone. So a resumed run draws again those that were not used.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import count, islice
from typing import NamedTuple

import torch
from torch import Tensor

from engine.data.rng import seeded_generator
from engine.data.sources import Batch, BatchSource
from engine.system.runtime import use_cores
from engine.training.recipe import Recipe
from engine.training.workers import Workers

# Batches drawn before they are needed.
BATCHES_AHEAD = 2
# In place of a sample's weight: the weights of its pixels follow in a tensor of their own. No weight is negative.
PIXEL_WEIGHTS_FOLLOW = -1.0


class Share(NamedTuple):
    """This worker's part of a batch, and the pixels of the whole batch."""

    batch: Batch
    pixels: int


@contextmanager
def drawn_ahead(
    source: BatchSource,
    recipe: Recipe,
    first: int,
    device: torch.device,
    workers: Workers,
    agreed: type[Exception],
) -> Iterator[Callable[[], Share]]:
    """A function that returns the shares of the steps from `first` on, in order. Threads draw the next ones.

    agreed: errors that, inside the block, all workers raise after the same step.
    """

    def draw(step: int) -> Batch:
        return source.draw(step, recipe.batch, seeded_generator(recipe.seed, step))

    with _one_core_thread("draw") as drawing:
        # A GPU draws faster than batches travel, so there each worker draws all of them.
        if workers.count == 1 or device.type == "cuda":
            with _Ahead(drawing, lambda step: _share(draw(step), device, workers), first) as next_share:
                yield next_share
            return
        turns = _Turns(draw, drawing, recipe, first, workers)
        try:
            with _one_core_thread("share") as sharing, _Ahead(sharing, turns.share, first, agreed) as next_share:
                yield next_share
        finally:
            # Last, as shares in preparation need what is drawn.
            turns.cancel()


class _Ahead:
    """A function that returns share(first), share(first + 1), ..., which the executor prepares ahead.

    agreed: errors at which all workers end after the same step, as without an error; None for a single worker.
    """

    def __init__(
        self,
        executor: ThreadPoolExecutor,
        share: Callable[[int], Share],
        first: int,
        agreed: type[Exception] | None = None,
    ) -> None:
        self.agreed = agreed
        self.tasks = (executor.submit(share, step) for step in count(first))
        self.ahead = deque(islice(self.tasks, BATCHES_AHEAD))

    def __call__(self) -> Share:
        self.ahead.append(next(self.tasks))
        return self.ahead.popleft().result()

    def __enter__(self) -> "_Ahead":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.agreed and (kind is None or issubclass(kind, self.agreed)):
            # All have begun with the same shares, and need each other for them.
            wait(self.ahead)
        for share in self.ahead:
            share.cancel()


class _Turns:
    """Workers draw the batches in turns, and the one that has drawn a batch hands the others their shares.

    If each drew every batch, drawing would take the longer, compared with the passes, the more workers there are:
    a batch of photo-gaussian, 8 patches of 128 x 128, takes 40 ms of one core, and its passes 330 ms.
    """

    def __init__(
        self,
        draw: Callable[[int], Batch],
        executor: ThreadPoolExecutor,
        recipe: Recipe,
        first: int,
        workers: Workers,
    ) -> None:
        self.draw, self.executor, self.recipe, self.workers = draw, executor, recipe, workers
        self.steps = (step for step in count(first) if step % workers.count == workers.rank)
        self.drawn: deque[Future[Batch]] = deque()
        for _ in range(BATCHES_AHEAD):
            self._draw_next()

    def share(self, step: int) -> Share:
        """The share of a step. All workers call this for the same steps in the same order."""
        workers, size, side = self.workers, self.recipe.batch, self.recipe.patch
        drawer = step % workers.count
        if drawer == workers.rank:
            whole = self.drawn.popleft().result()
            self._draw_next()
            others = [other for other in range(workers.count) if other != drawer]
            parts = {other: _part(whole, workers.share(size, other)) for other in others}
            workers.send({other: _pack(part) for other, part in parts.items()})
            if _weighs_pixels(whole):
                workers.send({other: part.weight.contiguous() for other, part in parts.items()})
            return _share(whole, whole.noisy.device, workers)
        part = workers.share(size)
        packed = torch.empty(part.stop - part.start, 2 * side * side * 3 + 3)
        workers.receive(packed, drawer)
        own = _unpack(packed, side)
        if float(own.weight[0]) == PIXEL_WEIGHTS_FOLLOW:
            own = own._replace(weight=torch.empty(len(packed), side, side, 1))
            workers.receive(own.weight, drawer)
        # As in `_share`.
        return Share(own._replace(weight=own.weight * (len(packed) / size)), size * side * side)

    def cancel(self) -> None:
        """Draw no more."""
        for batch in self.drawn:
            batch.cancel()

    def _draw_next(self) -> None:
        self.drawn.append(self.executor.submit(self.draw, next(self.steps)))


def _share(whole: Batch, device: torch.device, workers: Workers) -> Share:
    size, height, width, _ = whole.noisy.shape
    own = _part(whole, workers.share(size))
    # Of shares that differ in size, the losses and gradients add up to those of the batch.
    own = own._replace(weight=own.weight * (len(own.noisy) / size))
    batch = _each(own, lambda tensor: _to_device(tensor, device))
    return Share(batch, size * height * width)


def _part(whole: Batch, samples: slice) -> Batch:
    return _each(whole, lambda tensor: tensor[samples])


def _each(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    noisy, target, weight = (change(tensor) for tensor in batch[:3])
    return Batch(noisy, target, weight, None if batch.shift is None else change(batch.shift))


def _pack(batch: Batch) -> Tensor:
    """One row for each sample: its noisy view, its target, its shift, and its weight or PIXEL_WEIGHTS_FOLLOW."""
    count = len(batch.noisy)
    weight = torch.full((count,), PIXEL_WEIGHTS_FOLLOW) if _weighs_pixels(batch) else batch.weight
    shift = torch.zeros(count, 2) if batch.shift is None else batch.shift
    return torch.cat([tensor.flatten(1) for tensor in (batch.noisy, batch.target, shift, weight[:, None])], 1)


def _unpack(packed: Tensor, side: int) -> Batch:
    """Undoes `_pack`."""
    noisy, target = (part.reshape(-1, side, side, 3) for part in packed[:, :-3].chunk(2, 1))
    shift = packed[:, -3:-1]
    return Batch(noisy, target, packed[:, -1], shift if bool(shift.any()) else None)


def _weighs_pixels(batch: Batch) -> bool:
    """Whether each pixel has a weight of its own, as where parts of recorded shots are masked."""
    return batch.weight.dim() == 4


@contextmanager
def _one_core_thread(name: str) -> Iterator[ThreadPoolExecutor]:
    """An executor whose thread uses one core, while this thread uses as many as before."""
    with ThreadPoolExecutor(1, name) as executor:
        cores = torch.get_num_threads()
        executor.submit(use_cores, 1).result()
        torch.set_num_threads(cores)
        yield executor


def _to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device. From pinned memory a GPU copies it while it does other work."""
    # Untried on a GPU.
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
