"""The kernels in C under gcc's sanitizers, on a fixed list of random geometries (tests/sanitize/)."""

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from engine.layers import kernels
from tests.sanitize import geometries

SOURCES = Path(kernels.__file__).parent
HARNESS = Path(__file__).parents[4] / "tests" / "sanitize" / "harness.c"
FLAGS = {
    "avx2": ["-march=x86-64-v3"],
    "avx512": ["-march=x86-64-v4"],
    "avx512bf16": ["-march=x86-64-v4", "-mavx512bf16"],
    "amx": ["-march=x86-64-v4", "-mamx-tile", "-mamx-bf16", "-mavx512bf16"],
    "neon": [],
}
MEMORY = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
RACES = ["-fsanitize=thread"]
# Scratch memory of threads.c then ends exactly where the allocated memory ends, not up to 64 bytes before.
CLOSE = ["-Dmalloc=close_malloc", "-Dfree=close_free"]


def has_sanitizers():
    gcc = shutil.which("gcc")
    if not gcc:
        return False
    program = [gcc, "-x", "c", "-", "-fsanitize=address", "-o", os.devnull]
    return subprocess.run(program, input=b"int main(void) { return 0; }", capture_output=True).returncode == 0


def build(folder, flags):
    """Compile the harness with the kernels, one file on each core at a time."""
    common = ["gcc", "-std=gnu11", "-g1", "-O1", "-Wno-psabi", "-pthread", f"-I{SOURCES}", *flags]
    files = [*SOURCES.glob("*.c"), HARNESS]

    def compiled(file):
        result = folder / f"{file.stem}.o"
        more = ["-DSCRATCH_IS_NOT_KEPT", *(CLOSE if file.name == "threads.c" else [])]
        done = subprocess.run([*common, *more, "-c", file, "-o", result], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return result

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        # Large files first.
        objects = list(pool.map(compiled, sorted(files, key=lambda file: -file.stat().st_size)))
    subprocess.run([*common, *objects, "-o", folder / "harness", "-lm"], check=True)
    return folder / "harness"


CASES = [pytest.param(name, MEMORY, id=f"{name}, memory") for name in kernels.runnable()]
CASES += [pytest.param(name, RACES, id=f"{name}, races") for name in kernels.runnable()[-1:]]


@pytest.mark.skipif(not has_sanitizers(), reason="needs gcc with its sanitizers")
@pytest.mark.parametrize(("variant", "sanitizer"), CASES)
def test_kernels_keep_to_their_memory_and_agree_with_plain_loops(variant, sanitizer, tmp_path):
    drawn = list(geometries.lines())
    harness = build(tmp_path, [*FLAGS[variant], *sanitizer])

    done = subprocess.run([harness], input="\n".join(drawn), capture_output=True, text=True, timeout=120)

    if done.returncode == 77:
        pytest.skip(done.stdout.strip())
    assert done.stdout == f"{len(drawn)} cases\n", done.stdout + done.stderr[-5000:]
    assert done.returncode == 0
