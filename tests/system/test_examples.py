"""The examples in the documents that call the service, run against a service."""

import os
import shutil
import subprocess
import sys
from zipfile import ZipFile

import pytest
from PIL import Image

from service.settings import Settings
from tests.support.browser import served
from tests.support.documents import ADDRESS, ROOT, blocks

SOON = 120  # seconds; only a failing test waits so long


PYTHON = [
    pytest.param(code, id=f"{document}-{number}")
    for document in ("README.md", "service/README.md")
    for number, code in enumerate(blocks(document, "python"))
    if ADDRESS in code
]


@pytest.fixture(scope="module")
def address(tmp_path_factory, save_tiny):
    folder = tmp_path_factory.mktemp("weights")
    for seed, name in enumerate(("photo", "photo-gaussian", "photo-grey")):
        save_tiny(folder / f"{name}.safetensors", seed=seed)
    spool = tmp_path_factory.mktemp("spool")
    with served(Settings(weights=folder, device="cpu", precision="float32", spool=spool)) as address:
        yield address.rstrip("/")


@pytest.fixture
def run(address, tmp_path):
    """run(command, code): runs it beside `weights/`, with the service's address. Returns what it prints."""
    (tmp_path / "weights").symlink_to(ROOT / "weights")

    def run(command, code):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
        file = tmp_path / "example.mjs"
        file.write_text(code.replace(ADDRESS, address), "utf-8")
        done = subprocess.run(
            [command, file], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=SOON
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def assert_images(folder):
    """Every image that an example has saved is whole and has the size of the noisy one."""
    with Image.open(ROOT / "weights" / "examples" / "noisy.png") as noisy:
        for file in [*folder.glob("clean.jp*g"), *folder.glob("clean.png"), *folder.glob("noisy.*")]:
            with Image.open(file) as saved:
                saved.load()
                assert saved.size == noisy.size


@pytest.mark.parametrize("code", PYTHON)
def test_a_python_example_runs(code, run, tmp_path):
    run(sys.executable, code)

    assert (tmp_path / "clean.jpg").exists()
    assert_images(tmp_path)


def test_the_python_examples_follow_a_job_to_its_end(run, tmp_path):
    client, plain = (code for code in blocks("service/README.md", "python") if ADDRESS in code)

    assert "done 1.0" in run(sys.executable, client)
    assert sorted(file.name for file in tmp_path.glob("*.*g")) == ["city.jpg", "clean.jpg", "mountain.jpg"]
    assert (tmp_path / "noisy.tiff").exists() or (tmp_path / "noisy.tif").exists()
    assert "done 1.0" in run(sys.executable, plain)
    assert ZipFile(tmp_path / "clean.zip").namelist() == ["city.png", "mountain.png", "result.png"]


def test_the_short_javascript_example_runs_in_node(run, tmp_path):
    [code] = blocks("README.md", "js")

    run(node(), code)

    assert (tmp_path / "clean.jpg").exists()
    assert_images(tmp_path)


def test_the_javascript_examples_run_in_node(run, tmp_path):
    printed = run(node(), "\n".join(blocks("service/README.md", "js")))

    assert "photo" in printed
    assert "done 1" in printed
    assert {"clean.jpg", "clean.zip", "clean.png"} <= {file.name for file in tmp_path.iterdir()}
    assert len(ZipFile(tmp_path / "clean.zip").namelist()) == 2
    assert_images(tmp_path)


def node():
    found = shutil.which("node")
    if found is None:
        pytest.skip("there is no Node.js on this machine")
    return found
