"""Work in strips that fit the cache, one after the other, in memory that is used again and again.

Within a strip torch's own threads share each product. Measured against threads of ours with a strip, or a window
of the picture, for each: those wait for the interpreter's lock between products, which cost as much as they won.
"""

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

# What a strip unfolds to: enough that calls take little of the time, no more than the third-level cache holds.
# Half as much cost M's forward a seventh on two cores of a Zen 5, whose products take the least time; twice as
# much was as fast.
STRIP_BYTES = 12 * 2**20
# On a GPU the fewer products the better, and the limit is one of memory.
DEVICE_STRIP_BYTES = 2**28
# Memory that is kept beyond the most that was in use at once. A page that is given back has to be cleared when
# taken anew: in a training step that cost a tenth of the time.
KEPT_BYTES = 32 * 2**20
# What is left of that most, each time that new memory is needed: who needed more long ago may not come again.
FADING = 0.98
ALIGNMENT = 64


class Strip(NamedTuple):
    """Part of a batch (N, H, W, C): some samples, and of these some rows."""

    samples: slice
    rows: slice


WHOLE = Strip(slice(None), slice(None))

# Changes in place a part of a result that has just been made and is still in the cache. It is given the part
# and its place in the whole.
Finish = Callable[[Tensor, Strip], None]


def strips(samples: int, rows: int, row_bytes: int, device: torch.device) -> Iterator[Strip]:
    """A batch cut into strips of at most STRIP_BYTES: whole samples, or rows of one; evenly.

    row_bytes: what one row of one sample takes in the cache, all that is made from it included.
    """
    most = (STRIP_BYTES if device.type == "cpu" else DEVICE_STRIP_BYTES) // row_bytes
    each_sample, each_row = _evenly(samples, most // rows), _evenly(rows, most)
    for sample in range(0, samples, each_sample):
        for row in range(0, rows, each_row):
            yield Strip(slice(sample, min(sample + each_sample, samples)), slice(row, min(row + each_row, rows)))


def each_strip(x: Tensor, work: Callable[[Strip], None]) -> None:
    """Do the work for every strip of a batch (N, H, W, C)."""
    row = x.shape[2:].numel() * x.element_size()
    for strip in strips(x.shape[0], x.shape[1], 2 * row, x.device):
        work(strip)


def _evenly(count: int, most: int) -> int:
    """The size of the parts, at most `most` and at least 1, that share out `count` as evenly as can be."""
    parts = max(1, -(-count // max(1, most)))
    return max(1, -(-count // parts))


class _Memory:
    """Blocks that are handed out again once no tensor is left that lies in them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        # What a block's references are counted as while no tensor has one: the list's, and the question's own.
        self.blocks: list[np.ndarray[tuple[int], np.dtype[np.uint8]]] = [np.empty(1, np.uint8)]
        self.alone = self._references(0)
        self.blocks.clear()
        # The most bytes that were in use at once, as far as they are remembered.
        self.most = 0.0

    def take(self, size: int) -> Tensor:
        """uint8 (size,), not cleared."""
        with self.lock:
            # The last one used first: it may still be in the cache.
            for place in range(len(self.blocks) - 1, -1, -1):
                held = self.blocks[place].nbytes - ALIGNMENT
                if size <= held <= size + size // 4 and self._is_free(place):
                    self.blocks.append(self.blocks.pop(place))
                    break
            else:
                self._let_go(size)
                self.blocks.append(np.empty(size + ALIGNMENT, np.uint8))
            block = self.blocks[-1]
            start = -block.ctypes.data % ALIGNMENT
            # The tensor holds a reference to the array, and every tensor that lies in it one to its memory.
            return torch.from_numpy(block[start : start + size])

    def _is_free(self, place: int) -> bool:
        return self._references(place) == self.alone

    def _references(self, place: int) -> int:
        return sys.getrefcount(self.blocks[place])

    def _let_go(self, size: int) -> None:
        """Before a block of that size is made: of those that nothing uses, the ones longest unused, until no more
        is left than was in use at once, and KEPT_BYTES.
        """
        free = [place for place in range(len(self.blocks)) if self._is_free(place)]
        spare = sum(self.blocks[place].nbytes for place in free)
        used = sum(block.nbytes for block in self.blocks) - spare + size
        self.most = max(used, FADING * self.most)
        spare -= int(self.most) - used + KEPT_BYTES
        for dropped, place in enumerate(free):
            if spare <= 0:
                return
            spare -= self.blocks.pop(place - dropped).nbytes


_memory = _Memory()


def empty(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """As torch.empty, but on a CPU in memory that was used before where there is some."""
    count = prod(shape)
    if device.type != "cpu" or not count:
        return torch.empty(tuple(shape), dtype=dtype, device=device)
    return _memory.take(count * dtype.itemsize).view(dtype).view(tuple(shape))


def empty_like(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """As torch.empty_like, contiguous, in memory that was used before where there is some."""
    return empty(x.shape, dtype or x.dtype, x.device)
