"""What the benchmarks run on."""

import os
import platform
from pathlib import Path

import torch

from engine.layers import kernels

FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def flags() -> list[str]:
    """Of the processor's abilities those that decide how fast products are; none where they are not told."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    found = next((line for line in lines if line.startswith("flags")), "").split()
    return [flag for flag in FLAGS if flag in found]


def processor(device: str = "cpu") -> str:
    """Architecture, abilities, threads, the kernels in use and torch's version, in a line; or the GPU's name."""
    if device == "cuda":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    parts = [platform.machine(), *flags()]
    threads = f"{torch.get_num_threads()} threads"
    return f"{' '.join(parts)}, {threads}, kernels {kernels.name()}, torch {torch.__version__}"


def precisions(device: str = "cpu") -> tuple[str, ...]:
    """The types that are measured: those that the device multiplies, and all that the kernels store."""
    if device == "cuda" or kernels.chosen():
        return ("float32", "bfloat16")
    return ("float32", "bfloat16") if {"avx512_bf16", "amx_bf16"} & set(flags()) else ("float32",)


def default_threads() -> int:
    """Two, which is what published numbers are for, or as many as there are."""
    return min(2, os.cpu_count() or 1)
