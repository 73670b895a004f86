"""Description of the machine: processor, threads, precisions."""

import os
import platform
from pathlib import Path

import torch

from engine.layers import kernels

FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def flags() -> list[str]:
    """The processor's features that decide the speed of products. Empty where the system does not list them."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.exists() else []
    found = next((line for line in lines if line.startswith("flags")), "").split()
    return [flag for flag in FLAGS if flag in found]


def processor(device: str = "cpu") -> str:
    """One line: architecture, features, threads, kernels and torch's version. For cuda, the GPU's name."""
    if device == "cuda":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    parts = [platform.machine(), *flags()]
    threads = f"{torch.get_num_threads()} threads"
    return f"{' '.join(parts)}, {threads}, kernels {kernels.name()}, torch {torch.__version__}"


def precisions(device: str = "cpu") -> tuple[str, ...]:
    """The types to measure: those that the device multiplies, and those that the kernels store."""
    if device == "cuda" or kernels.chosen():
        return ("float32", "bfloat16")
    return ("float32", "bfloat16") if {"avx512_bf16", "amx_bf16"} & set(flags()) else ("float32",)


def default_threads() -> int:
    """Two, as for published numbers, or one on a single core."""
    return min(2, os.cpu_count() or 1)
