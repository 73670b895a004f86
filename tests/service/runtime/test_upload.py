"""A body is counted while it arrives."""

import asyncio

import pytest
from fastapi import Request

from engine.imageio.sandbox.shared_file import MemoryFile
from service.runtime.body import BodyLimit, BodyTooLarge
from service.runtime.form import BrokenForm
from service.runtime.upload import read_image
from tests.support.uploads import Upload

FORM_HEAD = b'--cut\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
FORM_TYPE = (b"content-type", b"multipart/form-data; boundary=cut")


def read(upload, *headers, max_bytes):
    scope = {"type": "http", "method": "POST", "path": "/denoise", "headers": headers}
    with MemoryFile() as file:
        asyncio.run(read_image(Request(scope, upload.receive), file, BodyLimit(max_bytes, "max_bytes")))
        return file.seal().read()


def test_a_raw_body_comes_in_chunks_and_is_put_together():
    assert read(Upload(b"im", b"", b"age"), max_bytes=5) == b"image"


def test_a_form_comes_in_chunks_and_gives_its_field():
    whole = FORM_HEAD + b"image" + b"\r\n--cut--\r\n"

    image = read(Upload(whole[:30], whole[30:-12], whole[-12:]), FORM_TYPE, max_bytes=len(whole))

    assert image == b"image"


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        (
            [(b"content-type", b"multipart/mixed; boundary=cut")],
            "its Content-Type is 'multipart/mixed; bound",
        ),
        ([(b"content-type", b"application/octet-stream")], "its Content-Type is 'application/octet-stream'"),
        ([], "it has no Content-Type"),
    ],
)
def test_a_form_that_is_not_announced_as_one_is_refused(headers, said):
    advice = "Send it with Content-Type: multipart/form-data; boundary=cut."

    with pytest.raises(BrokenForm, match=f"The body looks like a form, but {said}.*{advice}"):
        read(Upload(FORM_HEAD[:9], FORM_HEAD[9:], b"image\r\n--cut--\r\n"), *headers, max_bytes=10**6)


@pytest.mark.parametrize(("head", "headers"), [(b"", []), (FORM_HEAD, [FORM_TYPE])], ids=["raw", "form"])
def test_an_unannounced_body_is_refused_at_the_chunk_too_many(head, headers):
    upload = Upload(head, *[b"x" * 1000] * 500)

    with pytest.raises(BodyTooLarge, match=r"at least \d+ bytes; at most 5500 are allowed"):
        read(upload, *headers, max_bytes=5500)

    assert upload.taken == 7


def test_an_announced_body_too_large_is_refused_unread():
    upload = Upload(b"x")

    with pytest.raises(BodyTooLarge, match="The body has 5501 bytes; at most 5500 are allowed"):
        read(upload, (b"content-length", b"5501"), max_bytes=5500)

    assert upload.taken == 0
