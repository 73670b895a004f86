"""Build backend (PEP 517): compiles the kernels in C and leaves the rest to setuptools.

The compiler is the one that CC names, else the system's `cc`. If it is missing or fails to compile a trial, pip
fetches the PyPI package `ziglang`, which has one. A library that cannot be compiled is left out, and the
installation goes on: without any library the layers compute in torch. DENOISE_KERNELS=plain has nothing compiled,
and nothing fetched.
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

CC, ZIG = "cc", "zig"
COMMANDS = {
    CC: shlex.split(os.environ.get("CC") or "cc"),
    # sys.executable: pip installs the package for this Python alone.
    ZIG: [sys.executable, "-m", "ziglang", "cc", "-s"],
}
ZIG_PACKAGE = "ziglang>=0.14,<1"
FLAGS = "-O3 -std=gnu11 -fPIC -shared -fvisibility=hidden -ffp-contract=fast -Wall -Wextra -Wno-psabi"
THREADS = "" if SYSTEM == "Windows" else "-pthread"
# The libraries for each kind of machine, and each compiler's flags for the processor.
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
    # Without -mcpu zig compiles for the very processor that it runs on.
    "aarch64": {"neon": {CC: "", ZIG: "-mcpu=baseline"}},
}


def get_requires_for_build_wheel(config_settings: ConfigSettings = None) -> list[str]:
    """The packages that pip installs before it builds a wheel."""
    return [*build_meta.get_requires_for_build_wheel(config_settings), *compiler_required()]


def get_requires_for_build_editable(config_settings: ConfigSettings = None) -> list[str]:
    """The packages that pip installs before it makes an editable installation."""
    return [*build_meta.get_requires_for_build_editable(config_settings), *compiler_required()]


def build_wheel(
    wheel_directory: str, config_settings: ConfigSettings = None, metadata_directory: str | None = None
) -> str:
    """A wheel for this platform and any Python; or, without a library, for any platform."""
    # setuptools packs what it finds in this folder, beside what it copies there itself. So the libraries are in
    # the wheel, and never in a source distribution.
    packed = Path("build", "lib", "engine", "layers", "kernels", "lib")
    shutil.rmtree(packed, ignore_errors=True)
    if compile_libraries():
        packed.mkdir(parents=True)
        for variant in variants_here():
            with suppress(FileNotFoundError):
                shutil.copy2(library(variant), packed)
        given = dict(config_settings or {})
        options = given.get("--build-option") or []
        options = shlex.split(options) if isinstance(options, str) else options
        config_settings = {**given, "--build-option": [*options, "--plat-name", sysconfig.get_platform()]}
    name: str = build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)
    return name


def build_editable(
    wheel_directory: str, config_settings: ConfigSettings = None, metadata_directory: str | None = None
) -> str:
    """A wheel that refers to the source tree, where the libraries stay."""
    compile_libraries()
    name: str = build_meta.build_editable(wheel_directory, config_settings, metadata_directory)
    return name


def compiler_required() -> list[str]:
    """The package with a compiler, if something has to be compiled and `cc` cannot."""
    return [ZIG_PACKAGE] if outdated() and not cc_works() else []


def compile_libraries() -> bool:
    """Compile the outdated libraries, all at the same time. Returns whether there are any libraries now."""
    if variants := outdated():
        LIBRARIES.mkdir(exist_ok=True)
        compiler = CC if cc_works() else ZIG
        with TemporaryDirectory(dir=LIBRARIES) as folder, ThreadPoolExecutor() as pool:
            list(pool.map(lambda variant: compile_library(compiler, variant, Path(folder)), variants))
    return any(library(variant).exists() for variant in variants_here())


def compile_library(compiler: str, variant: str, folder: Path) -> None:
    """Replace a variant's library; or remove it, since it would not fit the code that calls it."""
    made = folder / library(variant).name
    if run(compiler, variant, HERE.glob("*.c"), made):
        made.replace(library(variant))
    else:
        library(variant).unlink(missing_ok=True)
        print(f"kernels: {variant} could not be compiled and is left out", flush=True)


def cc_works() -> bool:
    """Whether the system's compiler compiles one of the sources for the simplest variant."""
    with TemporaryDirectory() as folder:
        return run(CC, variants_here()[-1], [HERE / "threads.c"], Path(folder, "trial"))


def run(compiler: str, variant: str, sources: Iterable[Path], made: Path) -> bool:
    """Run a compiler. Returns whether it succeeded; `pip -v` shows what it says."""
    known = f"-DKERNELS_SOURCES={hash_of_sources()}u"
    flags = shlex.split(f"{FLAGS} {THREADS} {known} {VARIANTS[MACHINE][variant][compiler]}")
    command = [*COMMANDS[compiler], *flags, "-o", str(made), *sorted(map(str, sources))]
    # Keep zig's cache out of the user's home.
    caches = dict.fromkeys(("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR"), str(made.parent))
    print(shlex.join(command), flush=True)
    try:
        return subprocess.run(command, env=os.environ | caches).returncode == 0
    except OSError as error:
        print(f"kernels: {error}", flush=True)
        return False


def hash_of_sources() -> int:
    """Compiled into each library. The loader, which must not import this file, computes it likewise."""
    return zlib.crc32(b"".join(file.read_bytes() for file in sorted(HERE.glob("*.[ch]"))))


def outdated() -> list[str]:
    """The variants for this machine whose library is missing, or older than a source or this file."""
    newest = max(file.stat().st_mtime for file in (*HERE.glob("*.[ch]"), Path(__file__)))
    files = {variant: library(variant) for variant in variants_here()}
    return [variant for variant, file in files.items() if not file.exists() or file.stat().st_mtime < newest]


def variants_here() -> list[str]:
    """The variants for this machine, best first. AMX is supported on Linux only."""
    if os.environ.get("DENOISE_KERNELS") == "plain":
        return []
    return [name for name in VARIANTS.get(MACHINE, {}) if name != "amx" or SYSTEM == "Linux"]


def library(variant: str) -> Path:
    """The file in which a variant is looked for."""
    return LIBRARIES / f"{variant}{SUFFIX}"
