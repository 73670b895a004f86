"""Arena: memory for activations that is kept and reused.

The system clears each page of memory that a program takes anew. Without an arena, a 512 x 512 image took a fifth
longer in size S, and a training step a tenth longer.
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

# For less than this, torch's own allocation is as fast.
SMALLEST_BYTES = 64 * 1024
# Before an arena grows beyond this many times the most that was in use at once, it drops free slabs.
SPARE = 1.25
# In bytes. Tensors begin at multiples of this: at a cache line, but not all at the same offset in a page. Tensors
# that are read and written together would otherwise compete for the same few sets of the cache.
ALIGNMENT = 4096 + 64


class Arena:
    """Memory in slabs. Inside `with arena.used():`, the layers on this thread put their results there.

    The memory of a tensor is free again when the tensor and all views of it are gone, on any thread. Only one
    thread at a time may use an arena.
    """

    def __init__(self) -> None:
        self._slabs: list[_Slab] = []
        # Memory that is free again. Any thread appends to it; `take` empties it.
        self._returned: deque[tuple[_Slab, int, int]] = deque()
        self._in_use = self._most = 0

    @contextmanager
    def used(self) -> Iterator[None]:
        """Inside the block, this thread takes memory from here; afterwards from where it did before."""
        outer = current()
        _local.arena = self
        try:
            yield
        finally:
            _local.arena = outer

    def clear(self) -> None:
        """Return free slabs to the system."""
        self._collect()
        self._slabs = [slab for slab in self._slabs if not slab.free]
        self._most = self._in_use

    def take(self, size: int) -> Tensor:
        """uint8 (size,), uninitialised."""
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
        # This view lives as long as the tensor and all views of it.
        view = slab.memory[start : start + size]
        weakref.finalize(view, self._returned.append, (slab, start, length)).atexit = False
        return torch.from_numpy(view)

    @property
    def held(self) -> int:
        """Bytes taken from the system, in use or free."""
        return sum(slab.memory.nbytes for slab in self._slabs)

    def _collect(self) -> None:
        while self._returned:
            slab, start, length = self._returned.popleft()
            slab.give_back(start, length)
            self._in_use -= length

    def _make_room(self, length: int) -> None:
        """Drop free slabs, the oldest first, until `length` more bytes fit the limit."""
        for slab in list(self._slabs):
            if self.held + length <= SPARE * self._most:
                return
            if slab.free:
                self._slabs.remove(slab)


class _Slab:
    """A piece of memory and its gaps, (start, length) each, in order."""

    def __init__(self, size: int) -> None:
        self.memory = _fresh(size)
        self.gaps: list[tuple[int, int]] = [(0, size)]

    @property
    def free(self) -> bool:
        return self.gaps == [(0, self.memory.nbytes)]

    def take(self, start: int, gap: int, length: int) -> None:
        """Take `length` bytes from the front of a gap."""
        self.gaps.remove((start, gap))
        if gap > length:
            insort(self.gaps, (start + length, gap - length))

    def give_back(self, start: int, length: int) -> None:
        """Free these bytes, and join them with the gaps beside them."""
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
    """Inside the block, this thread has an arena: its current one, or else a new one."""
    with (current() or Arena()).used():
        yield


_local = threading.local()


def current() -> Arena | None:
    """The arena that this thread uses, if any."""
    arena: Arena | None = getattr(_local, "arena", None)
    return arena


def empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """As torch.empty on the CPU, but from the arena that this thread uses, if any."""
    arena, size = current(), prod(shape) * dtype.itemsize
    if arena is None or size < SMALLEST_BYTES:
        return torch.empty(tuple(shape), dtype=dtype)
    return arena.take(size).view(dtype).view(tuple(shape))


def _fresh(size: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """New memory, in huge pages where the system has them. Raises MemoryError."""
    # Private: shared memory has no huge pages on most systems, and a forked process would write into it.
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    try:
        memory = mmap.mmap(-1, size, **private)
    except OSError as error:
        raise MemoryError(f"out of memory: activations need {size} bytes") from error
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)
