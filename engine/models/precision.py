"""Device and precision: which device to run on, and in which type. "auto" times both types once a machine."""

import json
import os
import platform
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch

from engine.layers import Arena, Conv2d, Module, ResBlock, kernels
from engine.system.atomic_file import write_atomically

# "auto" means bfloat16 only where it is at least this many times as fast as float32, since it keeps 8 bits of a
# number. That is so on GPUs, and on processors with AMX. Elsewhere the kernels store bfloat16 and compute in
# float32: 1.1 times as fast and half the memory, for those who ask for it by name.
MIN_SPEEDUP = 1.3
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# In the user's folder for caches: for each machine and version, the type that "auto" means.
CACHE_FILE = Path("denoise", "precision.json")


def pick_device(device: str) -> torch.device:
    """The device for "cpu", "cuda" or "auto", which prefers a GPU.

    Raises ValueError for another name, and for "cuda" without a GPU.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device is one of auto, cpu, cuda; got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is cuda, but torch finds no GPU; use cpu or auto")
    # Untried, as all lines for GPUs: nobody has run them yet. tests/engine/test_gpu.py and its like try them.
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def resolve(precision: str, device: torch.device | str = "cpu") -> torch.dtype:
    """The type for "float32", "bfloat16" or "auto", which measures both, or remembers an earlier measurement.

    Raises ValueError for another name.
    """
    if precision == "auto":
        return _measured_once(device)
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


def _measured_once(device: torch.device | str) -> torch.dtype:
    """The result of `measure`, from the cache if it is there. A cache that cannot be used is no error."""
    machine, file = _machine(device), _cache_file()
    known = _read_cache(file)
    if (name := known.get(machine)) in TYPES:
        return TYPES[name]
    dtype = measure(device)
    if file:
        # A service may have no home folder, or one that it cannot write to.
        with suppress(OSError):
            write_atomically(file, json.dumps({**known, machine: name_of(dtype)}, indent=1).encode())
    return dtype


def _machine(device: torch.device | str) -> str:
    """What the measurement depends on: the processor or GPU, the kernels and the version of torch."""
    # Untried on a GPU.
    on_gpu = torch.device(device).type == "cuda"
    processor = torch.cuda.get_device_name(device) if on_gpu else _processor()
    sources = f"{kernels.hash_of_sources():08x}"
    return ", ".join((processor, f"kernels {kernels.name()} {sources}", f"torch {torch.__version__}"))


def _processor() -> str:
    with suppress(OSError):
        # Of the first core. ARM's cores have numbers in place of a name.
        first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
        if names := [line for line in first if line.startswith(("model name", "CPU implementer", "CPU part"))]:
            return " ".join(name.partition(":")[2].strip() for name in names)
    return platform.processor() or platform.machine()


def _cache_file() -> Path | None:
    """None if the user has no folder for caches."""
    given = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME", "")
    # The XDG Base Directory Specification: ignore a path that is not absolute.
    if Path(given).is_absolute():
        return Path(given) / CACHE_FILE
    try:
        return Path.home() / ".cache" / CACHE_FILE
    except RuntimeError:
        return None


def _read_cache(file: Path | None) -> Mapping[str, str]:
    """Empty if there is no cache, or none that can be read."""
    try:
        known = json.loads(file.read_bytes()) if file else {}
    except (OSError, ValueError):
        return {}
    return (
        {name: value for name, value in known.items() if isinstance(value, str)}
        if isinstance(known, dict)
        else {}
    )


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
