"""Build backend (PEP 517): compiles the kernels in C. setuptools does the rest.

- The compiler is $CC, or else `cc`. If it does not work, pip fetches a compiler, the PyPI package `ziglang`.
- A library that cannot be compiled is left out. Without any library, the layers compute in torch.
- With DENOISE_KERNELS=plain, nothing is compiled and no compiler is fetched.
"""

import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import zlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from setuptools import build_meta
from setuptools.build_meta import (
    build_sdist,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

ConfigSettings = Mapping[str, str | list[str] | None] | None

HERE = Path(__file__).parent
LIBRARIES = HERE / "lib"
SYSTEM = platform.system()
MACHINE = {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
SUFFIX = {"Windows": ".dll", "Darwin": ".dylib"}.get(SYSTEM, ".so")

CC = "cc"
ZIG = "zig"
COMMANDS = {
    CC: shlex.split(os.environ.get("CC") or "cc"),
    # pip installs the package for this Python only.
    ZIG: [sys.executable, "-m", "ziglang", "cc", "-s"],
}
ZIG_PACKAGE = "ziglang>=0.14,<1"
FLAGS = "-O3 -std=gnu11 -fPIC -shared -fvisibility=hidden -ffp-contract=fast -Wall -Wextra -Wno-psabi"
THREADS = "" if SYSTEM == "Windows" else "-pthread"
# The variants for each machine type, and the flags of each compiler for them. Best first.
VARIANTS = {
    "x86_64": {
        "amx": {
            CC: "-march=x86-64-v4 -mamx-tile -mamx-bf16 -mavx512bf16",
            ZIG: "-mcpu=x86_64_v4+avx512bf16+amx_tile+amx_bf16",
        },
        "avx512bf16": {CC: "-march=x86-64-v4 -mavx512bf16", ZIG: "-mcpu=x86_64_v4+avx512bf16"},
        "avx512": {CC: "-march=x86-64-v4", ZIG: "-mcpu=x86_64_v4"},
        "avx2": {CC: "-march=x86-64-v3", ZIG: "-mcpu=x86_64_v3"},
    },
    # Without -mcpu, zig compiles for the processor that it runs on.
    "aarch64": {"neon": {CC: "", ZIG: "-mcpu=baseline"}},
}


def get_requires_for_build_wheel(config_settings: ConfigSettings = None) -> list[str]:
    return [*build_meta.get_requires_for_build_wheel(config_settings), *compiler_required()]


def get_requires_for_build_editable(config_settings: ConfigSettings = None) -> list[str]:
    return [*build_meta.get_requires_for_build_editable(config_settings), *compiler_required()]


def build_wheel(
    wheel_directory: str, config_settings: ConfigSettings = None, metadata_directory: str | None = None
) -> str:
    """A wheel for this platform and any Python; without a library, for any platform."""
    # setuptools packs everything in this folder. The libraries are copied there, not declared as package data, so
    # they are in the wheel and never in a source distribution.
    packed = Path("build", "lib", "engine", "layers", "kernels", "lib")
    shutil.rmtree(packed, ignore_errors=True)
    if compile_libraries():
        packed.mkdir(parents=True)
        for variant in variants_here():
            with suppress(FileNotFoundError):
                shutil.copy2(library(variant), packed)
        settings = dict(config_settings or {})
        options = settings.get("--build-option") or []
        options = shlex.split(options) if isinstance(options, str) else options
        config_settings = {**settings, "--build-option": [*options, "--plat-name", sysconfig.get_platform()]}
    name: str = build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)
    return name


def build_editable(
    wheel_directory: str, config_settings: ConfigSettings = None, metadata_directory: str | None = None
) -> str:
    """A wheel that refers to the source tree. The libraries are compiled there."""
    compile_libraries()
    name: str = build_meta.build_editable(wheel_directory, config_settings, metadata_directory)
    return name


def compiler_required() -> list[str]:
    """The package with a compiler, if something must be compiled and `cc` does not work."""
    return [ZIG_PACKAGE] if outdated() and not cc_works() else []


def compile_libraries() -> bool:
    """Compile the outdated libraries, all at once. Returns whether there is any library afterwards."""
    if variants := outdated():
        LIBRARIES.mkdir(exist_ok=True)
        compiler = CC if cc_works() else ZIG
        with TemporaryDirectory(dir=LIBRARIES) as folder, ThreadPoolExecutor() as pool:
            list(pool.map(lambda variant: compile_library(compiler, variant, Path(folder)), variants))
    return any(library(variant).exists() for variant in variants_here())


def compile_library(compiler: str, variant: str, folder: Path) -> None:
    """Replace the library of a variant, or remove it if compiling fails: it does not fit the sources."""
    output = folder / library(variant).name
    if run(compiler, variant, HERE.glob("*.c"), output):
        output.replace(library(variant))
    else:
        library(variant).unlink(missing_ok=True)
        print(f"kernels: {variant} could not be compiled and is left out", flush=True)


def cc_works() -> bool:
    """Whether `cc` compiles one source file for the simplest variant."""
    with TemporaryDirectory() as folder:
        return run(CC, variants_here()[-1], [HERE / "threads.c"], Path(folder, "trial"))


def run(compiler: str, variant: str, sources: Iterable[Path], output: Path) -> bool:
    """Run a compiler. Returns whether it succeeded. `pip -v` shows its output."""
    define = f"-DKERNELS_SOURCES={hash_of_sources()}u"
    flags = shlex.split(f"{FLAGS} {THREADS} {define} {VARIANTS[MACHINE][variant][compiler]}")
    command = [*COMMANDS[compiler], *flags, "-o", str(output), *sorted(map(str, sources))]
    # Keep zig's cache out of the home directory.
    caches = dict.fromkeys(("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR"), str(output.parent))
    print(shlex.join(command), flush=True)
    try:
        return subprocess.run(command, env=os.environ | caches).returncode == 0
    except OSError as error:
        print(f"kernels: {error}", flush=True)
        return False


def hash_of_sources() -> int:
    """Compiled into each library. The loader compares it; its own copy of this function needs no setuptools."""
    return zlib.crc32(b"".join(file.read_bytes() for file in sorted(HERE.glob("*.[ch]"))))


def outdated() -> list[str]:
    """The variants for this machine whose library is missing, or older than a source file or this file."""
    newest = max(file.stat().st_mtime for file in (*HERE.glob("*.[ch]"), Path(__file__)))
    files = {variant: library(variant) for variant in variants_here()}
    return [variant for variant, file in files.items() if not file.exists() or file.stat().st_mtime < newest]


def variants_here() -> list[str]:
    """The variants for this machine, best first. AMX is supported on Linux only."""
    if os.environ.get("DENOISE_KERNELS") == "plain":
        return []
    return [name for name in VARIANTS.get(MACHINE, {}) if name != "amx" or SYSTEM == "Linux"]


def library(variant: str) -> Path:
    return LIBRARIES / f"{variant}{SUFFIX}"
