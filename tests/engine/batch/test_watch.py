"""Watched folders: which files are denoised, when, and how often."""

import errno
import json
import os
import sys
import threading
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
from PIL import Image

from engine.batch import stack
from engine.batch.journal import Journal
from engine.batch.tasks import DenoiseOptions
from engine.batch.watch import OPEN_DELAY, UNKNOWN_DELAY, FolderWatcher, check_folders
from engine.inference.model_selection import fixed_selector
from engine.system import atomic_file

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux knows whether a file is open for writing")


@pytest.fixture
def watching(scans, clean, net):
    """watching(**options): a watcher that keeps its warnings, and the iterator over its outcomes."""

    @contextmanager
    def start(**options):
        warnings, stopping = [], Event()
        with closing(Journal(clean, {}, resume=True)) as journal:
            watch = FolderWatcher(
                scans, journal, warnings.append, **{"poll_interval": 0.01, "retry_interval": 0.01} | options
            )
            watch.warnings, watch.stopping = warnings, stopping
            yield watch, watch.outcomes(fixed_selector(net), DenoiseOptions(), stopping)

    return start


def name(outcome):
    return outcome.task.source.name


def outputs(clean):
    return sorted(file.name for file in clean.glob("[!.]*"))


def test_present_files_are_denoised_and_then_arriving_ones(drop, watching, clean):
    drop("b.png"), drop("a.png")

    with watching() as (_, outcomes):
        first = [name(next(outcomes)), name(next(outcomes))]
        drop("c.png")
        then = name(next(outcomes))

    assert (first, then) == (["a.png", "b.png"], "c.png")
    assert outputs(clean) == ["a.png", "b.png", "c.png"]


def test_stopping_finishes_the_current_image(drop, watching, clean):
    drop("a.png"), drop("b.png")

    with watching() as (watch, outcomes):
        next(outcomes)
        watch.stopping.set()
        rest = list(outcomes)

    assert rest == []
    assert outputs(clean) == ["a.png"]


@linux
def test_a_file_that_is_being_written_waits(drop, scans, watching):
    whole = drop("whole.png").read_bytes()

    with watching() as (_, outcomes), (scans / "growing.png").open("wb") as growing:
        growing.write(whole[:50])
        growing.flush()
        first = name(next(outcomes))
        drop("later.png")
        second = name(next(outcomes))
        growing.write(whole[50:])
        growing.close()
        third = next(outcomes)

    assert (first, second, name(third)) == ("whole.png", "later.png", "growing.png")
    assert third.error is None


@linux
def test_a_file_that_is_open_for_writing_waits_longer(drop, watching):
    with watching() as (watch, _), drop("a.png").open("ab"):
        at_once, later, much_later = (watch.ready(now) for now in (0, OPEN_DELAY - 1, OPEN_DELAY))

    assert (at_once, later) == ([], [])
    assert [task.source.name for task in much_later] == ["a.png"]


def test_without_leases_a_file_must_stay_unchanged_for_a_while(drop, watching, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr("engine.batch.watch.fcntl.fcntl", refuse)
    file = drop("a.png")

    with watching() as (watch, _):
        early = watch.ready(0), watch.ready(UNKNOWN_DELAY - 1)
        os.utime(file, ns=(1, 1))
        changed = watch.ready(UNKNOWN_DELAY), watch.ready(2 * UNKNOWN_DELAY - 1)
        whole = watch.ready(2 * UNKNOWN_DELAY)

    assert (*early, *changed) == ([], [], [], [])
    assert [task.source.name for task in whole] == ["a.png"]


def test_an_empty_file_waits_for_a_while(scans, watching):
    (scans / "a.png").touch()

    with watching() as (watch, _):
        early, late = watch.ready(0), watch.ready(UNKNOWN_DELAY)

    assert early == []
    assert len(late) == 1


@pytest.mark.parametrize(
    "hidden", [".a.png", "._a.png", "~a.png", "a.png.part", "a.png~", "a.tmp", "a.png.crdownload", "notes.txt"]
)
def test_hidden_and_temporary_names_are_ignored(drop, scans, watching, hidden):
    drop("b.png").rename(scans / hidden)

    with watching() as (watch, _):
        assert watch.ready(1e9) == []


def test_a_folder_or_a_pipe_with_an_images_name_is_ignored(scans, watching):
    (scans / "a.png").mkdir()
    os.mkfifo(scans / "b.png")

    with watching() as (watch, _):
        assert watch.ready(1e9) == []


def test_a_restarted_watcher_does_nothing_twice(drop, clean, watching):
    drop("a.png"), drop("b.png")
    with watching() as (_, outcomes):
        next(outcomes), next(outcomes)
    # Users may take outputs away.
    (clean / "a.png").unlink()
    drop("c.png")

    with watching() as (_, outcomes):
        new = name(next(outcomes))

    assert new == "c.png"
    assert outputs(clean) == ["b.png", "c.png"]


def test_a_changed_file_is_denoised_again(drop, clean, watching):
    drop("a.png", brightness=10)
    with watching() as (_, outcomes):
        next(outcomes)
        drop("a.png", brightness=200)
        again = next(outcomes)

    assert again.error is None
    with Image.open(clean / "a.png") as image:
        assert image.getpixel((0, 0)) == (200, 0, 0)


def test_a_broken_file_is_tried_again_only_when_it_changes(drop, scans, watching):
    whole = drop("a.png").read_bytes()
    (scans / "a.png").write_bytes(whole[:60])
    with watching() as (_, outcomes):
        broken = next(outcomes)
        drop("b.png")
        fine = next(outcomes)

    drop("c.png")
    with watching() as (_, outcomes):
        after_a_restart = next(outcomes)
        (scans / "a.png").write_bytes(whole)
        mended = next(outcomes)

    assert (name(broken), name(fine), name(after_a_restart)) == ("a.png", "b.png", "c.png")
    assert "broken or cut short" in broken.error
    assert (name(mended), mended.error) == ("a.png", None)


def test_a_file_that_is_removed_is_not_an_error(drop, watching, net):
    def select(samples):
        other.unlink(missing_ok=True)
        return fixed_selector(net)(samples)

    drop("a.png")
    other = drop("b.png")
    with watching() as (watch, _):
        outcomes = watch.outcomes(select, DenoiseOptions(), watch.stopping)
        first = next(outcomes)
        drop("c.png")
        then = next(outcomes)

    assert (name(first), name(then)) == ("a.png", "c.png")
    assert watch.warnings == []


def test_a_file_that_changes_meanwhile_is_denoised_as_changed(drop, clean, watching, net):
    def select(samples):
        if not clean.joinpath("other.png").exists():
            drop("a.png", brightness=200)
            drop("other.png").rename(clean / "other.png")
        return fixed_selector(net)(samples)

    drop("a.png", brightness=10)
    with watching() as (watch, _):
        only = next(watch.outcomes(select, DenoiseOptions(), watch.stopping))

    assert (name(only), only.error, watch.warnings) == ("a.png", None, [])
    with Image.open(clean / "a.png") as image:
        assert image.getpixel((0, 0)) == (200, 0, 0)


def test_an_existing_output_is_kept_with_one_warning(drop, clean, watching):
    clean.mkdir()
    (clean / "a.png").write_text("mine")
    drop("a.png"), drop("b.png")

    with watching() as (watch, outcomes):
        first = name(next(outcomes))
        drop("c.png")
        second = name(next(outcomes))
        kept = (clean / "a.png").read_text()
        (clean / "a.png").unlink()
        third = name(next(outcomes))

    assert (first, second, third, kept) == ("b.png", "c.png", "a.png", "mine")
    assert len(watch.warnings) == 1
    assert watch.warnings[0].endswith("a.png exists already; remove it, or replace it with --force")


def test_existing_outputs_are_overwritten_if_allowed(drop, clean, watching):
    clean.mkdir()
    (clean / "a.png").write_text("mine")
    drop("a.png")

    with watching(overwrite=True) as (_, outcomes):
        outcome = next(outcomes)

    assert outcome.error is None
    assert (clean / "a.png").read_bytes().startswith(b"\x89PNG")


def test_images_of_one_name_keep_their_suffix(drop, clean, watching):
    drop("a.jpg"), drop("a.tif")
    with watching(format="png") as (watch, outcomes):
        next(outcomes), next(outcomes)
        drop("b.jpg")
        next(outcomes)
        # What comes later leaves the first one's output alone, also when the first one changes.
        drop("b.png")
        next(outcomes)
        drop("b.jpg", brightness=200)
        again = next(outcomes)

    assert outputs(clean) == ["a.jpg.png", "a.tif.png", "b.png", "b.png.png"]
    assert (name(again), again.task.target.name) == ("b.jpg", "b.png")
    assert watch.warnings == []


def test_an_output_of_another_folder_s_image_is_kept(drop, tmp_path, clean, watching):
    other = tmp_path / "others" / "a.jpg"
    other.parent.mkdir()
    Image.new("RGB", (20, 20)).save(other)
    with closing(Journal(clean, {})) as journal:
        entry = journal.begin(other, clean / "a.png")
        Image.new("RGB", (20, 20)).save(clean / "a.png")
        journal.finish(entry)
    drop("a.png"), drop("b.png")

    with watching(overwrite=True) as (watch, outcomes):
        only = next(outcomes)

    assert name(only) == "b.png"
    assert [line.split(": ")[1].split(" be ")[0] for line in watch.warnings] == ["its output would"]


def test_an_output_s_name_that_is_a_folder_causes_one_warning(drop, clean, watching):
    (clean / "a.png").mkdir(parents=True)
    drop("a.png"), drop("b.png")

    with watching(overwrite=True) as (watch, outcomes):
        first = name(next(outcomes))
        drop("c.png")
        second = name(next(outcomes))

    assert (first, second) == ("b.png", "c.png")
    assert len(watch.warnings) == 1
    assert "is a folder; rename one" in watch.warnings[0]


def test_a_full_disk_causes_one_warning_and_new_tries(drop, watching, monkeypatch):
    tries = []

    def full(path, data):
        tries.append(path.name)
        if len(tries) < 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        atomic_file.write_atomically(path, data)

    monkeypatch.setattr("engine.batch.files.write_atomically", full)
    drop("a.png"), drop("b.png")
    with watching() as (watch, outcomes):
        done = {name(next(outcomes)), name(next(outcomes))}

    assert done == {"a.png", "b.png"}
    # A file that failed goes last, so it does not block the others.
    assert tries[:3] == ["a.png", "b.png", "a.png"]
    assert watch.warnings == ["No space left on device; trying again every 0.01 seconds"]


@pytest.mark.parametrize("gone", ["clean", "scans"])
def test_a_folder_that_vanishes_is_awaited_with_one_warning(drop, tmp_path, watching, gone):
    told = Event()

    def come_back():
        told.wait(30)
        (tmp_path / "elsewhere").rename(tmp_path / gone)

    drop("a.png")
    with watching() as (watch, outcomes):
        watch.warn = lambda text: (watch.warnings.append(text), told.set())
        next(outcomes)
        drop("b.png")
        (tmp_path / gone).rename(tmp_path / "elsewhere")
        back = threading.Thread(target=come_back)
        back.start()
        outcome = next(outcomes)
        back.join()

    assert (name(outcome), outcome.error) == ("b.png", None)
    assert len(watch.warnings) == 1
    assert str(tmp_path / gone) in watch.warnings[0]
    assert outputs(tmp_path / "clean") == ["a.png", "b.png"]


def test_files_interrupted_by_a_kill_come_last(drop, clean, watching):
    first = drop("a.png")
    drop("b.png")
    with closing(Journal(clean, {})) as journal:
        journal.begin(first, clean / "a.png")

    with watching() as (_, outcomes):
        order = [name(next(outcomes)), name(next(outcomes))]

    assert order == ["b.png", "a.png"]


def test_a_file_that_ends_two_processes_is_given_up_with_one_line(drop, clean, watching):
    first = drop("a.png")
    for _ in range(2):
        with closing(Journal(clean, {}, resume=True)) as journal:
            journal.begin(first, clean / "a.png")
    drop("b.png")

    with watching() as (_, outcomes):
        fine, hopeless = next(outcomes), next(outcomes)
    drop("c.png")
    with watching() as (_, outcomes):
        after_a_restart = name(next(outcomes))
        drop("a.png", brightness=50)
        changed = next(outcomes)

    assert (name(fine), name(hopeless)) == ("b.png", "a.png")
    assert "two attempts ended with the process" in hopeless.error
    assert after_a_restart == "c.png"
    assert (name(changed), changed.error) == ("a.png", None)


def test_files_are_read_by_the_given_reader(drop, watching):
    def fail(data, page, colour):
        raise ValueError("the decoder process ended")

    drop("a.png")
    with watching(reader=SimpleNamespace(read=fail)) as (_, outcomes):
        assert next(outcomes).error == "the decoder process ended"


@pytest.mark.parametrize("out", ["scans", "scans/clean", "clean/../scans", "link", "link/deeper/clean"])
def test_an_output_folder_inside_the_watched_one_is_refused(scans, clean, tmp_path, out):
    clean.mkdir()
    (tmp_path / "link").symlink_to(scans)

    with pytest.raises(ValueError, match="so outputs would be denoised again; choose an output folder elsewhere"):
        check_folders(scans, tmp_path / out)


def test_input_and_output_must_be_folders(drop, scans, clean, tmp_path):
    file = drop("a.png")

    check_folders(scans, clean)
    check_folders(scans, tmp_path)
    with pytest.raises(ValueError, match=r"a\.png: no such folder to watch"):
        check_folders(file, clean)
    for out in (Path("-"), tmp_path / "x.png", file):
        with pytest.raises(ValueError, match="need an output folder"):
            check_folders(scans, out)


def test_a_stop_ends_a_stack_between_two_pages(scans, clean, watching, monkeypatch):
    pages = np.random.default_rng(0).integers(0, 255, (4, 40, 40), np.uint8)
    tifffile.imwrite(scans / "stack.tif", pages, photometric="minisblack")
    denoised = []

    with watching() as (watch, outcomes):

        def denoise_page(net, page, *args, **options):
            denoised.append(page)
            watch.stopping.set()
            return page

        monkeypatch.setattr(stack, "denoise", denoise_page)
        ended = list(outcomes)

    assert ended == []
    assert len(denoised) == 1
    assert outputs(clean) == []
    assert json.loads((clean / ".denoise" / "journal.jsonl").read_text().splitlines()[-1])["attempts"] == 0
