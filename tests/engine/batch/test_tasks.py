"""Batch tasks: the images, and the journal."""

import io
import os
from contextlib import closing
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from engine.batch import tasks
from engine.batch.finding import PIPE
from engine.batch.journal import Journal
from engine.batch.planning import Task, plan_tasks
from engine.batch.tasks import DenoiseOptions, denoise_bytes, denoise_files, remaining_tasks
from engine.imageio.formats import detect_format
from engine.inference.denoise import OutputOptions
from engine.inference.model_selection import fixed_selector
from engine.inference.mosaic import MosaicNets
from engine.models.networks import build_network
from engine.models.unet import UNetConfig
from tests.support.images import gradient
from tests.support.raw_files import dng


@pytest.fixture(scope="module")
def net():
    """An untrained network returns its input."""
    return build_network(UNetConfig((8,), (1,)), torch.Generator().manual_seed(0))


def test_the_mosaic_of_camera_raw_is_denoised_if_there_is_a_network_for_it(net):
    data = dng(noise_profile=(1e-3, 1e-6))

    with_network, without = (
        denoise_bytes(fixed_selector(net), data, options=DenoiseOptions(mosaic_nets=each))
        for each in (MosaicNets(net, net), None)
    )

    assert any("mosaic denoised" in words for words in with_network.changed)
    assert not any("mosaic" in words for words in without.changed)


def test_a_journal_does_not_hold_the_network_for_mosaics(net):
    assert DenoiseOptions(mosaic_nets=MosaicNets(net, net)).fingerprint("x") == DenoiseOptions().fingerprint("x")


def test_the_same_format_gets_its_own_suffix(shots, tmp_path, net):
    (shots / "a.png").rename(shots / "named.jpg")
    (shots / "notes.png").write_text("no image")

    tasks = plan_tasks([shots], tmp_path / "clean", format_="same")
    list(denoise_files(fixed_selector(net), tasks))

    assert [task.target.name for task in tasks] == ["b.jpg", "named.png", "notes.png"]
    assert detect_format((tmp_path / "clean" / "named.png").read_bytes()).name == "png"
    with pytest.raises(
        ValueError, match=r"x\.jpg: the suffix does not fit the format of .*, PNG; it must be \.png"
    ):
        plan_tasks([shots / "named.jpg"], tmp_path / "x.jpg", format_="same")
    assert plan_tasks([shots / "named.jpg"], tmp_path / "x.png", format_="same")
    assert plan_tasks([shots / "named.jpg"], tmp_path / "x.bak", format_="same")


def test_an_outcome_lists_what_its_format_cannot_hold(shots, tmp_path, net):
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(shots / "deep.png")

    outcomes = list(denoise_files(fixed_selector(net), plan_tasks([shots], tmp_path / "clean", format_="jpeg")))

    kept = "JPEG quality 75, chroma 4:2:0, as in the source"
    deep = "16 bits a channel to 8 bits a channel"
    assert [outcome.changed for outcome in outcomes] == [(), (kept,), (deep,)]
    assert {detect_format(file.read_bytes()).name for file in (tmp_path / "clean").iterdir()} == {"jpeg"}


def test_output_options_are_applied(shots, net):
    options = DenoiseOptions(output=OutputOptions(strength=0, output="compare"))

    both = np.asarray(
        Image.open(
            io.BytesIO(denoise_bytes(fixed_selector(net), (shots / "a.png").read_bytes(), options=options).data)
        )
    )

    assert (both == np.concatenate((gradient(), gradient()), 1)).all()


def test_an_output_that_became_a_folder_is_named_in_words(shots, tmp_path, net):
    tasks = plan_tasks([shots / "a.png"], tmp_path / "clean")
    tasks[0].target.mkdir(parents=True)

    [outcome] = denoise_files(fixed_selector(net), tasks)

    assert "Errno" not in outcome.error
    assert "folder" in outcome.error


# Images of one name


def test_an_image_made_before_its_twin_came_is_done(shots, journal, net):
    list(denoise_files(fixed_selector(net), plan_tasks([shots], journal.folder, False, "png"), journal=journal))
    (shots / "a.jpg").write_bytes((shots / "b.jpg").read_bytes())

    remaining = remaining_tasks(plan_tasks([shots], journal.folder, True, "png"), journal)

    assert [task.target.name for task in remaining] == ["a.jpg.png"]


def test_denoised_images_have_the_network_s_pixels(shots, tmp_path, net):
    outcomes = list(denoise_files(fixed_selector(net), plan_tasks([shots], tmp_path / "clean")))

    assert [outcome.error for outcome in outcomes] == [None, None]
    assert sorted(file.name for file in (tmp_path / "clean").iterdir()) == ["a.png", "b.jpg"]
    assert (np.asarray(Image.open(tmp_path / "clean" / "a.png")) == gradient()).all()


def test_a_broken_file_does_not_stop_the_others(shots, tmp_path, net):
    whole = (shots / "a.png").read_bytes()
    (shots / "a.png").write_bytes(whole[: len(whole) // 2])

    broken, fine = denoise_files(fixed_selector(net), plan_tasks([shots], tmp_path / "clean"))

    assert broken.task.source.name == "a.png"
    assert broken.error
    assert fine.error is None
    assert [file.name for file in (tmp_path / "clean").iterdir()] == ["b.jpg"]


def test_images_in_subfolders_are_done_once(shots, journal, net):
    (shots / "sub").mkdir()
    (shots / "a.png").rename(shots / "sub" / "a.png")
    (shots / "sub" / "b.jpg").write_bytes((shots / "b.jpg").read_bytes())
    tasks = plan_tasks([shots], journal.folder, recursive=True)

    list(denoise_files(fixed_selector(net), tasks, journal=journal))

    made = sorted(file.relative_to(journal.folder).as_posix() for file in journal.folder.glob("**/*.[pj]*g"))
    assert made == ["b.jpg", "sub/a.png", "sub/b.jpg"]
    assert remaining_tasks(tasks, journal) == []
    (journal.folder / "sub" / "b.jpg").unlink()
    assert [task.source for task in remaining_tasks(tasks, journal)] == [shots / "sub" / "b.jpg"]


def test_an_outcome_has_the_noise_and_the_model(shots, tmp_path, net):
    seen = []
    tasks = plan_tasks([shots / "a.png"], tmp_path / "clean")

    [outcome] = denoise_files(fixed_selector(net, "mine"), tasks, on_progress=seen.append)

    assert outcome.noise.endswith("; model mine")
    assert outcome.pixels == gradient().shape[0] * gradient().shape[1]
    assert [progress.noise for progress in seen] == ["", outcome.noise, outcome.noise]


@pytest.fixture
def journal(tmp_path):
    with closing(Journal(tmp_path / "clean", {"strength": 1}, resume=True)) as opened:
        yield opened


def names(tasks):
    return [task.source.name for task in tasks]


def test_finished_tasks_remain_only_after_a_change(shots, journal, net):
    tasks = plan_tasks([shots], journal.folder)
    list(denoise_files(fixed_selector(net), tasks, journal=journal))

    after_all = remaining_tasks(tasks, journal)
    (shots / "a.png").write_bytes((shots / "b.jpg").read_bytes())
    after_a_change = remaining_tasks(tasks, journal)
    (journal.folder / "b.jpg").unlink()

    assert after_all == []
    assert names(after_a_change) == ["a.png"]
    assert names(remaining_tasks(tasks, journal)) == ["a.png", "b.jpg"]


def test_tasks_with_other_options_remain(shots, journal, net):
    tasks = plan_tasks([shots], journal.folder)
    list(denoise_files(fixed_selector(net), tasks, journal=journal))

    journal.options = {"strength": 0.5}

    assert remaining_tasks(tasks, journal) == tasks
    others = plan_tasks([shots], journal.folder, overwrite=True, format_="jpeg")
    assert names(remaining_tasks(others, journal)) == ["a.png", "b.jpg"]


def test_failed_tasks_remain(shots, journal, net):
    (shots / "a.png").write_bytes(b"no image")
    tasks = plan_tasks([shots], journal.folder)

    list(denoise_files(fixed_selector(net), tasks, journal=journal))

    assert names(remaining_tasks(tasks, journal)) == ["a.png"]


def test_a_retouched_output_is_not_overwritten(shots, journal, net):
    tasks = plan_tasks([shots], journal.folder)
    list(denoise_files(fixed_selector(net), tasks, journal=journal))
    (journal.folder / "a.png").write_text("retouched")

    untouched = remaining_tasks(tasks, journal)
    os.utime(shots / "a.png", ns=(1, 1))

    assert untouched == []
    with pytest.raises(ValueError, match=r"exist already and were made or changed by something else: .*a\.png"):
        remaining_tasks(tasks, journal)
    assert names(remaining_tasks(tasks, journal, overwrite=True)) == ["a.png"]


def test_a_source_that_changes_meanwhile_gets_no_output(shots, journal, net):
    def select(samples):
        os.utime(shots / "a.png", ns=(1, 1))
        return fixed_selector(net)(samples)

    changed, fine = denoise_files(select, plan_tasks([shots], journal.folder), journal=journal)

    assert changed.error == f"{shots / 'a.png'}: the file was changed while it was processed; try again"
    assert fine.error is None
    assert not (journal.folder / "a.png").exists()


def test_an_output_that_cannot_be_written_is_an_error(shots, tmp_path, net):
    (tmp_path / "file").touch()

    [outcome] = denoise_files(fixed_selector(net), [Task(shots / "a.png", tmp_path / "file" / "a.png")])

    assert "file" in outcome.error


def test_standard_input_and_output_are_used(shots, net, monkeypatch):
    sent, received = io.BytesIO((shots / "a.png").read_bytes()), io.BytesIO()
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=sent))
    monkeypatch.setattr("sys.stdout", SimpleNamespace(buffer=received))

    [outcome] = denoise_files(fixed_selector(net), plan_tasks([PIPE], PIPE))

    assert outcome.error is None
    assert (np.asarray(Image.open(received)) == gradient()).all()


@pytest.mark.parametrize(("dtype", "nodata"), [(np.float32, -9999), (np.uint16, 65535), (np.int16, -32768)])
def test_missing_samples_of_a_map_come_back_exactly(net, dtype, nodata):
    values = np.random.default_rng(0).normal(2000, 50, (96, 96)).astype(dtype)
    values[20:60, 30:80] = nodata
    file = io.BytesIO()
    tifffile.imwrite(file, values, extratags=[(42113, 2, 0, str(nodata), True)])

    written = denoise_bytes(fixed_selector(net), file.getvalue(), "tiff")

    back = tifffile.imread(io.BytesIO(written.data))
    present = values != nodata
    np.testing.assert_array_equal(back[~present], nodata)
    assert abs(back[present].astype(float) - values[present]).max() < 500


def test_bytes_that_are_not_an_image_are_refused(net):
    with pytest.raises(ValueError, match="image"):
        denoise_bytes(fixed_selector(net), b"no image")


# Images that end the process


def test_torch_s_lack_of_memory_fails_one_image(shots, tmp_path, net):
    def select(pages):
        if not (tmp_path / "failed").exists():
            (tmp_path / "failed").touch()
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return fixed_selector(net)(pages)

    failed, fine = denoise_files(select, plan_tasks([shots], tmp_path / "clean"))

    assert "can't allocate memory" in failed.error
    assert fine.error is None


def test_an_image_that_ended_two_processes_is_given_up(shots, tmp_path, net):
    tasks = plan_tasks([shots], tmp_path / "clean")
    orders = []
    for _ in range(4):
        with closing(Journal(tmp_path / "clean", {}, resume=True)) as journal:
            remaining = remaining_tasks(tasks, journal)
            orders.append(names(remaining))
            if len(orders) < 3:
                # A kill while the first image is processed.
                journal.begin(tasks[0].source, tasks[0].target)
                continue
            outcomes = list(denoise_files(fixed_selector(net), remaining, journal=journal))

            assert outcomes[-1].error.startswith("given up until it changes: two attempts")
            assert [outcome.error for outcome in outcomes[:-1]] == [None] * (len(outcomes) - 1)

    assert orders == [["a.png", "b.jpg"], ["b.jpg", "a.png"], ["b.jpg", "a.png"], ["a.png"]]


def test_a_keyboard_interrupt_is_not_the_image_s_fault(shots, tmp_path):
    def interrupt(pages):
        raise KeyboardInterrupt

    [task] = plan_tasks([shots / "a.png"], tmp_path / "clean")
    for _ in range(3):
        with closing(Journal(tmp_path / "clean", {}, resume=True)) as journal:
            assert not journal.is_hopeless(task.source)
            with pytest.raises(KeyboardInterrupt):
                list(denoise_files(interrupt, [task], journal=journal))


def test_pages_that_do_not_fit_are_refused_before_the_work(tmp_path, net, monkeypatch):
    monkeypatch.setattr(tasks, "denoise", None)
    pages = [Image.fromarray(gradient()) for _ in range(2)]
    pages[0].save(tmp_path / "two.tif", save_all=True, append_images=pages[1:])

    [outcome] = denoise_files(fixed_selector(net), [Task(tmp_path / "two.tif", tmp_path / "o.jpg", "jpeg")])

    assert outcome.error == "The file has 2 pages, and JPEG holds only one. Select one page, or choose TIFF."
