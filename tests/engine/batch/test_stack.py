"""Stacks of pages, denoised page by page."""

import io
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from threading import Event

import mrcfile
import numpy as np
import pytest
import tifffile
import torch
from astropy.io import fits
from PIL import Image

from engine.batch import files
from engine.batch.finding import PIPE
from engine.batch.planning import Task, task_for
from engine.batch.progress import TaskStopped, stop_between_pages
from engine.batch.reading import READ_HERE, sandboxed
from engine.batch.tasks import DenoiseOptions, denoise_bytes, denoise_file, denoise_files
from engine.inference.denoise import OutputOptions
from engine.inference.model_selection import fixed_selector
from engine.layers import parameters
from engine.models.networks import build_network
from engine.models.unet import UNetConfig
from tests.support.czi_files import Tile, czi_file
from tests.support.nd2_files import nd2_file


@pytest.fixture(scope="module")
def net():
    """A tiny network that changes its input."""
    rng = torch.Generator().manual_seed(0)
    net = build_network(UNetConfig((8,), (1,)), rng)
    for parameter in parameters(net):
        parameter.layer.params[parameter.key] = torch.randn(parameter.value.shape, generator=rng) * 0.08
    return net


def frames(count, dtype=np.uint16, side=96):
    rng = np.random.default_rng(0)
    scene = 60 + 30 * np.sin(np.arange(side) / 9)[:, None] + 20 * np.cos(np.arange(side) / 7)
    return rng.poisson(scene, (count, side, side)).astype(dtype) * (5 if dtype == np.uint16 else 1)


def save(path, pages, **options):
    tifffile.imwrite(path, pages, photometric="minisblack", **options)


def denoised(net, source, target, options=None):
    [outcome] = denoise_files(fixed_selector(net, "mine"), [Task(source, target, "tiff")], options)
    assert outcome.error is None
    return outcome


@pytest.mark.parametrize("count", [2, 14])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.int16])
def test_pages_come_back_as_from_a_whole_file(count, dtype, net, tmp_path):
    description = f"ImageJ=1.54\nimages={count}\nslices={count}\nunit=um\n"
    save(tmp_path / "in.tif", frames(count, dtype), description=description, metadata=None)

    outcome = denoised(net, tmp_path / "in.tif", tmp_path / "out.tif")

    whole = denoise_bytes(fixed_selector(net), (tmp_path / "in.tif").read_bytes(), "tiff")
    with tifffile.TiffFile(tmp_path / "out.tif") as made, tifffile.TiffFile(io.BytesIO(whole.data)) as expected:
        assert len(made.pages) == count
        np.testing.assert_array_equal(made.asarray(), expected.asarray())
        assert [page.description for page in made.pages] == [page.description for page in expected.pages]
    assert outcome.changed == whole.changed
    assert outcome.pixels == count * 96 * 96


def test_progress_is_told_for_each_page(net, tmp_path):
    save(tmp_path / "in.tif", frames(3))
    seen = []

    task = Task(tmp_path / "in.tif", tmp_path / "out.tif", "tiff")
    list(denoise_files(fixed_selector(net), [task], on_progress=seen.append))

    assert [(each.pages_done, each.pages) for each in seen] == [(0, 1), (0, 3), (1, 3), (2, 3), (3, 3)]


def test_there_is_no_limit_of_pages(net, tmp_path):
    save(tmp_path / "in.tif", frames(130, side=16))

    denoised(net, tmp_path / "in.tif", tmp_path / "out.tif", DenoiseOptions(output=OutputOptions(strength=0)))

    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif"), frames(130, side=16))


def test_a_stack_beyond_the_limit_is_a_bigtiff(net, tmp_path, monkeypatch):
    monkeypatch.setattr("engine.batch.stack.BIGTIFF_BYTES", 1000)
    save(tmp_path / "in.tif", frames(3))

    denoised(net, tmp_path / "in.tif", tmp_path / "out.tif")

    with tifffile.TiffFile(tmp_path / "out.tif") as made:
        assert made.is_bigtiff
        assert len(made.pages) == 3


def test_a_mapped_file_gives_the_same(net, tmp_path, monkeypatch):
    save(tmp_path / "in.tif", frames(3))
    denoised(net, tmp_path / "in.tif", tmp_path / "read.tif")
    monkeypatch.setattr(files, "MAPPED_BYTES", 0)

    denoised(net, tmp_path / "in.tif", tmp_path / "mapped.tif")

    assert (tmp_path / "read.tif").read_bytes() == (tmp_path / "mapped.tif").read_bytes()


def test_one_page_of_a_mapped_file_is_read(net, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAPPED_BYTES", 0)
    save(tmp_path / "in.tif", frames(3))
    options = DenoiseOptions(page=2, output=OutputOptions(strength=0))

    denoised(net, tmp_path / "in.tif", tmp_path / "out.tif", options)

    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif"), frames(3)[1])


def test_a_broken_page_leaves_no_output(net, tmp_path):
    save(tmp_path / "in.tif", frames(4))
    whole = (tmp_path / "in.tif").read_bytes()
    (tmp_path / "in.tif").write_bytes(whole[: len(whole) * 3 // 4])

    [outcome] = denoise_files(fixed_selector(net), [Task(tmp_path / "in.tif", tmp_path / "out.tif", "tiff")])

    assert "cut short" in outcome.error
    assert [path.name for path in tmp_path.iterdir()] == ["in.tif"]


def test_blank_pages_stay_and_the_others_are_denoised(net, tmp_path):
    pages = frames(16)
    pages[:13] = 7
    save(tmp_path / "in.tif", pages)

    denoised(net, tmp_path / "in.tif", tmp_path / "out.tif")

    made = tifffile.imread(tmp_path / "out.tif")
    np.testing.assert_array_equal(made[:13], pages[:13])


def test_a_stack_goes_to_standard_output(net, tmp_path, monkeypatch):
    received = io.BytesIO()
    monkeypatch.setattr("sys.stdout", type("Out", (), {"buffer": received}))
    save(tmp_path / "in.tif", frames(3))

    denoised(net, tmp_path / "in.tif", PIPE)

    assert tifffile.imread(io.BytesIO(received.getvalue())).shape == (3, 96, 96)


MEASURE = """
import resource, sys
import torch
from engine.batch.planning import Task
from engine.batch.tasks import DenoiseOptions, denoise_files
from engine.inference.denoise import OutputOptions
from engine.inference.model_selection import fixed_selector
from engine.models.networks import build_network
from engine.models.unet import UNetConfig
from pathlib import Path

torch.set_num_threads(1)
net = build_network(UNetConfig((8,), (1,)), torch.Generator().manual_seed(0))
[outcome] = denoise_files(fixed_selector(net), [Task(Path(sys.argv[1]), Path(sys.argv[2]), "tiff")], None)
assert outcome.error is None, outcome.error
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is in kilobytes on Linux")
def test_memory_does_not_grow_with_the_pages(tmp_path):
    peaks = []
    for count in (16, 80):
        with tifffile.TiffWriter(tmp_path / f"{count}.tif") as writer:
            for number in range(count):
                rng = np.random.default_rng(number)
                writer.write(rng.integers(900, 1100, (1024, 1024), np.uint16), contiguous=False)
        command = [sys.executable, "-c", MEASURE, tmp_path / f"{count}.tif", tmp_path / f"out{count}.tif"]
        ended = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(int(ended.stdout))

    # The 64 pages more have 128 MiB.
    assert peaks[1] - peaks[0] < 24 * 1024


@pytest.mark.parametrize("kind", ["tif", "gif"])
def test_a_stop_between_pages_leaves_no_output(kind, net, tmp_path):
    source = tmp_path / f"in.{kind}"
    if kind == "tif":
        save(source, frames(4))
    else:
        first, *others = map(Image.fromarray, frames(4, np.uint8))
        first.save(source, save_all=True, append_images=others)
    stopping, seen = Event(), []

    def on_progress(progress):
        seen.append(progress.pages_done)
        if progress.pages_done == 2:
            stopping.set()

    task = Task(source, tmp_path / "out.tif", "tiff")
    with pytest.raises(TaskStopped):
        list(denoise_files(fixed_selector(net), [task], on_progress=stop_between_pages(stopping, on_progress)))

    assert seen == [0, 0, 1, 2]
    assert list(tmp_path.iterdir()) == [source]


def test_a_stop_after_the_last_page_keeps_the_output(net, tmp_path):
    save(tmp_path / "in.tif", frames(2))
    stopping = Event()

    def on_progress(progress):
        if progress.pages_done == 2:
            stopping.set()

    task = Task(tmp_path / "in.tif", tmp_path / "out.tif", "tiff")
    [outcome] = denoise_files(fixed_selector(net), [task], on_progress=stop_between_pages(stopping, on_progress))

    assert outcome.error is None
    assert tifffile.imread(tmp_path / "out.tif").shape[0] == 2


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("kind", ["fits", "mrc", "czi", "nd2"])
def test_stacks_of_measurements_become_stacks_of_tiff(kind, mapped, net, tmp_path, monkeypatch):
    pages, source = frames(3), tmp_path / f"in.{kind}"
    match kind:
        case "fits":
            fits.PrimaryHDU(pages).writeto(source)
        case "mrc":
            mrcfile.write(source, pages)
        case "czi":
            source.write_bytes(czi_file(*[Tile(page, {"T": time}) for time, page in enumerate(pages)]))
        case _:
            source.write_bytes(nd2_file(pages[..., None], [("T", 3)]))
    monkeypatch.setattr(files, "MAPPED_BYTES", 0 if mapped else 2**40)
    task = task_for(tmp_path, source)
    seen = []

    [outcome] = denoise_files(fixed_selector(net, "mine"), [task], on_progress=seen.append)

    assert outcome.error is None
    assert [(each.pages_done, each.pages) for each in seen] == [(0, 1), (0, 3), (1, 3), (2, 3), (3, 3)]
    assert f"without the {kind.upper()} " in " ".join(outcome.changed)
    whole = denoise_bytes(fixed_selector(net), source.read_bytes(), "tiff")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "in.tif"), tifffile.imread(io.BytesIO(whole.data)))


def test_a_format_that_is_only_read_cannot_stay_the_same(net, tmp_path):
    (tmp_path / "in.czi").write_bytes(czi_file(*[Tile(page, {"T": time}) for time, page in enumerate(frames(3))]))

    [outcome] = denoise_files(fixed_selector(net), [Task(tmp_path / "in.czi", tmp_path / "out.czi", "same")])

    assert outcome.error.startswith("CZI can be read but not written.")


@pytest.mark.parametrize("sandbox", [False, True])
@pytest.mark.parametrize("kind", ["gif", "pgm", "tif"])
def test_files_of_every_kind_have_no_limit_of_pages(kind, sandbox, net, tmp_path):
    pages = frames(130, np.uint8, side=16)
    source = tmp_path / f"in.{kind}"
    if kind == "tif":
        save(source, pages)
    elif kind == "gif":
        first, *others = map(Image.fromarray, pages)
        first.save(source, save_all=True, append_images=others)
    else:
        source.write_bytes(b"".join(b"P5 16 16 255\n" + page.tobytes() for page in pages))
    task = task_for(tmp_path, source)
    task = replace(task, target=tmp_path / f"out{task.target.suffix}")

    with sandboxed() if sandbox else nullcontext(READ_HERE) as reader:
        outcome = denoise_file(fixed_selector(net), task, reader=reader)

    assert outcome.error is None
    assert outcome.pixels == 130 * 16 * 16
