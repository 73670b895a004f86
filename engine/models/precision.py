"""Where to run and in which type: the type decided by timing, not by a list of processors."""

import time

import torch

from engine.layers import Arena, Conv2d, Module, ResBlock

# bfloat16 keeps 8 bits of a number, so it is taken only where it is this much faster: on a GPU, and on a
# processor with AMX. Elsewhere the kernels store in bfloat16 and compute in float32, which is
# about 1.1 times as fast: that is for those who ask for it, for half the memory.
WORTH = 1.3
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def pick_device(device: str) -> torch.device:
    """The device for "cpu", "cuda" or "auto", which is a GPU where there is one.

    Raises ValueError for another name, or if there is no GPU to use.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device is one of auto, cpu, cuda; got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is cuda, and torch finds no GPU here")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def resolve(precision: str, device: torch.device | str = "cpu") -> torch.dtype:
    """The type for "float32", "bfloat16" or "auto": the latter times a residual block in each.

    Raises ValueError naming what came and what is taken.
    """
    if precision == "auto":
        return measure(device)
    if precision not in TYPES:
        raise ValueError(f"precision is one of auto, {', '.join(TYPES)}; got {precision!r}")
    return TYPES[precision]


def name_of(dtype: torch.dtype) -> str:
    """The type's name, as `resolve` takes it."""
    return next(name for name, type_ in TYPES.items() if type_ == dtype)


def measure(device: torch.device | str = "cpu", repeats: int = 9) -> torch.dtype:
    """bfloat16 where it is at least 1.3 times as fast as float32, else float32."""
    rng = torch.Generator().manual_seed(0)
    block = ResBlock(Conv2d(64, 64, 3, padding=1, rng=rng), Conv2d(64, 64, 3, padding=1, rng=rng))
    for layer in (block.first, block.second):
        layer.params = {key: value.to(device) for key, value in layer.params.items()}
    # As large as a window at a lower level: on a smaller one calls take longer than products.
    patch = torch.randn(1, 128, 128, 64, generator=rng).to(device)
    seconds = {dtype: _least_seconds(block, patch.to(dtype), repeats) for dtype in TYPES.values()}
    return torch.bfloat16 if seconds[torch.float32] > WORTH * seconds[torch.bfloat16] else torch.float32


def _least_seconds(block: Module, patch: torch.Tensor, repeats: int) -> float:
    taken = []
    with Arena().used():
        for _ in range(repeats + 1):
            start = time.perf_counter()
            # Reading a number waits for a GPU to finish.
            block.forward(patch)[:, -1, -1].sum().item()
            taken.append(time.perf_counter() - start)
    # The first run warms up. Not the median: beside other work it picked now one type and now the other.
    return min(taken[1:])
