"""The product of two matrices, by the fastest of the libraries that torch brings along.

torch multiplies float32 with the BLAS that it was built with, which on processors of another maker than its own
leaves half of their width unused. There oneDNN, with which torch multiplies bfloat16, is 2.2 times as fast: 240
GFLOP/s a core instead of 107 on an AMD Zen 5. Which of the two is faster is timed, once.
"""

import time
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from engine.layers.strips import empty

# How much faster oneDNN has to be: it takes no memory for its result, and its own costs a copy here and there.
WORTH = 1.2
# Multiplications below which its longer call takes more time than it saves: 11 microseconds instead of 1.4.
FEWEST = 2**20
# Rows from which on oneDNN makes inner products: it copies a matrix first, which fewer do not repay.
DEEP = 512


def product(a: Tensor, b: Tensor) -> Tensor:
    """a (m, k), its rows in one run each, @ b (k, n) -> (m, n), contiguous."""
    if by_onednn(a, b):
        return _onednn(a, b)
    return torch.mm(a, b, out=empty((len(a), b.shape[1]), a.dtype, a.device))


def product_into(out: Tensor, a: Tensor, b: Tensor) -> None:
    """The same, in memory that is there."""
    if by_onednn(a, b):
        out.copy_(_onednn(a, b))
    else:
        torch.mm(a, b, out=out)


def products_into(out: Tensor, a: Tensor, b: Tensor) -> None:
    """The same for each of several: out (l, m, n), a (l, m, k), b (l, k, n)."""
    if by_onednn(a[0], b[0]):
        for made, left, right in zip(out, a, b, strict=True):
            made.copy_(_onednn(left, right))
    else:
        torch.bmm(a, b, out=out)


def inner(a: Tensor, b: Tensor) -> Tensor:
    """For each of several, of a (l, k, m) and b (l, k, n): a' @ b, (l, m, n)."""
    made = empty((len(a), a.shape[2], b.shape[2]), a.dtype, a.device)
    if len(b[0]) >= DEEP and by_onednn(a[0], b[0]):
        for out, left, right in zip(made, a, b, strict=True):
            # The narrower first, for that one is copied: the other way about took up to 14 times as long.
            if left.shape[1] < right.shape[1]:
                out.copy_(_onednn(left.T, right))
            else:
                out.copy_(_onednn(right.T, left).T)
    else:
        torch.bmm(a.transpose(1, 2), b, out=made)
    return made


def by_onednn(a: Tensor, b: Tensor) -> bool:
    """Whether oneDNN makes this product, in memory of its own."""
    if a.dtype != torch.float32 or a.device.type != "cpu" or a.numel() * b.shape[1] < FEWEST:
        return False
    return onednn_is_faster()


@cache
def onednn_is_faster() -> bool:
    """Whether oneDNN multiplies float32 faster than torch's BLAS does."""
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    a, b = torch.ones(2048, 192), torch.ones(192, 192)
    return seconds(lambda: torch.mm(a, b)) > WORTH * seconds(lambda: _onednn(a, b))


def _onednn(a: Tensor, b: Tensor) -> Tensor:
    # The operator that torch.compile makes of a product. It wants b with its rows and columns exchanged.
    made: Tensor = torch.ops.mkldnn._linear_pointwise(a, b.T, None, "none", [], "")
    return made


def seconds(work: Callable[[], object], repeats: int = 9) -> float:
    """How long it takes, the least of some times: whatever else runs on the machine can only add to it."""
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return min(taken)
