"""Device and precision: which device to run on, and in which type. "auto" times both types."""

import time

import torch

from engine.layers import Arena, Conv2d, Module, ResBlock

# "auto" means bfloat16 only where it is at least this many times as fast as float32, since it keeps 8 bits of a
# number. That is so on GPUs, and on processors with AMX. Elsewhere the kernels store bfloat16 and compute in
# float32: 1.1 times as fast and half the memory, for those who ask for it by name.
MIN_SPEEDUP = 1.3
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def pick_device(device: str) -> torch.device:
    """The device for "cpu", "cuda" or "auto", which prefers a GPU.

    Raises ValueError for another name, and for "cuda" without a GPU.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device is one of auto, cpu, cuda; got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is cuda, but torch finds no GPU; use cpu or auto")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def resolve(precision: str, device: torch.device | str = "cpu") -> torch.dtype:
    """The type for "float32", "bfloat16" or "auto", which measures both.

    Raises ValueError for another name.
    """
    if precision == "auto":
        return measure(device)
    if precision not in TYPES:
        raise ValueError(f"precision is one of auto, {', '.join(TYPES)}; got {precision!r}")
    return TYPES[precision]


def name_of(dtype: torch.dtype) -> str:
    """The type's name; the inverse of `resolve`."""
    return next(name for name, type_ in TYPES.items() if type_ == dtype)


def measure(device: torch.device | str = "cpu", repeats: int = 9) -> torch.dtype:
    """bfloat16 if it is faster than float32 by MIN_SPEEDUP for a residual block; otherwise float32."""
    rng = torch.Generator().manual_seed(0)
    block = ResBlock(Conv2d(64, 64, 3, padding=1, rng=rng), Conv2d(64, 64, 3, padding=1, rng=rng))
    for layer in (block.first, block.second):
        layer.params = {key: value.to(device) for key, value in layer.params.items()}
    # As large as a window at a lower level. On a smaller patch, calls take longer than products.
    patch = torch.randn(1, 128, 128, 64, generator=rng).to(device)
    seconds = {dtype: _least_seconds(block, patch.to(dtype), repeats) for dtype in TYPES.values()}
    return torch.bfloat16 if seconds[torch.float32] > MIN_SPEEDUP * seconds[torch.bfloat16] else torch.float32


def _least_seconds(block: Module, patch: torch.Tensor, repeats: int) -> float:
    times = []
    with Arena().used():
        for _ in range(repeats + 1):
            start = time.perf_counter()
            # Reading a value waits until the GPU has finished.
            block.forward(patch)[:, -1, -1].sum().item()
            times.append(time.perf_counter() - start)
    # The first run warms up. The least, not the median: on a busy machine the median chose either type.
    return min(times[1:])
