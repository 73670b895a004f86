"""Batch tasks: the plan, and the images."""

import io
import os
from contextlib import closing
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from engine.batch.journal import Journal
from engine.batch.tasks import (
    PIPE,
    DenoiseOptions,
    Task,
    denoise_bytes,
    denoise_files,
    has_whole_name,
    is_folder,
    plan_tasks,
    remaining_tasks,
    tasks_for,
)
from engine.imageio.formats import detect_format
from engine.inference.denoise import OutputOptions
from engine.inference.model_selection import fixed_selector
from engine.models.networks import build_network
from engine.models.unet import UNetConfig


@pytest.fixture(scope="module")
def net():
    """An untrained network returns its input."""
    return build_network(UNetConfig((8,), (1,)), torch.Generator().manual_seed(0))


@pytest.fixture
def shots(tmp_path):
    """A folder with a.png and b.jpg."""
    folder = tmp_path / "shots"
    folder.mkdir()
    for name in ("a.png", "b.jpg"):
        Image.fromarray(gradient()).save(folder / name)
    return folder


def gradient():
    steps = np.arange(20, dtype=np.uint8)
    return np.stack(np.broadcast_arrays(steps[:15, None] * 10, steps * 10, 7), 2).astype(np.uint8)


def test_images_of_a_folder_keep_their_names_as_png(shots, tmp_path):
    tasks = plan_tasks([shots], tmp_path / "clean")

    assert tasks == [
        Task(shots / "a.png", tmp_path / "clean" / "a.png"),
        Task(shots / "b.jpg", tmp_path / "clean" / "b.png"),
    ]


def test_one_image_may_have_an_output_name(shots, tmp_path):
    assert plan_tasks([shots / "b.jpg"], tmp_path / "x.png") == [Task(shots / "b.jpg", tmp_path / "x.png")]


def test_the_suffix_of_the_output_decides_its_format(shots, tmp_path):
    assert plan_tasks([shots / "b.jpg"], tmp_path / "x.tiff")[0].format == "tiff"
    assert plan_tasks([shots / "b.jpg"], tmp_path / "x.JPG")[0].format == "jpeg"
    assert plan_tasks([shots / "b.jpg"], PIPE, format_="webp")[0].format == "webp"
    with pytest.raises(ValueError, match=r"x\.png: the suffix does not fit the format webp; it must be \.webp"):
        plan_tasks([shots / "b.jpg"], tmp_path / "x.png", format_="webp")


def test_outputs_get_the_suffix_of_the_format_or_keep_theirs(shots, tmp_path):
    made = [task.target.name for task in plan_tasks([shots], tmp_path / "clean", format_="webp")]
    kept = [task.target.name for task in plan_tasks([shots], tmp_path / "clean", format_="same")]

    assert made == ["a.webp", "b.webp"]
    assert kept == ["a.png", "b.jpg"]


def test_an_outcome_lists_what_its_format_cannot_hold(shots, tmp_path, net):
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(shots / "deep.png")

    outcomes = list(denoise_files(fixed_selector(net), plan_tasks([shots], tmp_path / "clean", format_="jpeg")))

    assert [outcome.changed for outcome in outcomes] == [(), (), ("16 bits a channel to 8 bits a channel",)]
    assert {detect_format(file.read_bytes()).name for file in (tmp_path / "clean").iterdir()} == {"jpeg"}


def test_output_options_are_applied(shots, net):
    options = DenoiseOptions(output=OutputOptions(strength=0, output="compare"))

    both = np.asarray(
        Image.open(
            io.BytesIO(denoise_bytes(fixed_selector(net), (shots / "a.png").read_bytes(), options=options).data)
        )
    )

    assert (both == np.concatenate((gradient(), gradient()), 1)).all()


def test_an_existing_folder_may_have_a_suffix(shots, tmp_path):
    (tmp_path / "v1.2").mkdir()

    assert plan_tasks([shots / "b.jpg"], tmp_path / "v1.2") == [
        Task(shots / "b.jpg", tmp_path / "v1.2" / "b.png")
    ]


@pytest.mark.parametrize(
    ("inputs", "output", "message"),
    [
        (["a.png", "b.jpg"], "x.png", "is one file, but the inputs may be several images; give an output folder"),
        ([""], "x.png", "is one file, but"),
        (["a.png"], "x.gif", r"x\.gif: images cannot be written with the suffix \.gif; "),
        (["a.png", "none.png"], "clean", r"none\.png: no such file or folder"),
        (["a.png"], "plain", "is a file, not a folder; give another folder, or a file name like"),
        (["a.png", "sub/A.png"], "clean", r"would be written to the same output: .*a\.png, .*A\.png"),
        (["a.png"], "clean.v2", r"suffix \.v2; .*If you mean a folder, end its name with a slash: .*clean\.v2/"),
        (["a.png"], "folders", r"exist already, as folders: .*a\.png; choose another output"),
        (["a.png"], "there", r"these outputs exist already: .*a\.png; allow overwriting"),
    ],
)
def test_an_impossible_plan_is_refused(shots, tmp_path, inputs, output, message):
    (shots / "sub").mkdir()
    (shots / "sub" / "A.png").touch()
    (tmp_path / "folders" / "a.png").mkdir(parents=True)
    (tmp_path / "plain").touch()
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "a.png").touch()

    with pytest.raises(ValueError, match=message):
        plan_tasks([shots / name for name in inputs], tmp_path / output)


@pytest.mark.parametrize("name", ["scans.clean/", "x.png/", "scans.clean//"])
def test_a_name_with_a_slash_at_its_end_is_a_folder(shots, tmp_path, name):
    [task] = plan_tasks([shots / "b.jpg"], f"{tmp_path}/{name}")

    assert task.target == tmp_path / name / "b.png"
    assert is_folder(name)
    assert not is_folder(name.rstrip("/"))


def test_a_file_is_no_folder_even_with_a_slash(shots):
    with pytest.raises(ValueError, match=r"a\.png is a file, not a folder"):
        plan_tasks([shots / "b.jpg"], f"{shots / 'a.png'}/")


def test_folders_with_an_image_s_name_are_no_inputs(shots, tmp_path):
    (shots / "dir.png").mkdir()

    assert names(plan_tasks([shots], tmp_path / "clean")) == ["a.png", "b.jpg"]


def test_an_output_that_became_a_folder_is_named_in_words(shots, tmp_path, net):
    tasks = plan_tasks([shots / "a.png"], tmp_path / "clean")
    tasks[0].target.mkdir(parents=True)

    [outcome] = denoise_files(fixed_selector(net), tasks)

    assert "Errno" not in outcome.error
    assert "folder" in outcome.error


# Images of one name


@pytest.mark.parametrize(
    ("given", "made"),
    [
        (["a.dng", "a.jpg"], ["a.dng.png", "a.jpg.png"]),
        (["a.jpg", "a.png", "b.jpg"], ["a.jpg.png", "a.png.png", "b.png"]),
        (["A.jpg", "a.tif"], ["A.jpg.png", "a.tif.png"]),
        (["a.jpg", "a.jpg.tif", "a.tif"], ["a.jpg.png", "a.jpg.tif.png", "a.tif.png"]),
    ],
)
def test_images_of_one_name_keep_their_suffix(given, made, tmp_path):
    tasks = tasks_for(tmp_path, [tmp_path / name for name in given])

    assert [task.target.name for task in tasks] == made
    assert [task.source.name for task in tasks if has_whole_name(task)] == [n for n in given if n[0] != "b"]


def test_images_of_one_name_in_their_own_format_keep_their_names(tmp_path):
    tasks = tasks_for(tmp_path, [tmp_path / "a.jpg", tmp_path / "a.png"], "same")

    assert [task.target.name for task in tasks] == ["a.jpg", "a.png"]
    assert not any(map(has_whole_name, tasks))


def test_an_image_made_before_its_twin_came_is_done(shots, journal, net):
    list(denoise_files(fixed_selector(net), plan_tasks([shots], journal.folder), journal=journal))
    (shots / "a.jpg").write_bytes((shots / "b.jpg").read_bytes())

    remaining = remaining_tasks(plan_tasks([shots], journal.folder, overwrite=True), journal)

    assert [task.target.name for task in remaining] == ["a.jpg.png"]


def test_outputs_may_be_overwritten_if_allowed(shots):
    assert plan_tasks([shots / "a.png"], shots, overwrite=True) == [Task(shots / "a.png", shots / "a.png")]


def test_denoised_images_have_the_network_s_pixels(shots, tmp_path, net):
    outcomes = list(denoise_files(fixed_selector(net), plan_tasks([shots], tmp_path / "clean")))

    assert [outcome.error for outcome in outcomes] == [None, None]
    assert sorted(file.name for file in (tmp_path / "clean").iterdir()) == ["a.png", "b.png"]
    assert (np.asarray(Image.open(tmp_path / "clean" / "a.png")) == gradient()).all()


def test_a_broken_file_does_not_stop_the_others(shots, tmp_path, net):
    whole = (shots / "a.png").read_bytes()
    (shots / "a.png").write_bytes(whole[: len(whole) // 2])

    broken, fine = denoise_files(fixed_selector(net), plan_tasks([shots], tmp_path / "clean"))

    assert broken.task.source.name == "a.png"
    assert broken.error
    assert fine.error is None
    assert [file.name for file in (tmp_path / "clean").iterdir()] == ["b.png"]


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
    (journal.folder / "b.png").unlink()

    assert after_all == []
    assert names(after_a_change) == ["a.png"]
    assert names(remaining_tasks(tasks, journal)) == ["a.png", "b.jpg"]


def test_tasks_with_other_options_remain(shots, journal, net):
    tasks = plan_tasks([shots], journal.folder)
    list(denoise_files(fixed_selector(net), tasks, journal=journal))

    journal.options = {"strength": 0.5}

    assert remaining_tasks(tasks, journal) == tasks
    assert names(remaining_tasks(plan_tasks([shots], journal.folder, format_="jpeg"), journal)) == [
        "a.png",
        "b.jpg",
    ]


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


def test_an_image_from_standard_input_needs_an_output_name(tmp_path):
    with pytest.raises(ValueError, match=r"from standard input has no name"):
        plan_tasks([PIPE], tmp_path)


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
