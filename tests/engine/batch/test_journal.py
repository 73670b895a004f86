"""The journal of an output folder."""

import errno
import os
from contextlib import closing

import pytest

from engine.batch.journal import Journal
from engine.batch.journal_log import JOURNAL_FILE
from engine.storage.locations import file_stamp
from engine.system.atomic_file import write_atomically

OPTIONS = {"strength": 1.0}


@pytest.fixture
def source(tmp_path):
    file = tmp_path / "scans" / "a.jpg"
    file.parent.mkdir()
    file.write_bytes(b"came")
    return file


@pytest.fixture
def target(tmp_path):
    return tmp_path / "clean" / "a.png"


def opened(target):
    return closing(Journal(target.parent, OPTIONS, resume=True))


def make(journal, source, target):
    entry = journal.begin(source, target)
    write_atomically(target, b"made")
    journal.finish(entry)


def test_finished_entries_are_read_again(source, target):
    with opened(target) as journal:
        make(journal, source, target)

    with opened(target) as again:
        entry = again.finished(source, file_stamp(source))
        assert (entry.target, entry.options, entry.output_stamp) == ("a.png", OPTIONS, file_stamp(target))
        assert again.maker(target) == source
        assert again.may_replace(source, target)
        assert not again.interrupted


def test_a_changed_source_has_no_finished_entry(source, target):
    with opened(target) as journal:
        make(journal, source, target)
        source.write_bytes(b"came anew")

        assert journal.finished(source, file_stamp(source)) is None
        assert journal.may_replace(source, target)


def test_only_the_unchanged_output_of_a_source_may_be_replaced(source, target):
    other = source.with_suffix(".tif")
    with opened(target) as journal:
        make(journal, source, target)
        from_another = journal.may_replace(other, target)
        target.write_bytes(b"retouched")

        assert not from_another
        assert not journal.may_replace(source, target)
        assert not journal.may_replace(source, target.with_name(JOURNAL_FILE.parts[0]))


def test_a_failure_is_read_again_and_keeps_the_older_output(source, target):
    with opened(target) as journal:
        make(journal, source, target)
        source.write_bytes(b"broken")
        journal.finish(journal.begin(source, target), "is broken")

    with opened(target) as again:
        assert again.finished(source, file_stamp(source)).error == "is broken"
        assert again.may_replace(source, target)


def test_killed_processing_is_interrupted_and_cleaned_up(source, target):
    with opened(target) as journal:
        make(journal, source, target)
        source.write_bytes(b"came anew")
        journal.begin(source, target)
    half = target.with_name(".a.png.01234567.part")
    half.touch()

    with opened(target) as again:
        assert again.finished(source, file_stamp(source)) is None
        assert again.interrupted == {source}
        assert again.may_replace(source, target)
        assert not half.exists()


def test_an_output_written_before_a_kill_counts_as_finished(source, target):
    with opened(target) as journal:
        journal.begin(source, target)
        write_atomically(target, b"made")

    with opened(target) as again:
        assert again.finished(source, file_stamp(source)).output_stamp == file_stamp(target)
        assert not again.interrupted
        target.unlink()
    with opened(target) as later:
        assert later.finished(source, file_stamp(source))


def test_an_output_that_was_removed_counts_as_finished(source, target):
    with opened(target) as journal:
        journal.finish(journal.begin(source, target))

    with opened(target) as again:
        assert again.finished(source, file_stamp(source))


@pytest.mark.parametrize("torn", [b'\n{"source": "b', b"\n[1]", b'\n{"other": 1}', b"\n\xff\0"])
def test_a_torn_line_is_ignored(source, target, torn):
    with opened(target) as journal:
        journal.log.path.write_bytes(torn)
        make(journal, source, target)

    with opened(target) as again:
        assert again.finished(source, file_stamp(source))


def test_resuming_needs_the_folder_for_itself(target):
    with opened(target), pytest.raises(ValueError, match="another process is writing to this folder"):
        Journal(target.parent, OPTIONS)
    several = closing(Journal(target.parent, OPTIONS)), closing(Journal(target.parent, OPTIONS))
    with several[0], several[1], pytest.raises(ValueError, match="another process is writing to this folder"):
        Journal(target.parent, OPTIONS, resume=True)


def test_a_missing_journal_is_not_created_again(source, target):
    with opened(target) as journal:
        journal.log.path.unlink()

        with pytest.raises(FileNotFoundError, match=r"journal\.jsonl is missing"):
            journal.begin(source, target)
        assert not journal.log.path.exists()


def test_an_output_on_a_removed_disk_is_not_finished(source, target):
    with opened(target) as journal:
        entry = journal.begin(source, target)
        journal.log.path.unlink()
        write_atomically(target, b"made")

        with pytest.raises(FileNotFoundError):
            journal.finish(entry)
        assert journal.finished(source, file_stamp(source)) is None


def test_an_output_that_filled_the_disk_is_finished(source, target, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with opened(target) as journal:
        entry = journal.begin(source, target)
        write_atomically(target, b"made")
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            journal.finish(entry)

        assert journal.finished(source, file_stamp(source))
        assert journal.may_replace(source, target)


def test_a_missing_source_cannot_begin(source, target):
    source.unlink()

    with (
        opened(target) as journal,
        pytest.raises(FileNotFoundError, match=r"a\.jpg: the file does not exist any more"),
    ):
        journal.begin(source, target)


# Attempts


def kill(source, target, options=None):
    """A process that is killed while it processes the source."""
    with closing(Journal(target.parent, OPTIONS if options is None else options, resume=True)) as journal:
        return journal.begin(source, target)


def test_two_killed_attempts_make_a_source_hopeless(source, target):
    hopeless = []
    for _ in range(3):
        with opened(target) as journal:
            hopeless.append(journal.is_hopeless(source))
            journal.begin(source, target)
            journal.begin(source, target)

    assert hopeless == [False, False, True], "the second try of one process does not count"


def test_a_source_that_was_given_up_stays_so_until_it_changes(source, target):
    kill(source, target), kill(source, target)
    with opened(target) as journal:
        journal.give_up(source, target, "too bad")

    with opened(target) as again:
        assert again.finished(source, file_stamp(source)).error == "too bad"
        assert again.is_hopeless(source)
        source.write_bytes(b"came anew")
        assert not again.is_hopeless(source)
        assert again.finished(source, file_stamp(source)) is None


def test_other_options_are_a_new_chance(source, target):
    kill(source, target), kill(source, target)

    with closing(Journal(target.parent, {"strength": 0.5}, resume=True)) as journal:
        assert not journal.is_hopeless(source)


def test_a_withdrawn_attempt_does_not_count(source, target):
    kill(source, target)
    for _ in range(3):
        with opened(target) as journal:
            journal.withdraw(journal.begin(source, target))

    with opened(target) as again:
        assert not again.is_hopeless(source)
        again.begin(source, target)
    with opened(target) as later:
        assert later.is_hopeless(source)


@pytest.mark.parametrize("error", [None, "is broken"])
def test_a_finished_attempt_ends_the_count(error, source, target):
    kill(source, target)
    with opened(target) as journal:
        journal.finish(journal.begin(source, target), error)
    kill(source, target)

    with opened(target) as again:
        assert not again.is_hopeless(source)
