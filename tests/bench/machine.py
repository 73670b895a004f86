"""What the benchmarks run on."""

import os
import platform
from pathlib import Path

import torch

FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def flags() -> list[str]:
    """Of the processor's abilities those that decide how fast products are; none where they are not told."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    found = next((line for line in lines if line.startswith("flags")), "").split()
    return [flag for flag in FLAGS if flag in found]


def processor() -> str:
    """Architecture, abilities, threads and torch's version, in a line."""
    parts = [platform.machine(), *flags()]
    return f"{' '.join(parts)}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def precisions() -> tuple[str, ...]:
    """The types that the processor multiplies in hardware."""
    return ("float32", "bfloat16") if {"avx512_bf16", "amx_bf16"} & set(flags()) else ("float32",)


def default_threads() -> int:
    """Two, which is what published numbers are for, or as many as there are."""
    return min(2, os.cpu_count() or 1)
