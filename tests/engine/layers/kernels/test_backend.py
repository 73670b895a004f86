"""Build backend: its choice of compiler, its output, and that it never stops an installation."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from engine.layers import kernels
from engine.layers.kernels import backend

ROOT = Path(__file__).parents[4]
# A fake compiler: makes an empty file in place of a library.
MAKE = 'while [ $# -gt 0 ]; do [ "$1" = -o ] && : > "$2"; shift; done'
ALL = ["amx.so", "avx2.so", "avx512.so", "avx512bf16.so"]
WITHOUT_AMX = f'case "$*" in *amx*) echo "unknown flag -mamx-tile"; exit 1;; esac\n{MAKE}'
BROKEN = "echo 'no headers here'; exit 1"
ZIG_MAKES = "import sys; open(sys.argv[sys.argv.index('-o') + 1], 'w').close()"
ZIG_FAILS = "raise SystemExit('zig does not know this machine')"


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """A folder of sources, for a machine with known properties."""
    folder = tmp_path / "kernels"
    folder.mkdir()
    (folder / "threads.c").write_text("int one(void) { return 1; }\n")
    for name, value in {
        "HERE": folder, "LIBRARIES": folder / "lib", "SYSTEM": "Linux", "MACHINE": "x86_64", "SUFFIX": ".so",
    }.items():  # fmt: skip
        monkeypatch.setattr(backend, name, value)
    monkeypatch.setitem(backend.COMMANDS, backend.CC, ["cc"])
    monkeypatch.delenv(kernels.SETTING, raising=False)
    return folder


@pytest.fixture
def compilers(tmp_path, monkeypatch):
    """compilers(cc, zig): installs fake compilers. None: there is no such compiler."""

    def install(cc=None, zig=ZIG_FAILS):
        commands, modules = tmp_path / "bin", tmp_path / "modules"
        (modules / "ziglang").mkdir(parents=True, exist_ok=True)
        commands.mkdir(exist_ok=True)
        (modules / "ziglang" / "__main__.py").write_text(zig)
        if cc is not None:
            (commands / "cc").write_text(f"#!/bin/sh\n{cc}\n")
            (commands / "cc").chmod(0o755)
        monkeypatch.setenv("PATH", str(commands))
        monkeypatch.setenv("PYTHONPATH", str(modules))

    return install


def libraries(folder):
    return sorted(file.name for file in (folder / "lib").iterdir())


def test_cc_compiles_every_variant_and_no_package_is_fetched(sources, compilers):
    compilers(cc=MAKE)

    required, result = backend.compiler_required(), backend.compile_libraries()

    assert (required, result) == ([], True)
    assert libraries(sources) == ALL


def test_a_variant_that_does_not_compile_is_left_out_and_named(sources, compilers, capfd):
    compilers(cc=WITHOUT_AMX, zig=ZIG_MAKES)

    assert backend.compiler_required() == []
    assert backend.compile_libraries()
    assert libraries(sources) == ["avx2.so", "avx512.so", "avx512bf16.so"]
    message = capfd.readouterr().out
    assert "kernels: amx could not be compiled and is left out" in message
    assert "unknown flag -mamx-tile" in message


@pytest.mark.parametrize("cc", [None, BROKEN], ids=["without cc", "with a cc that does not work"])
def test_zig_is_fetched_and_compiles(cc, sources, compilers):
    compilers(cc, zig=ZIG_MAKES)

    assert backend.compiler_required() == [backend.ZIG_PACKAGE]
    assert backend.compile_libraries()
    assert libraries(sources) == ALL


def test_if_nothing_compiles_it_installs_without_libraries(sources, compilers, capfd):
    compilers(cc=BROKEN)
    (sources / "lib").mkdir()
    (sources / "lib" / "avx2.so").write_text("of other sources")
    os.utime(sources / "lib" / "avx2.so", (0, 0))

    assert not backend.compile_libraries()
    assert libraries(sources) == []
    message = "".join(capfd.readouterr())
    assert "no headers here" in message
    assert "zig does not know this machine" in message
    assert "kernels: avx2 could not be compiled and is left out" in message


def test_only_what_is_older_than_its_sources_is_compiled_again(sources, compilers):
    compilers(cc=MAKE)
    backend.compile_libraries()
    compilers(cc=BROKEN)
    kept = backend.compile_libraries(), backend.compiler_required(), libraries(sources)

    (sources / "new.h").write_text("")
    later = (sources / "lib" / "amx.so").stat().st_mtime + 10
    os.utime(sources / "new.h", (later, later))

    assert kept == (True, [], ALL)
    assert backend.outdated() == ["amx", "avx512bf16", "avx512", "avx2"]


def test_the_plain_path_needs_no_compiler_and_no_package(sources, compilers, monkeypatch):
    compilers()
    monkeypatch.setenv(kernels.SETTING, kernels.PLAIN)

    assert backend.compiler_required() == []
    assert not backend.compile_libraries()


def test_a_machine_without_kernels_needs_no_compiler(sources, compilers, monkeypatch):
    compilers()
    monkeypatch.setattr(backend, "MACHINE", "riscv64")

    assert backend.compiler_required() == []
    assert not backend.compile_libraries()


def test_amx_is_for_linux(sources, monkeypatch):
    monkeypatch.setattr(backend, "SYSTEM", "Windows")

    assert backend.variants_here() == ["avx512bf16", "avx512", "avx2"]


def test_what_is_built_is_what_is_loaded():
    assert {machine: tuple(flags) for machine, flags in backend.VARIANTS.items()} == kernels.VARIANTS
    assert (backend.LIBRARIES, backend.SUFFIX) == (kernels.LIBRARIES, kernels.SUFFIX)
    assert backend.hash_of_sources() == kernels.hash_of_sources()


@pytest.fixture
def project(tmp_path):
    """A copy of the project without weights. project(hook) calls a hook of the backend, and returns its file."""
    folder = tmp_path / "project"
    ignored = shutil.ignore_patterns("__pycache__", "lib")
    for name in ("engine", "service"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)

    def call(hook):
        code = f"import backend, sys; name = backend.{hook}('.'); assert 'torch' not in sys.modules; print(name)"
        modules = os.pathsep.join((str(folder / "engine" / "layers" / "kernels"), os.environ["PYTHONPATH"]))
        ended = subprocess.run(
            [sys.executable, "-c", code],
            cwd=folder, env=os.environ | {"PYTHONPATH": modules}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return folder / ended.stdout.split()[-1]

    return call


@pytest.mark.skipif(not backend.variants_here(), reason="there are no kernels for this machine")
def test_a_wheel_is_for_this_platform_and_any_python(project, compilers):
    compilers(cc=MAKE)

    wheel = project("build_wheel")

    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    assert wheel.name.endswith(f"-py3-none-{platform}.whl")
    with zipfile.ZipFile(wheel) as opened:
        files = {name.removeprefix("engine/layers/kernels/") for name in opened.namelist()}
    assert {f"lib/{variant}{backend.SUFFIX}" for variant in backend.variants_here()} < files


def test_a_wheel_without_a_library_is_for_any_platform(project, compilers):
    compilers(cc=BROKEN)

    assert project("build_wheel").name.endswith("-py3-none-any.whl")


def test_a_source_distribution_has_all_sources_and_no_library(project, compilers):
    compilers(cc=MAKE)
    project("build_wheel")

    with tarfile.open(project("build_sdist")) as opened:
        paths = [Path(name) for name in opened.getnames()]
    files = {path.name for path in paths if path.parent.name == "kernels"}
    assert {file.name for file in backend.HERE.glob("*.[chp]*")} <= files
    assert not [path for path in paths if path.parent.name == "lib"]
