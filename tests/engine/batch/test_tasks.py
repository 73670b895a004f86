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
    plan,
    remaining,
)
from engine.imageio.formats import detect_format
from engine.inference.denoise import Finish
from engine.inference.model_selection import always
from engine.models.networks import UNetConfig, build_network


@pytest.fixture(scope="module")
def net():
    """Before training it gives back its input."""
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


def test_images_of_a_folder_keep_their_names_with_the_suffix_png(shots, tmp_path):
    tasks = plan([shots], tmp_path / "clean")

    assert tasks == [
        Task(shots / "a.png", tmp_path / "clean" / "a.png"),
        Task(shots / "b.jpg", tmp_path / "clean" / "b.png"),
    ]


def test_one_image_may_be_given_the_name_of_its_output(shots, tmp_path):
    assert plan([shots / "b.jpg"], tmp_path / "x.png") == [Task(shots / "b.jpg", tmp_path / "x.png")]


def test_the_name_of_the_output_says_its_format(shots, tmp_path):
    assert plan([shots / "b.jpg"], tmp_path / "x.tiff")[0].format == "tiff"
    assert plan([shots / "b.jpg"], tmp_path / "x.JPG")[0].format == "jpeg"
    assert plan([shots / "b.jpg"], PIPE, format_="webp")[0].format == "webp"
    with pytest.raises(ValueError, match=r"x\.png does not end in \.webp, as an image of that format does"):
        plan([shots / "b.jpg"], tmp_path / "x.png", format_="webp")


def test_a_folder_s_images_get_the_format_s_suffix_or_keep_theirs(shots, tmp_path):
    made = [task.target.name for task in plan([shots], tmp_path / "clean", format_="webp")]
    kept = [task.target.name for task in plan([shots], tmp_path / "clean", format_="same")]

    assert made == ["a.webp", "b.webp"]
    assert kept == ["a.png", "b.jpg"]


def test_images_are_written_in_the_format_of_their_task_and_what_it_lacks_is_told(shots, tmp_path, net):
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(shots / "deep.png")

    outcomes = list(denoise_files(always(net), plan([shots], tmp_path / "clean", format_="jpeg")))

    assert [outcome.changed for outcome in outcomes] == [(), (), ("16 bits a channel to 8 bits a channel",)]
    assert {detect_format(file.read_bytes()).name for file in (tmp_path / "clean").iterdir()} == {"jpeg"}


def test_an_order_says_how_the_images_are_finished(shots, net):
    order = DenoiseOptions(finish=Finish(strength=0, output="compare"))

    both = np.asarray(
        Image.open(io.BytesIO(denoise_bytes(always(net), (shots / "a.png").read_bytes(), order=order).data))
    )

    assert (both == np.concatenate((gradient(), gradient()), 1)).all()


def test_a_folder_that_is_there_is_a_folder_even_if_its_name_has_a_suffix(shots, tmp_path):
    (tmp_path / "v1.2").mkdir()

    assert plan([shots / "b.jpg"], tmp_path / "v1.2") == [Task(shots / "b.jpg", tmp_path / "v1.2" / "b.png")]


@pytest.mark.parametrize(
    ("inputs", "output", "message"),
    [
        (["a.png", "b.jpg"], "x.png", "takes one image, and here may be several; give a folder"),
        ([""], "x.png", "takes one image"),
        (["a.png"], "x.gif", r"x\.gif ends in no suffix of a format that is written\. Output formats: jpeg, png"),
        (["a.png", "none.png"], "clean", r"none\.png: no such file or folder"),
        (["a.png"], "plain", "is a file; give a folder"),
        (["a.png", "sub/A.tif"], "clean", r"would all be written to one file: .*a\.png, .*A\.tif"),
        (["a.png"], "there", r"already there, and written over only with force: .*a\.png"),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_work(shots, tmp_path, inputs, output, message):
    (shots / "sub").mkdir()
    (shots / "sub" / "A.tif").touch()
    (tmp_path / "plain").touch()
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "a.png").touch()

    with pytest.raises(ValueError, match=message):
        plan([shots / name for name in inputs], tmp_path / output)


def test_force_allows_writing_over_what_is_there(shots):
    assert plan([shots / "a.png"], shots, force=True) == [Task(shots / "a.png", shots / "a.png")]


def test_denoised_images_have_the_network_s_pixels(shots, tmp_path, net):
    outcomes = list(denoise_files(always(net), plan([shots], tmp_path / "clean")))

    assert [outcome.error for outcome in outcomes] == [None, None]
    assert sorted(file.name for file in (tmp_path / "clean").iterdir()) == ["a.png", "b.png"]
    assert (np.asarray(Image.open(tmp_path / "clean" / "a.png")) == gradient()).all()


def test_a_broken_file_is_told_of_and_the_rest_go_on(shots, tmp_path, net):
    whole = (shots / "a.png").read_bytes()
    (shots / "a.png").write_bytes(whole[: len(whole) // 2])

    broken, fine = denoise_files(always(net), plan([shots], tmp_path / "clean"))

    assert broken.task.source.name == "a.png"
    assert broken.error
    assert fine.error is None
    assert [file.name for file in (tmp_path / "clean").iterdir()] == ["b.png"]


@pytest.fixture
def journal(tmp_path):
    with closing(Journal(tmp_path / "clean", {"strength": 1}, alone=True)) as opened:
        yield opened


def names(tasks):
    return [task.source.name for task in tasks]


def test_what_is_done_is_left_out_until_it_changes_or_is_gone(shots, journal, net):
    tasks = plan([shots], journal.folder)
    list(denoise_files(always(net), tasks, journal=journal))

    after_all = remaining(tasks, journal)
    (shots / "a.png").write_bytes((shots / "b.jpg").read_bytes())
    after_a_change = remaining(tasks, journal)
    (journal.folder / "b.png").unlink()

    assert after_all == []
    assert names(after_a_change) == ["a.png"]
    assert names(remaining(tasks, journal)) == ["a.png", "b.jpg"]


def test_what_is_wanted_otherwise_is_done_again(shots, journal, net):
    tasks = plan([shots], journal.folder)
    list(denoise_files(always(net), tasks, journal=journal))

    journal.wishes = {"strength": 0.5}

    assert remaining(tasks, journal) == tasks
    assert names(remaining(plan([shots], journal.folder, format_="jpeg"), journal)) == ["a.png", "b.jpg"]


def test_what_failed_is_tried_again(shots, journal, net):
    (shots / "a.png").write_bytes(b"no image")
    tasks = plan([shots], journal.folder)

    list(denoise_files(always(net), tasks, journal=journal))

    assert names(remaining(tasks, journal)) == ["a.png"]


def test_an_output_that_is_not_as_it_was_made_is_kept_even_if_its_image_changes(shots, journal, net):
    tasks = plan([shots], journal.folder)
    list(denoise_files(always(net), tasks, journal=journal))
    (journal.folder / "a.png").write_text("retouched")

    untouched = remaining(tasks, journal)
    os.utime(shots / "a.png", ns=(1, 1))

    assert untouched == []
    with pytest.raises(ValueError, match=r"already there, not as made here, .* with force: .*a\.png"):
        remaining(tasks, journal)
    assert names(remaining(tasks, journal, force=True)) == ["a.png"]


def test_an_image_that_changes_while_it_is_in_work_is_told_of_and_not_written(shots, journal, net):
    def choose(samples):
        os.utime(shots / "a.png", ns=(1, 1))
        return net

    changed, fine = denoise_files(choose, plan([shots], journal.folder), journal=journal)

    assert changed.error == f"{shots / 'a.png'}: was written to while it was in work"
    assert fine.error is None
    assert not (journal.folder / "a.png").exists()


def test_a_file_that_cannot_be_written_is_told_of(shots, tmp_path, net):
    (tmp_path / "file").touch()

    [outcome] = denoise_files(always(net), [Task(shots / "a.png", tmp_path / "file" / "a.png")])

    assert "file" in outcome.error


def test_pipes_are_read_and_written(shots, net, monkeypatch):
    sent, received = io.BytesIO((shots / "a.png").read_bytes()), io.BytesIO()
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=sent))
    monkeypatch.setattr("sys.stdout", SimpleNamespace(buffer=received))

    [outcome] = denoise_files(always(net), plan([PIPE], PIPE))

    assert outcome.error is None
    assert (np.asarray(Image.open(received)) == gradient()).all()


def test_an_image_from_a_pipe_needs_a_name(tmp_path):
    with pytest.raises(ValueError, match=r"from a pipe has no name; give it one that ends in \.png"):
        plan([PIPE], tmp_path)


def test_bytes_that_are_no_image_are_refused(net):
    with pytest.raises(ValueError, match="image"):
        denoise_bytes(always(net), b"no image")
