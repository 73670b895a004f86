"""Arena: memory for activations that its owner keeps and that is used again.

Memory that is given back to the system has to be cleared, page by page, when it is taken anew: without an arena a
picture of 512 x 512 took a fifth longer in size S, and a training step a tenth.
"""

import mmap
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod

import numpy as np
import torch
from torch import Tensor

# Below this, torch's own allocation is as fast.
SMALLEST_BYTES = 64 * 1024
# An arena holds at most this many times the most that was in use at once, free blocks included.
SPARE = 1.5
# A block serves no tensor smaller than its own size divided by this: it may live for long.
MISFIT = 4

Block = np.ndarray[tuple[int], np.dtype[np.uint8]]


class Arena:
    """Blocks of memory. Inside `with arena.used():`, results of layers on this thread lie in them.

    A block is free again once the last tensor that lies in it is gone, on any thread. Only one thread at a time
    may use an arena.
    """

    def __init__(self) -> None:
        self._free: list[Block] = []
        self._in_use = self._most = 0

    @contextmanager
    def used(self) -> Iterator[None]:
        """Until the end, this thread's results come from here; afterwards from where they came before."""
        outer = current()
        _local.arena = self
        try:
            yield
        finally:
            _local.arena = outer

    def clear(self) -> None:
        """Give what is free back to the system."""
        self._free.clear()
        self._most = self._in_use

    def take(self, size: int) -> Tensor:
        """uint8 (size,), not cleared."""
        # The smallest that is large enough; of several, the last one freed, which may still be in the cache.
        fitting = [
            (block.nbytes, -place)
            for place, block in enumerate(self._free)
            if size <= block.nbytes <= MISFIT * size
        ]
        if fitting:
            block = self._free.pop(-min(fitting)[1])
        else:
            self._make_room(size)
            block = _fresh(size)
        self._in_use += block.nbytes
        self._most = max(self._most, self._in_use)
        # When the tensor is gone, so is this view of it, and the block comes back.
        view = block.view()
        weakref.finalize(view, self._take_back, block).atexit = False
        return torch.from_numpy(view)[:size]

    def _take_back(self, block: Block) -> None:
        self._in_use -= block.nbytes
        self._free.append(block)

    def _make_room(self, size: int) -> None:
        """Drop the blocks that have been free longest, if with `size` more the arena would hold too much."""
        held = self._in_use + sum(block.nbytes for block in self._free) + size
        while self._free and held > SPARE * self._most:
            held -= self._free.pop(0).nbytes


@contextmanager
def some_arena() -> Iterator[None]:
    """Until the end, this thread has an arena: the one that it has, or a new one."""
    with (current() or Arena()).used():
        yield


_local = threading.local()


def current() -> Arena | None:
    """The arena that this thread uses."""
    arena: Arena | None = getattr(_local, "arena", None)
    return arena


def empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """As torch.empty on a CPU, but from this thread's arena where there is one."""
    arena, size = current(), prod(shape) * dtype.itemsize
    if arena is None or size < SMALLEST_BYTES:
        return torch.empty(tuple(shape), dtype=dtype)
    return arena.take(size).view(dtype).view(tuple(shape))


def _fresh(size: int) -> Block:
    """New memory, in huge pages where the system offers them. Raises MemoryError."""
    # Private: what is shared has no huge pages on most systems, and a forked process would write into it.
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    try:
        memory = mmap.mmap(-1, size, **private)
    except OSError as error:
        raise MemoryError(f"no memory for activations of {size} bytes") from error
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)
