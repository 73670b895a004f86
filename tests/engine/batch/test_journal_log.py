"""Where the lines of a journal are kept: in a file, and in a bucket."""

import time
from contextlib import closing

import pytest

from engine.batch import journal_log
from engine.batch.journal import Journal
from engine.batch.journal_log import PARTS_FOLDER, RUNNING_FOLDER, open_log
from engine.storage.locations import location


@pytest.fixture(params=["folder", "bucket"])
def output_folder(request, tmp_path):
    """Makes the location of the same output folder, each time anew, as another process would."""
    if request.param == "folder":
        return lambda: tmp_path / "clean"
    url = f"s3://{request.getfixturevalue('bucket')}/clean"
    return lambda: location(url)


@pytest.fixture
def in_bucket(bucket):
    return lambda: location(f"s3://{bucket}/clean")


def lines_of(folder):
    with closing(open_log(folder, exclusive=True)) as log:
        return [line for line in log.lines() if line]


def add(folder, *lines):
    with closing(open_log(folder, exclusive=True)) as log:
        for line in lines:
            log.append([line])


def test_lines_are_read_in_the_order_they_came(output_folder):
    add(output_folder(), b"a", b"b")
    with closing(open_log(output_folder(), exclusive=True)) as log:
        log.append([b"c", b"d"])
        log.append([b"e"], can_wait=True)

    assert lines_of(output_folder()) == [b"a", b"b", b"c", b"d", b"e"]
    assert lines_of(output_folder()) == [b"a", b"b", b"c", b"d", b"e"]


def test_two_processes_do_not_share_a_folder(output_folder):
    log = open_log(output_folder(), exclusive=True)

    with closing(log), pytest.raises(ValueError, match="another process is writing to this folder; wait until"):
        open_log(output_folder(), exclusive=True)

    open_log(output_folder(), exclusive=True).close()


def test_lines_that_can_wait_are_gathered(in_bucket, buckets, bucket, monkeypatch):
    with closing(open_log(in_bucket(), exclusive=True)) as log:
        log.append([b"a"], can_wait=True)
        log.append([b"b"], can_wait=True)
        before = in_bucket().bucket.listed(f"clean/{PARTS_FOLDER}/")
        monkeypatch.setattr(journal_log, "GATHER_SECONDS", 0.0)
        log.append([b"c"], can_wait=True)
        after = in_bucket().bucket.listed(f"clean/{PARTS_FOLDER}/")

    assert (before, after) == ([], [f"clean/{PARTS_FOLDER}/000001-00000000.jsonl"])
    assert lines_of(in_bucket()) == [b"a", b"b", b"c"]


def test_a_killed_process_blocks_a_bucket_for_a_while_only(in_bucket, monkeypatch):
    monkeypatch.setattr(journal_log, "BEAT_SECONDS", 1000.0)
    killed = open_log(in_bucket(), exclusive=True)
    monkeypatch.setattr(journal_log, "ENDED_SECONDS", 0.5)
    # The store's times are whole seconds.
    time.sleep(2)

    open_log(in_bucket(), exclusive=True).close()

    assert in_bucket().bucket.listed(f"clean/{RUNNING_FOLDER}/") == []
    killed.close()


def test_a_running_process_says_so_again_and_again(in_bucket, monkeypatch):
    monkeypatch.setattr(journal_log, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(journal_log, "ENDED_SECONDS", 1.5)
    log = open_log(in_bucket(), exclusive=True)
    time.sleep(3)

    with closing(log), pytest.raises(ValueError, match="another process is writing to this folder"):
        open_log(in_bucket(), exclusive=True)


def test_many_objects_of_lines_are_joined(in_bucket, monkeypatch):
    monkeypatch.setattr(journal_log, "MAX_PARTS", 4)
    monkeypatch.setattr(journal_log, "JOINED", 3)
    lines = [f"{number}".encode() for number in range(8)]
    add(in_bucket(), *lines)

    assert lines_of(in_bucket()) == lines
    assert len(in_bucket().bucket.listed(f"clean/{PARTS_FOLDER}/")) == 3
    add(in_bucket(), b"8")
    assert lines_of(in_bucket()) == [*lines, b"8"]


def test_a_journal_in_a_bucket_knows_what_is_done(in_bucket, tmp_path):
    source, other = tmp_path / "a.png", tmp_path / "b.png"
    source.write_bytes(b"came")
    other.write_bytes(b"came")
    with closing(Journal(in_bucket(), {}, resume=True)) as journal:
        target = journal.folder / "sub" / "a.png"
        entry = journal.begin(source, target)
        target.write(b"made")
        journal.finish(entry)
        journal.begin(other, journal.folder / "b.png")

    with closing(Journal(in_bucket(), {}, resume=True)) as again:
        target = again.folder / "sub" / "a.png"
        assert again.maker(target) == source
        assert again.may_replace(source, target)
        assert again.interrupted == {other}
        target.bucket.write(target.key, b"other")
        assert not again.may_replace(source, target)
