import errno
import os
import queue
import signal
import subprocess
import sys
import threading
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event

import pytest
import torch
from PIL import Image

from engine.batch.journal import Journal
from engine.batch.tasks import DenoiseOptions
from engine.batch.watch import OPEN, UNKNOWN, FolderWatcher, check
from engine.inference.model_selection import always
from engine.models import checkpoint
from engine.models.networks import UNetConfig, build_network
from engine.system import atomic_file

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells whether a file is open for writing")
SPEC = UNetConfig((8,), (1,))


@pytest.fixture(scope="module")
def net():
    """Before training it gives back its input."""
    return build_network(SPEC, torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model(net, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "plain.safetensors"
    checkpoint.save(path, net, SPEC, {})
    return path


@pytest.fixture
def scans(tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    return folder


@pytest.fixture
def clean(tmp_path):
    return tmp_path / "clean"


@pytest.fixture
def drop(scans, tmp_path):
    """drop(name, brightness): an image that is renamed into the folder."""

    def rename(name, brightness=100):
        made = tmp_path / f"on its way to {name}"
        Image.new("RGB", (20, 20), (brightness, 0, 0)).save(made)
        return made.rename(scans / name)

    return rename


@pytest.fixture
def watching(scans, clean, net):
    """watching(**options): a watch, and an iterator over what becomes of files; .told is what it warned of."""

    @contextmanager
    def start(**options):
        told, stopping = [], Event()
        with closing(Journal(clean, {}, alone=True)) as journal:
            watch = FolderWatcher(scans, journal, told.append, **{"every": 0.01, "retry": 0.01} | options)
            watch.told, watch.stopping = told, stopping
            yield watch, watch.outcomes(always(net), DenoiseOptions(), stopping)

    return start


def name(outcome):
    return outcome.task.source.name


def outputs(clean):
    return sorted(file.name for file in clean.glob("[!.]*"))


def test_what_is_there_is_denoised_and_then_what_arrives(drop, watching, clean):
    drop("b.png"), drop("a.png")

    with watching() as (_, outcomes):
        first = [name(next(outcomes)), name(next(outcomes))]
        drop("c.png")
        then = name(next(outcomes))

    assert (first, then) == (["a.png", "b.png"], "c.png")
    assert outputs(clean) == ["a.png", "b.png", "c.png"]


def test_told_to_stop_it_ends_after_the_image_in_hand(drop, watching, clean):
    drop("a.png"), drop("b.png")

    with watching() as (watch, outcomes):
        next(outcomes)
        watch.stopping.set()
        rest = list(outcomes)

    assert rest == []
    assert outputs(clean) == ["a.png"]


@linux
def test_a_file_that_is_written_to_waits(drop, scans, watching):
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
def test_a_file_that_is_open_for_writing_waits_longer_than_one_that_nobody_knows_of(drop, watching):
    with watching() as (watch, _), drop("a.png").open("ab"):
        at_once, later, much_later = (watch.ready(now) for now in (0, OPEN - 1, OPEN))

    assert (at_once, later) == ([], [])
    assert [task.source.name for task in much_later] == ["a.png"]


def test_where_nobody_knows_who_writes_a_file_must_stay_as_it_is_for_a_while(drop, watching, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr("engine.batch.watch.fcntl.fcntl", refuse)
    file = drop("a.png")

    with watching() as (watch, _):
        early = watch.ready(0), watch.ready(UNKNOWN - 1)
        os.utime(file, ns=(1, 1))
        changed = watch.ready(UNKNOWN), watch.ready(2 * UNKNOWN - 1)
        whole = watch.ready(2 * UNKNOWN)

    assert (*early, *changed) == ([], [], [], [])
    assert [task.source.name for task in whole] == ["a.png"]


def test_a_file_that_is_still_empty_waits_for_a_while(scans, watching):
    (scans / "a.png").touch()

    with watching() as (watch, _):
        early, late = watch.ready(0), watch.ready(UNKNOWN)

    assert early == []
    assert len(late) == 1


@pytest.mark.parametrize(
    "hidden", [".a.png", "._a.png", "~a.png", "a.png.part", "a.png~", "a.tmp", "a.png.crdownload", "notes.txt"]
)
def test_hidden_and_temporary_names_are_left_out(drop, scans, watching, hidden):
    drop("b.png").rename(scans / hidden)

    with watching() as (watch, _):
        assert watch.ready(1e9) == []


def test_a_folder_or_a_pipe_with_an_image_s_name_is_left_out(scans, watching):
    (scans / "a.png").mkdir()
    os.mkfifo(scans / "b.png")

    with watching() as (watch, _):
        assert watch.ready(1e9) == []


def test_nothing_is_done_twice_by_one_that_is_started_again(drop, clean, watching):
    drop("a.png"), drop("b.png")
    with watching() as (_, outcomes):
        next(outcomes), next(outcomes)
    # Who uses the outputs may take them away.
    (clean / "a.png").unlink()
    drop("c.png")

    with watching() as (_, outcomes):
        new = name(next(outcomes))

    assert new == "c.png"
    assert outputs(clean) == ["b.png", "c.png"]


def test_a_file_that_changes_is_done_again(drop, clean, watching):
    drop("a.png", brightness=10)
    with watching() as (_, outcomes):
        next(outcomes)
        drop("a.png", brightness=200)
        again = next(outcomes)

    assert again.error is None
    with Image.open(clean / "a.png") as image:
        assert image.getpixel((0, 0)) == (200, 0, 0)


def test_a_broken_file_is_told_of_once_and_tried_again_when_it_changes(drop, scans, watching):
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


def test_a_file_that_is_taken_away_is_no_error(drop, watching, net):
    def choose(samples):
        other.unlink(missing_ok=True)
        return net

    drop("a.png")
    other = drop("b.png")
    with watching() as (watch, _):
        outcomes = watch.outcomes(choose, DenoiseOptions(), watch.stopping)
        first = next(outcomes)
        drop("c.png")
        then = next(outcomes)

    assert (name(first), name(then)) == ("a.png", "c.png")
    assert watch.told == []


def test_a_file_that_changes_while_it_is_in_work_is_done_as_it_is_then(drop, clean, watching, net):
    def choose(samples):
        if not clean.joinpath("other.png").exists():
            drop("a.png", brightness=200)
            drop("other.png").rename(clean / "other.png")
        return net

    drop("a.png", brightness=10)
    with watching() as (watch, _):
        only = next(watch.outcomes(choose, DenoiseOptions(), watch.stopping))

    assert (name(only), only.error, watch.told) == ("a.png", None, [])
    with Image.open(clean / "a.png") as image:
        assert image.getpixel((0, 0)) == (200, 0, 0)


def test_an_output_that_is_there_is_kept_and_told_of_once_until_it_is_gone(drop, clean, watching):
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
    assert len(watch.told) == 1
    assert watch.told[0].endswith("a.png is already there, and written over only with force")


def test_force_writes_over_what_is_there(drop, clean, watching):
    clean.mkdir()
    (clean / "a.png").write_text("mine")
    drop("a.png")

    with watching(force=True) as (_, outcomes):
        outcome = next(outcomes)

    assert outcome.error is None
    assert (clean / "a.png").read_bytes().startswith(b"\x89PNG")


def test_two_files_of_one_output_are_told_of_even_with_force(drop, watching):
    drop("a.jpg")
    with watching(force=True) as (watch, outcomes):
        next(outcomes)
        drop("a.png"), drop("b.png")
        other = next(outcomes)

    assert name(other) == "b.png"
    assert [line.split(": ")[1].split(" to ")[0] for line in watch.told] == ["would be written"]


def test_a_full_disk_is_told_of_once_and_what_could_not_be_written_is_tried_again(drop, watching, monkeypatch):
    tries = []

    def full(path, data):
        tries.append(path.name)
        if len(tries) < 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        atomic_file.write_atomically(path, data)

    monkeypatch.setattr("engine.batch.tasks.write_atomically", full)
    drop("a.png"), drop("b.png")
    with watching() as (watch, outcomes):
        done = {name(next(outcomes)), name(next(outcomes))}

    assert done == {"a.png", "b.png"}
    # What failed goes last, so that a single bad file keeps none waiting.
    assert tries[:3] == ["a.png", "b.png", "a.png"]
    assert watch.told == ["[Errno 28] No space left on device; tried again every 0.01 seconds"]


@pytest.mark.parametrize("gone", ["clean", "scans"])
def test_a_folder_that_vanishes_is_told_of_and_waited_for(drop, tmp_path, watching, gone):
    told = Event()

    def come_back():
        told.wait(30)
        (tmp_path / "elsewhere").rename(tmp_path / gone)

    drop("a.png")
    with watching() as (watch, outcomes):
        watch.warn = lambda text: (watch.told.append(text), told.set())
        next(outcomes)
        drop("b.png")
        (tmp_path / gone).rename(tmp_path / "elsewhere")
        back = threading.Thread(target=come_back)
        back.start()
        outcome = next(outcomes)
        back.join()

    assert (name(outcome), outcome.error) == ("b.png", None)
    assert len(watch.told) == 1
    assert str(tmp_path / gone) in watch.told[0]
    assert outputs(tmp_path / "clean") == ["a.png", "b.png"]


def test_what_the_process_was_killed_at_comes_after_the_others(drop, clean, watching):
    first = drop("a.png")
    drop("b.png")
    with closing(Journal(clean, {})) as journal:
        journal.begin(first, clean / "a.png")

    with watching() as (_, outcomes):
        order = [name(next(outcomes)), name(next(outcomes))]

    assert order == ["b.png", "a.png"]


@pytest.mark.parametrize("out", ["scans", "scans/clean", "clean/../scans", "link", "link/deeper/clean"])
def test_a_folder_that_would_be_fed_its_own_outputs_is_refused(scans, clean, tmp_path, out):
    clean.mkdir()
    (tmp_path / "link").symlink_to(scans)

    with pytest.raises(ValueError, match="whose outputs would arrive there in turn; give a folder elsewhere"):
        check(scans, tmp_path / out)


def test_a_watch_needs_a_folder_on_both_sides(drop, scans, clean, tmp_path):
    file = drop("a.png")

    check(scans, clean)
    check(scans, tmp_path)
    with pytest.raises(ValueError, match=r"a\.png: no such folder to watch"):
        check(file, clean)
    for out in (Path("-"), tmp_path / "x.png", file):
        with pytest.raises(ValueError, match="goes to a folder"):
            check(scans, out)


@contextmanager
def command(*args):
    """The command, and what next() waits for: a line of its stderr."""
    process = subprocess.Popen(
        [sys.executable, "-m", "service.cli", "run", *map(str, args)], stderr=subprocess.PIPE, text=True
    )
    lines = queue.Queue()
    reader = threading.Thread(target=lambda: [lines.put(line.rstrip("\n")) for line in process.stderr])
    reader.start()
    try:
        yield process, lambda: lines.get(timeout=120)
    finally:
        process.kill()
        process.wait()
        reader.join()
        process.stderr.close()


def test_the_command_denoises_what_arrives_survives_a_kill_and_ends_clean(drop, scans, clean, model):
    given = ["--watch", scans, "-o", clean, "--model", model]
    whole = drop("a.png").read_bytes()
    # As a kill in the middle of an image leaves it.
    with closing(Journal(clean, {})) as journal:
        journal.begin(scans / "a.png", clean / "a.png")
    (clean / ".a.png.01234567.part").touch()

    with command(*given) as (process, line):
        first = [line(), line()]
        with (scans / "slow.png").open("wb") as slow:
            slow.write(whole[:50])
            slow.flush()
            drop("b.png")
            first.append(line())
            slow.write(whole[50:])
        first.append(line())
        process.kill()
    drop("c.png")
    with command(*given) as (process, line):
        then = [line(), line()]
        process.send_signal(signal.SIGTERM)
        then.append(line())
        code = process.wait(60)

    assert first == [
        f"watching {scans}. Press Ctrl-C to stop.",
        *(f"{scans / name}: {clean / name}" for name in ("a.png", "b.png", "slow.png")),
    ]
    assert then == [
        f"watching {scans}. Press Ctrl-C to stop.",
        f"{scans / 'c.png'}: {clean / 'c.png'}",
        "stopped: 1 denoised, 0 failed",
    ]
    assert code == 0
    assert outputs(clean) == ["a.png", "b.png", "c.png", "slow.png"]
    assert not list(clean.glob(".*.part"))
