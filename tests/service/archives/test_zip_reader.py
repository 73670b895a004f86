"""Zips that lie about themselves: whatever comes, only an image's file gets through."""

import io
import stat
import struct
import zipfile
from random import Random

import pytest

from service.archives.zip_reader import (
    CHUNK,
    BadName,
    BatchTooLarge,
    BrokenBatch,
    BrokenEntry,
    NotOpened,
    read_zip,
    refuse_bad_name,
    safe_name,
)
from service.problems import ProblemError
from service.runtime.body import BodyTooLarge
from tests.support.traced import Traced

MOST = 2**20


def zipped(*files, compression=zipfile.ZIP_DEFLATED, **changes):
    """A zip of (name, data), and what each entry's ZipInfo is to say besides."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in files:
            info = zipfile.ZipInfo(name)
            info.compress_type = compression
            for key, value in changes.items():
                setattr(info, key, value)
            archive.writestr(info, data)
    return file.getvalue()


def read(entry):
    with entry.source.open() as file:
        return file.read()


def opened(data, max_files=100, max_total=MOST, max_bytes=MOST):
    return read_zip(io.BytesIO(data), max_files, max_total, max_bytes)


def turned(data, old, new, count=1):
    """The same zip with other bytes in some place. count: how many such places there are."""
    assert len(old) == len(new)
    assert data.count(old) == count
    return data.replace(old, new)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_files_come_in_the_order_of_the_zip_and_whole(compression):
    files = [("b/two.jpg", b"2" * CHUNK * 3), ("a.jpg", b"1"), ("a.jpg", b"again"), ("none", b"")]

    with pytest.warns(UserWarning, match="Duplicate name"):
        data = zipped(*files, compression=compression)

    assert [(entry.name, read(entry)) for entry in opened(data)] == files


def test_a_zip64_is_read():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive, archive.open("a.jpg", "w", force_zip64=True) as entry:
        entry.write(b"image")

    [entry] = opened(file.getvalue())

    assert read(entry) == b"image"


def test_folders_and_what_macos_adds_are_no_files():
    names = ["shots/", "shots\\deep\\", "shots/a.jpg", "__MACOSX/shots/._a.jpg", ".DS_Store", "shots/.DS_Store"]

    entries = opened(zipped(*((name, b"") for name in names)))

    assert [entry.name for entry in entries] == ["shots/a.jpg"]


def test_names_in_utf_8_are_read_though_the_zip_does_not_say_so():
    as_macos = zipped(("Blu_te.jpg", b"")).replace(b"Blu_te", "Blüte".encode())
    as_dos = zipped(("Bl_te.jpg", b"")).replace(b"Bl_te", b"Bl\x81te")

    assert [opened(data)[0].name for data in (as_macos, as_dos)] == ["Blüte.jpg", "Blüte.jpg"]


@pytest.mark.parametrize(
    "data",
    [b"", b"no zip", zipped(("a", b"data"))[:-10], zipped(("a", b"data"))[-22:]],
    ids=["nothing", "text", "without its end", "only its end"],
)
def test_what_is_no_whole_zip_is_refused(data):
    with pytest.raises(BrokenBatch, match=r"broken, cut short or not a zip: .*Send a zip"):
        opened(data)


def test_a_zip_that_lacks_its_beginning_is_refused():
    with pytest.raises(BrokenBatch, match="a file starts at byte -20"):
        opened(zipped(("a", b"data"))[20:])


@pytest.mark.parametrize("data", [zipped(), zipped(("folder/", b""))])
def test_a_zip_without_a_file_is_refused(data):
    with pytest.raises(BrokenBatch, match="no image in the zip"):
        opened(data)


def test_too_many_files_are_refused_with_both_numbers():
    with pytest.raises(BatchTooLarge, match="The zip has 4 files; at most 3 are allowed"):
        opened(zipped(*((f"{number}.jpg", b"") for number in range(4))), max_files=3)


def test_a_huge_directory_is_refused_before_it_is_in_memory():
    data = zipped(*((f"{number}.jpg", b"") for number in range(60_000)))

    with (
        Traced() as traced,
        pytest.raises(BatchTooLarge, match="directory has 3288890 bytes, too many for 1000 files"),
    ):
        opened(data, max_files=1000)

    assert traced.peak < len(data) / 10


def test_a_zip_that_announces_too_many_bytes_is_refused():
    with pytest.raises(BatchTooLarge, match="files have 3000 bytes, unpacked; at most 2999 are allowed"):
        opened(zipped(*((name, bytes(1000)) for name in "abc")), max_total=2999)


def test_a_file_that_announces_too_many_bytes_is_refused_alone():
    large, small = opened(zipped(("a", bytes(1001)), ("b", bytes(1000))), max_bytes=1000)

    with pytest.raises(BodyTooLarge, match="1001 bytes, unpacked; at most 1000 are allowed"):
        read(large)
    assert read(small) == bytes(1000)


def test_a_file_that_unpacks_to_more_than_announced_is_cut_off():
    size = 2**28 - 12345
    bomb = turned(zipped(("a", bytes(size))), struct.pack("<L", size), struct.pack("<L", 1000), count=2)
    [entry] = opened(bomb)

    with Traced() as traced, pytest.raises(BrokenEntry, match="CRC"):
        read(entry)

    assert traced.peak < 2**22


def test_a_file_that_unpacks_to_less_than_announced_is_refused():
    data = turned(zipped(("a", b"short")), struct.pack("<L", 5), struct.pack("<L", 6), count=2)
    [entry] = opened(data)

    with pytest.raises(BrokenEntry, match="has 5 bytes, unpacked; the zip says 6"):
        read(entry)


def test_files_that_share_bytes_are_refused():
    first, second = zipped(("a", b"same")), zipped(("a", b"same"), ("b", b"same"))
    start = struct.pack("<L", len(first) - 22 - 47)
    assert second.count(start) == 1

    with pytest.raises(BrokenBatch, match="a file starts at byte 0, but another ends at byte 36"):
        opened(second.replace(start, bytes(4)))


def test_a_file_that_reaches_into_the_directory_is_refused():
    data = zipped(("a", b"stored"), compression=zipfile.ZIP_STORED)

    with pytest.raises(BrokenBatch, match="a file ends at byte 130, but its directory starts at byte 37"):
        opened(turned(data, struct.pack("<LL", 6, 6), struct.pack("<LL", 100, 6), count=2))


def test_two_names_for_one_file_are_refused():
    # The directory's name comes after the file's own.
    before, _, after = zipped(("a.jpg", b"image")).rpartition(b"a.jpg")
    [entry] = opened(before + b"b.jpg" + after)

    with pytest.raises(BrokenEntry, match=r"'b\.jpg' and header b'a\.jpg' differ"):
        read(entry)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_a_link_or_a_device_is_not_followed(kind):
    [entry] = opened(zipped(("a.jpg", b"/etc/passwd"), external_attr=(kind | 0o777) << 16))

    with pytest.raises(NotOpened, match="link or a device"):
        read(entry)


def test_an_encrypted_file_is_not_opened():
    local, directory = struct.pack("<HH", 20, 0), struct.pack("<HHH", 20, 0, 8)
    data = zipped(("a.jpg", b"secret"))
    data = turned(data, b"PK\3\4" + local, b"PK\3\4" + struct.pack("<HH", 20, 1))
    [entry] = opened(turned(data, directory + bytes(0), struct.pack("<HHH", 20, 1, 8)))

    with pytest.raises(NotOpened, match="encrypted"):
        read(entry)


@pytest.mark.parametrize(("method", "number"), [(zipfile.ZIP_BZIP2, 12), (zipfile.ZIP_LZMA, 14)])
def test_what_zipfile_unpacks_without_a_limit_is_not_unpacked(method, number):
    [entry] = opened(zipped(("a.jpg", bytes(1000)), compression=method))

    with pytest.raises(NotOpened, match=f"method {number}; supported are 0, stored, and 8, deflated"):
        read(entry)


def test_a_zip_within_a_zip_is_not_opened():
    [entry] = opened(zipped(("a.zip", zipped(("b.jpg", b"")))))

    with pytest.raises(NotOpened, match="a zip inside a zip"):
        read(entry)


def test_a_broken_file_costs_none_but_itself():
    data = zipped(("a", b"first file"), ("b", b"second"), compression=zipfile.ZIP_STORED)
    first, second = opened(turned(data, b"first file", b"other file"))

    with pytest.raises(BrokenEntry, match="CRC"):
        read(first)
    assert read(second) == b"second"


def test_each_of_many_broken_zips_is_read_or_refused():
    random, refused = Random(0), 0
    whole = zipped(("one.jpg", bytes(range(200))), ("two.jpg", b"2" * 500), extra=b"\1\0\4\0abcd")
    for _ in range(2000):
        data = bytearray(whole[: random.choice([len(whole), random.randrange(len(whole))])])
        for _ in range(random.choice([1, 2, 5])):
            if data:
                data[random.randrange(len(data))] ^= 1 << random.randrange(8)
        try:
            for entry in opened(bytes(data)):
                assert len(read(entry)) <= MOST
        except ProblemError:
            refused += 1

    assert refused > 1000


@pytest.mark.parametrize(
    ("name", "becomes"),
    [
        ("../../etc/cron.d/a.jpg", "etc/cron.d/a.jpg"),
        ("shots/../../a.jpg", "shots/a.jpg"),
        ("..\\..\\a.jpg", "a.jpg"),
        ("/etc/a.jpg", "etc/a.jpg"),
        ("\\\\server\\share\\a.jpg", "server/share/a.jpg"),
        ("C:\\a.jpg", "C_/a.jpg"),
        ("C:a.jpg", "C_a.jpg"),
        ("/C:/D:/a.jpg", "C_/D:/a.jpg"),
        ("..", "image"),
        ("a\0.jpg", "a_.jpg"),
        ("a\n.jpg", "a_.jpg"),
        ("a\u202egpj.exe", "a_gpj.exe"),
        ("a\ud800.jpg", "a_.jpg"),
        ("x" * 2000 + ".jpg", "x" * 996 + ".jpg"),
    ],
)
def test_a_bad_name_is_refused_and_shown_as_a_safe_one(name, becomes):
    with pytest.raises(BadName, match=r"The name .*Send names"):
        refuse_bad_name(name)

    assert safe_name(name) == becomes
    refuse_bad_name(becomes)


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("Ferien 2024/Bild – 1 (2).jpg", "Ferien 2024/Bild – 1 (2).jpg"),
        ("Screenshot 9.41.00\u202fAM.png", "Screenshot 9.41.00\u202fAM.png"),
        ("shots\\deep\\a.jpg", "shots/deep/a.jpg"),
        ("./a//b..jpg", "a/b..jpg"),
        ("", "image"),
    ],
)
def test_an_honest_name_is_kept(name, kept):
    refuse_bad_name(name)

    assert safe_name(name) == kept
