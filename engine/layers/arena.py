"""Arena: memory for activations that its owner keeps and that is used again.

Memory that is given back to the system has to be cleared, page by page, when it is taken anew: without an arena a
image of 512 x 512 took a fifth longer in size S, and a training step a tenth.
"""

import mmap
import threading
import weakref
from bisect import insort
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from operator import itemgetter

import numpy as np
import torch
from torch import Tensor

# Below this, torch's own allocation is as fast.
SMALLEST_BYTES = 64 * 1024
# An arena that takes more from the system drops what is free, down to this many times the most that was in use.
SPARE = 1.25
# Tensors begin at multiples of this: at the start of a cache line, and not all at the same place of a page. Those
# that are read and written together would else fall on the same few places of the cache.
ALIGNMENT = 4096 + 64


class Arena:
    """Memory in slabs. Inside `with arena.used():`, results of layers on this thread lie in them.

    A tensor's memory is free again once the tensor and all that are parts of it are gone, on any thread. Only one
    thread at a time may use an arena.
    """

    def __init__(self) -> None:
        self._slabs: list[_Slab] = []
        # What is free again: put there by whatever thread it happens on, taken from there by `take`.
        self._returned: deque[tuple[_Slab, int, int]] = deque()
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
        """Give the slabs that are free back to the system."""
        self._collect()
        self._slabs = [slab for slab in self._slabs if not slab.free]
        self._most = self._in_use

    def take(self, size: int) -> Tensor:
        """uint8 (size,), not cleared."""
        self._collect()
        length = -(-size // ALIGNMENT) * ALIGNMENT
        self._most = max(self._most, self._in_use + length)
        fitting = [(gap, start, slab) for slab in self._slabs for start, gap in slab.gaps if gap >= length]
        if not fitting:
            self._make_room(length)
            self._slabs.append(_Slab(length))
            fitting = [(length, 0, self._slabs[-1])]
        gap, start, slab = min(fitting, key=itemgetter(0))
        slab.take(start, gap, length)
        self._in_use += length
        # When the tensor is gone, so is this view of the memory.
        view = slab.memory[start : start + size]
        weakref.finalize(view, self._returned.append, (slab, start, length)).atexit = False
        return torch.from_numpy(view)

    @property
    def held(self) -> int:
        """Bytes, what is free included."""
        return sum(slab.memory.nbytes for slab in self._slabs)

    def _collect(self) -> None:
        while self._returned:
            slab, start, length = self._returned.popleft()
            slab.give_back(start, length)
            self._in_use -= length

    def _make_room(self, length: int) -> None:
        """Drop the oldest slabs that are free, if with so much more the arena would hold too much."""
        for slab in list(self._slabs):
            if self.held + length <= SPARE * self._most:
                return
            if slab.free:
                self._slabs.remove(slab)


class _Slab:
    """A piece of memory, and the gaps in it: where each begins, and its length, in order."""

    def __init__(self, size: int) -> None:
        self.memory = _fresh(size)
        self.gaps: list[tuple[int, int]] = [(0, size)]

    @property
    def free(self) -> bool:
        """Whether nothing lies in it."""
        return self.gaps == [(0, self.memory.nbytes)]

    def take(self, start: int, gap: int, length: int) -> None:
        """Leave so much less of a gap."""
        self.gaps.remove((start, gap))
        if gap > length:
            insort(self.gaps, (start + length, gap - length))

    def give_back(self, start: int, length: int) -> None:
        """Join what is free again with the gaps beside it."""
        insort(self.gaps, (start, length))
        joined: list[tuple[int, int]] = []
        for begin, size in self.gaps:
            if joined and sum(joined[-1]) == begin:
                joined[-1] = (joined[-1][0], joined[-1][1] + size)
            else:
                joined.append((begin, size))
        self.gaps = joined


@contextmanager
def ensure_arena() -> Iterator[None]:
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


def _fresh(size: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
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
