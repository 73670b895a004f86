"""Loader: the kernels that a process uses, and kernels in a forked process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from engine.layers import kernels

ROOT = Path(__file__).parents[4]


def is_built(variant):
    """Whether the library can be loaded: the system may refuse AMX."""
    try:
        kernels.Library(variant)
    except OSError:
        return False
    return True


BUILT = [variant for variant in kernels.runnable() if is_built(variant)]


def run_python(program, setting=None):
    """Run a program in its own process, with or without DENOISE_KERNELS."""
    environment = {name: value for name, value in os.environ.items() if name != kernels.SETTING}
    environment |= {} if setting is None else {kernels.SETTING: setting}
    return subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )


# The setting


NAME = "from engine.layers import kernels; print(kernels.name())"


@pytest.mark.parametrize("variant", [*BUILT, "plain"])
def test_the_setting_chooses(variant):
    assert run_python(NAME, variant).stdout == f"{variant}\n"


@pytest.mark.skipif(not BUILT, reason="no library can be loaded")
def test_a_library_of_other_sources_is_refused(monkeypatch):
    monkeypatch.setattr(kernels, "hash_of_sources", lambda: 0)

    with pytest.raises(OSError, match="was compiled from other sources: install denoise again"):
        kernels.Library(BUILT[0])


@pytest.mark.parametrize("setting", [None, "auto"])
def test_without_a_choice_the_best_that_there_is_is_taken(setting):
    assert run_python(NAME, setting).stdout == f"{[*BUILT, 'plain'][0]}\n"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("fast", "DENOISE_KERNELS must be one of auto, amx, avx512bf16, avx512, avx2, neon, plain; got 'fast'"),
        ("", "DENOISE_KERNELS must be one of auto, amx, avx512bf16, avx512, avx2, neon, plain; got ''"),
        ("neon" if "neon" not in kernels.runnable() else "avx2", "which this processor cannot run; it runs "),
    ],
)
def test_a_setting_that_cannot_be_met_is_refused(setting, message):
    done = run_python(NAME, setting)

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("ValueError: DENOISE_KERNELS ")
    assert message in done.stderr.splitlines()[-1]


def test_without_libraries_the_plain_path_is_used_by_default(tmp_path, monkeypatch):
    monkeypatch.setattr(kernels, "LIBRARIES", tmp_path)
    monkeypatch.delenv(kernels.SETTING, raising=False)

    assert kernels.chosen.__wrapped__() is None
    for variant in kernels.runnable():
        monkeypatch.setenv(kernels.SETTING, variant)
        with pytest.raises(ValueError, match=f"DENOISE_KERNELS is {variant}, which could not be loaded"):
            kernels.chosen.__wrapped__()


@pytest.mark.parametrize(
    ("machine", "level", "flags", "variants"),
    [
        ("x86_64", "AVX512", "flags : fpu amx_bf16 avx512_bf16\n", ("amx", "avx512bf16", "avx512", "avx2")),
        ("x86_64", "AVX512", "flags : fpu avx512_bf16 amx_bf16\n", ("amx", "avx512bf16", "avx512", "avx2")),
        ("x86_64", "AVX512", "flags : fpu avx512_bf16\n", ("avx512bf16", "avx512", "avx2")),
        ("x86_64", "AVX512", "flags : fpu amx_bf16\n", ("avx512", "avx2")),
        ("AMD64", "AVX512", "flags : fpu avx512f\n", ("avx512", "avx2")),
        ("x86_64", "AVX512", "", ("avx512", "avx2")),
        ("x86_64", "AVX2", "flags : fpu amx_bf16 \n", ("avx2",)),
        ("x86_64", "DEFAULT", "", ()),
        ("aarch64", "DEFAULT", "", ("neon",)),
        ("arm64", "DEFAULT", "", ("neon",)),
        ("riscv64", "DEFAULT", "", ()),
    ],
)
def test_a_processor_runs_what_it_has_the_instructions_for(machine, level, flags, variants, monkeypatch):
    monkeypatch.setattr(kernels.platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: level)
    monkeypatch.setattr(kernels.Path, "exists", lambda _: bool(flags))
    monkeypatch.setattr(kernels.Path, "read_text", lambda _: flags)

    assert tuple(kernels.runnable()) == variants


# Forks


FORKS = """
import multiprocessing, os, threading, torch
from engine.layers import Conv2d
torch.set_num_threads(3)
layer = Conv2d(32, 32, 3, padding=1)
x = torch.randn(1, 40, 40, 32)

def again():
    return layer.forward(x).numpy().tobytes()

def in_a_fork():
    child = os.fork()
    if not child:
        os._exit(0 if again() == again() == expected else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def compare(results):
    results.put(again() == expected)

expected = again()
print([in_a_fork() for _ in range(3)])

context = multiprocessing.get_context("fork")
results = context.Queue()
child = context.Process(target=compare, args=(results,))
child.start()
print(results.get(timeout=30))
child.join()

# While other threads compute.
stop = threading.Event()

def compute():
    while not stop.is_set():
        again()

busy = [threading.Thread(target=compute) for _ in range(2)]
for thread in busy:
    thread.start()
print({in_a_fork() for _ in range(40)})
stop.set()
for thread in busy:
    thread.join()
print(again() == expected)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("variant", BUILT)
def test_a_forked_process_computes_on(variant):
    done = run_python(FORKS, variant)

    assert not done.stderr
    assert done.stdout.splitlines() == ["[0, 0, 0]", "True", "{0}", "True"]
