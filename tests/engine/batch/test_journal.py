import errno
import os
from contextlib import closing

import pytest

from engine.batch.journal import PLACE, Journal, stamp
from engine.system.atomic_file import write_atomically

WISHES = {"strength": 1.0}


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
    return closing(Journal(target.parent, WISHES, alone=True))


def make(journal, source, target):
    entry = journal.begin(source, target)
    write_atomically(target, b"made")
    journal.end(entry)


def test_what_was_made_is_known_again(source, target):
    with opened(target) as journal:
        make(journal, source, target)

    with opened(target) as again:
        entry = again.ended(source, stamp(source))
        assert (entry.target, entry.wishes, entry.made) == ("a.png", WISHES, stamp(target))
        assert again.maker(target) == source
        assert again.may_replace(source, target)
        assert not again.interrupted


def test_a_source_that_has_changed_is_new(source, target):
    with opened(target) as journal:
        make(journal, source, target)
        source.write_bytes(b"came anew")

        assert journal.ended(source, stamp(source)) is None
        assert journal.may_replace(source, target)


def test_an_output_may_be_replaced_only_by_its_own_source_and_as_it_was_made(source, target):
    other = source.with_suffix(".tif")
    with opened(target) as journal:
        make(journal, source, target)
        from_another = journal.may_replace(other, target)
        target.write_bytes(b"retouched")

        assert not from_another
        assert not journal.may_replace(source, target)
        assert not journal.may_replace(source, target.with_name(PLACE.parts[0]))


def test_a_failure_is_known_again_with_its_reason_and_the_older_output_stays_ours(source, target):
    with opened(target) as journal:
        make(journal, source, target)
        source.write_bytes(b"broken")
        journal.end(journal.begin(source, target), "is broken")

    with opened(target) as again:
        assert again.ended(source, stamp(source)).error == "is broken"
        assert again.may_replace(source, target)


def test_work_that_a_kill_cut_short_has_not_ended_and_its_leavings_are_removed(source, target):
    with opened(target) as journal:
        make(journal, source, target)
        source.write_bytes(b"came anew")
        journal.begin(source, target)
    half = target.with_name(".a.png.01234567.part")
    half.touch()

    with opened(target) as again:
        assert again.ended(source, stamp(source)) is None
        assert again.interrupted == {source}
        assert again.may_replace(source, target)
        assert not half.exists()


def test_an_output_that_came_into_place_before_a_kill_is_ours_and_for_good(source, target):
    with opened(target) as journal:
        journal.begin(source, target)
        write_atomically(target, b"made")

    with opened(target) as again:
        assert again.ended(source, stamp(source)).made == stamp(target)
        assert not again.interrupted
        target.unlink()
    with opened(target) as later:
        assert later.ended(source, stamp(source))


def test_an_output_that_is_taken_away_at_once_was_made_all_the_same(source, target):
    with opened(target) as journal:
        journal.end(journal.begin(source, target))

    with opened(target) as again:
        assert again.ended(source, stamp(source))


@pytest.mark.parametrize("torn", [b'\n{"source": "b', b"\n[1]", b'\n{"other": 1}', b"\n\xff\0"])
def test_a_torn_line_is_left_out_and_the_next_is_whole(source, target, torn):
    with opened(target) as journal:
        journal.path.write_bytes(torn)
        make(journal, source, target)

    with opened(target) as again:
        assert again.ended(source, stamp(source))


def test_one_that_goes_on_wants_to_be_alone(target):
    with opened(target), pytest.raises(ValueError, match="another denoise is at work on this folder"):
        Journal(target.parent, WISHES)
    several = closing(Journal(target.parent, WISHES)), closing(Journal(target.parent, WISHES))
    with several[0], several[1], pytest.raises(ValueError, match="another denoise is at work on this folder"):
        Journal(target.parent, WISHES, alone=True)


def test_a_journal_that_is_gone_is_not_made_anew(source, target):
    with opened(target) as journal:
        journal.path.unlink()

        with pytest.raises(FileNotFoundError, match=r"journal\.jsonl is gone, or the disk that it is on"):
            journal.begin(source, target)
        assert not journal.path.exists()


def test_an_output_that_went_to_the_empty_place_of_a_disk_that_is_gone_is_made_again(source, target):
    with opened(target) as journal:
        entry = journal.begin(source, target)
        journal.path.unlink()
        write_atomically(target, b"made")

        with pytest.raises(FileNotFoundError):
            journal.end(entry)
        assert journal.ended(source, stamp(source)) is None


def test_an_output_that_filled_the_disk_is_not_made_again(source, target, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with opened(target) as journal:
        entry = journal.begin(source, target)
        write_atomically(target, b"made")
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            journal.end(entry)

        assert journal.ended(source, stamp(source))
        assert journal.may_replace(source, target)


def test_a_source_that_is_gone_is_not_begun(source, target):
    source.unlink()

    with opened(target) as journal, pytest.raises(FileNotFoundError, match=r"a\.jpg: no longer there"):
        journal.begin(source, target)
