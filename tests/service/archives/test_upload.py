"""A batch's upload on its way to the disk, in whatever chunks it comes, and read back from there."""

import asyncio
import errno
import io
import tracemalloc
import zipfile
from tempfile import TemporaryFile

import pytest
from fastapi import Request

from service.archives.upload import NoRoom, read_entries, store_upload
from service.archives.zip_reader import BatchTooLarge, NotOpened
from service.runtime.body import BodyTooLarge
from service.runtime.form import BrokenForm, Part, WrongField
from service.settings import Settings
from tests.support.uploads import Upload

SETTINGS = Settings(max_batch_bytes=100_000, max_batch_files=3, max_bytes=1000)
FORM_TYPE = (b"content-type", b"multipart/form-data; boundary=cut")


def part(name, data, field="image"):
    filename = "" if name is None else f'; filename="{name}"'
    head = (
        f'--cut\r\nContent-Disposition: form-data; name="{field}"{filename}\r\nContent-Type: image/jpeg\r\n\r\n'
    )
    return head.encode() + data + b"\r\n"


def form(*parts):
    return b"".join(parts) + b"--cut--\r\n"


def zipped(*names):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, name)
    return file.getvalue()


opened = []


@pytest.fixture(autouse=True)
def close_files():
    yield
    while opened:
        opened.pop().close()


def temporary_file():
    opened.append(TemporaryFile())  # noqa: SIM115 - closed after the test
    return opened[-1]


def sent(upload, *headers, file=None, settings=SETTINGS):
    """The stored upload, and the file that it is stored in."""
    scope = {"type": "http", "method": "POST", "path": "/denoise/batch", "headers": headers}
    file = file or temporary_file()
    return asyncio.run(store_upload(Request(scope, upload.receive), file, settings)), file


def content(entry):
    with entry.source.open() as file:
        return file.read()


def read(upload, *headers, settings=SETTINGS):
    stored, file = sent(upload, *headers, settings=settings)
    return [(entry.name, content(entry)) for entry in read_entries(file, stored.parts, settings)]


@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
def test_a_form_s_files_come_in_chunks_of_any_size(size):
    lies = b"\r\n--cu\r\n--cup\r\n\r\n"
    whole = form(part("a.jpg", lies), part("ü.jpg", b""), part("a.jpg", b"again"))

    files = read(Upload(*(whole[at : at + size] for at in range(0, len(whole), size))), FORM_TYPE)

    assert files == [("a.jpg", lies), ("ü.jpg", b""), ("a.jpg", b"again")]


def test_text_fields_are_kept_apart_from_the_files():
    whole = form(part(None, b"webp", "format"), part("a.jpg", b"image"), part(None, b"text", "more"))

    stored, file = sent(Upload(whole), FORM_TYPE)

    assert stored.parts == (Part("a.jpg", 0, 5),)
    assert stored.fields == {"format": "webp", "more": "text"}
    file.seek(0)
    assert file.read() == b"image"


def test_a_raw_body_is_a_zip():
    whole = zipped("b.jpg", "a.jpg")

    assert read(Upload(whole[:9], whole[9:])) == [("b.jpg", b"b.jpg"), ("a.jpg", b"a.jpg")]


def test_the_only_file_of_a_form_may_be_a_zip():
    assert read(Upload(form(part("all.zip", zipped("a.jpg")))), FORM_TYPE) == [("a.jpg", b"a.jpg")]


def test_a_zip_among_other_files_is_not_opened():
    stored, file = sent(Upload(form(part("a.jpg", b"image"), part("all.zip", zipped("b.jpg")))), FORM_TYPE)
    first, second = read_entries(file, stored.parts, SETTINGS)

    assert content(first) == b"image"
    with pytest.raises(NotOpened, match="a zip inside a zip or among other files"):
        content(second)


def test_what_is_kept_can_be_read_much_later(tmp_path):
    path = tmp_path / "upload"
    with path.open("wb") as file:
        stored, _ = sent(Upload(form(part("a.jpg", b"one"), part("b.jpg", b"two"))), FORM_TYPE, file=file)

    with path.open("rb") as file:
        assert [content(entry) for entry in read_entries(file, stored.parts, SETTINGS)] == [b"one", b"two"]


def test_a_file_too_large_costs_none_but_itself():
    stored, file = sent(Upload(form(part("a.jpg", bytes(1001)), part("b.jpg", bytes(1000)))), FORM_TYPE)
    large, small = read_entries(file, stored.parts, SETTINGS)

    with pytest.raises(BodyTooLarge, match="The file has 1001 bytes; at most 1000 are allowed"):
        content(large)
    assert content(small) == bytes(1000)


def test_a_file_too_many_is_refused_as_soon_as_it_begins():
    upload = Upload(*(part(f"{number}.jpg", b"") for number in range(9)))

    with pytest.raises(BatchTooLarge, match="The form has more than 3 files"):
        sent(upload, FORM_TYPE)

    assert upload.taken == 4


@pytest.mark.parametrize(
    ("head", "headers"), [(b"", []), (part("a", b"")[:-2], [FORM_TYPE])], ids=["raw", "form"]
)
def test_an_unannounced_body_is_refused_at_the_chunk_too_many(head, headers):
    upload = Upload(head, *[b"x" * 10_000] * 500)

    with pytest.raises(BodyTooLarge, match=r"at least \d+ bytes; at most 100000 are allowed"):
        sent(upload, *headers)

    assert upload.taken < 13


def test_an_announced_body_too_large_is_refused_unread():
    upload = Upload(b"x")

    with pytest.raises(BodyTooLarge, match="The body has 100001 bytes; at most 100000 are allowed"):
        sent(upload, (b"content-length", b"100001"))

    assert upload.taken == 0


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        (form(), WrongField, "'image' is missing; the form has: nothing"),
        (
            form(part("a", b"", "photo"), part("b", b"", "file")),
            WrongField,
            "'image' is missing; the form has: photo, file",
        ),
        (form(part(None, b"a.jpg")), WrongField, "'image' is text, not a file"),
        (form(part("a.jpg", b"image"))[:-9], BrokenForm, "cut short"),
        (b"", BrokenForm, "cut short"),
        (b"no form", BrokenForm, "cannot be parsed"),
        (part("a" * 5000, b""), BrokenForm, "cannot be parsed"),
    ],
)
def test_a_form_that_is_none_or_has_no_image_is_refused(body, error, message):
    with pytest.raises(error, match=message):
        sent(Upload(body), FORM_TYPE)


def test_a_form_that_is_not_announced_as_one_is_refused():
    with pytest.raises(BrokenForm, match="looks like a form, but its Content-Type is 'application/zip'"):
        sent(Upload(form(part("a.jpg", b"image"))), (b"content-type", b"application/zip"))


@pytest.mark.parametrize("boundary", [b"", b"; boundary=", b"; boundary=" + b"x" * 300])
def test_a_form_whose_boundary_is_none_is_refused(boundary):
    with pytest.raises(BrokenForm, match="cannot be parsed"):
        sent(Upload(b"--"), (b"content-type", b"multipart/form-data" + boundary))


def test_a_full_disk_is_refused_with_its_reason():
    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(NoRoom, match="cannot be stored: No space left on device"):
        sent(Upload(zipped("a")), file=Full())


def test_an_upload_is_not_in_memory(tmp_path):
    settings = Settings(max_batch_files=10_000)
    chunks = [part(f"{number}.jpg", bytes(2**14)) for number in range(2000)]

    with (tmp_path / "upload").open("wb") as file:
        tracemalloc.start()
        stored, _ = sent(Upload(*chunks, b"--cut--\r\n"), FORM_TYPE, file=file, settings=settings)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()

    assert sum(part.size for part in stored.parts) == 2000 * 2**14
    assert peak < 2**21
