"""Kernels in C: loads the best compiled library for this processor and declares its functions.

The environment variable `DENOISE_KERNELS` overrides the choice: auto, amx, avx512bf16, avx512, avx2, neon, or
plain (no library: the layers compute in torch).
"""

import ctypes
import os
import platform
import zlib
from collections.abc import Sequence
from ctypes import POINTER, c_int, c_ssize_t, c_void_p
from functools import cache
from pathlib import Path

import torch

LIBRARIES = Path(__file__).parent / "lib"
SUFFIX = {"Windows": ".dll", "Darwin": ".dylib"}.get(platform.system(), ".so")
# Best first. A processor that runs a variant also runs those after it.
VARIANTS = {"x86_64": ("amx", "avx512bf16", "avx512", "avx2"), "aarch64": ("neon",)}
PLAIN = "plain"
SETTING = "DENOISE_KERNELS"


class Shape(ctypes.Structure):
    """The struct Conv of kernels.h."""

    _fields_ = [
        (name, c_ssize_t)
        for name in (
            *("n", "height", "width", "in_channels", "out_height", "out_width", "out_channels"),
            *("kernel_size", "stride", "padding", "dilation", "half", "threads", "limit"),
        )
    ]


class Epilogue(ctypes.Structure):
    """The struct Epilogue of kernels.h."""

    _fields_ = [("bias", c_void_p), ("add", c_void_p), ("mask", c_void_p), ("relu", c_ssize_t)]


class Library:
    """The functions of one variant, as kernels.h declares them."""

    def __init__(self, variant: str) -> None:
        """Raises OSError if the file is missing, cannot be loaded or was compiled from other sources."""
        self.variant = variant
        library = ctypes.CDLL(str(LIBRARIES / f"{variant}{SUFFIX}"))
        if not hasattr(library, "kernels_sources") or library.kernels_sources() != hash_of_sources():
            raise OSError(f"{variant}{SUFFIX} was compiled from other sources: install denoise again")
        shape = POINTER(Shape)
        self.conv_packed_size = library.conv_packed_size
        self.conv_packed_size.argtypes, self.conv_packed_size.restype = [shape, c_int], c_ssize_t
        self.conv_pack = library.conv_pack
        self.conv_pack.argtypes = [shape, c_int, c_void_p, c_ssize_t, c_ssize_t, c_void_p]
        self.conv_product = library.conv_product
        self.conv_product.argtypes = [shape, c_int, c_void_p, c_void_p, POINTER(Epilogue), c_void_p]
        self.conv_weight_gradient = library.conv_weight_gradient
        self.conv_weight_gradient.argtypes = [shape, c_void_p, c_void_p, c_void_p, c_int]
        self.sum_columns = library.sum_columns
        self.sum_columns.argtypes = [c_ssize_t, c_ssize_t, c_void_p, c_int, c_void_p, c_ssize_t]
        self.rearrange_pixels = library.rearrange_pixels
        self.rearrange_pixels.argtypes = [
            *(c_int, c_ssize_t, c_ssize_t, c_ssize_t, c_ssize_t),
            *(c_void_p, c_int, c_void_p, c_void_p, c_int, c_ssize_t),
        ]
        if variant == "amx" and library.tiles_allow():
            raise OSError("the operating system does not allow this process to use AMX")


def hash_of_sources() -> int:
    """The value of KERNELS_SOURCES in a library that was compiled from the sources in this folder."""
    return zlib.crc32(b"".join(file.read_bytes() for file in sorted(LIBRARIES.parent.glob("*.[ch]"))))


def runnable() -> Sequence[str]:
    """The variants that this processor can run, best first."""
    machine = {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
    variants = VARIANTS.get(machine, ())
    if machine != "x86_64":
        return variants
    level = torch.backends.cpu.get_cpu_capability()
    if level not in ("AVX512", "AVX2"):
        return ()
    best, info = level.lower(), Path("/proc/cpuinfo")
    flags = info.read_text().split() if info.exists() else []
    if best == "avx512" and "avx512_bf16" in flags:
        best = "amx" if "amx_bf16" in flags else "avx512bf16"
    return variants[variants.index(best) :]


@cache
def chosen() -> Library | None:
    """The library that the layers use; None for the plain path. Raises ValueError for a bad setting."""
    setting = os.environ.get(SETTING, "auto")
    known = ("auto", *(variant for variants in VARIANTS.values() for variant in variants), PLAIN)
    if setting not in known:
        raise ValueError(f"{SETTING} must be one of {', '.join(known)}; got {setting!r}")
    if setting == PLAIN:
        return None
    if setting != "auto" and setting not in runnable():
        raise ValueError(
            f"{SETTING} is {setting}, which this processor cannot run; it runs {', '.join((*runnable(), PLAIN))}"
        )
    for variant in runnable() if setting == "auto" else (setting,):
        try:
            return Library(variant)
        except OSError as error:
            if setting != "auto":
                raise ValueError(f"{SETTING} is {setting}, which could not be loaded: {error}") from error
    return None


def name() -> str:
    """The variant in use, or "plain"."""
    library = chosen()
    return library.variant if library else PLAIN


def warning() -> str | None:
    """One line for the start of a program that runs the plain path without DENOISE_KERNELS=plain."""
    if chosen() or os.environ.get(SETTING) == PLAIN:
        return None
    if not runnable():
        return f"there are no kernels for this processor; {SETTING}={PLAIN} turns this warning off"
    slower = "so networks run about three times slower"
    if any((LIBRARIES / f"{variant}{SUFFIX}").exists() for variant in runnable()):
        return f"the compiled kernels are of another version, {slower}: install denoise again"
    return (
        f"no compiled kernels were found, {slower}: install a C compiler, then install denoise again;"
        " `pip install -v` shows the compiler's errors"
    )
