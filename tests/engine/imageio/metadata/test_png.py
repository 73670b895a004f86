"""Metadata in PNG files."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image as PILImage
from PIL.PngImagePlugin import PngInfo

from engine.imageio.formats import FORMATS, BrokenImage
from engine.imageio.metadata import Metadata
from engine.imageio.metadata.limits import MAX_BYTES
from engine.imageio.metadata.png import png_chunk
from engine.imageio.read import read
from engine.imageio.write import encode
from tests.support.images import XMP, camera_exif, encoded_with, exif_tags


def test_colour_and_text_chunks_are_kept(file_of):
    texts = PngInfo()
    texts.add_text("Title", "A title")
    texts.add(b"gAMA", struct.pack(">I", 100000))
    data = file_of(np.zeros((4, 4, 3), np.uint8), pnginfo=texts)

    back = encode(read(data), FORMATS["png"]).data

    with PILImage.open(io.BytesIO(back)) as image:
        assert image.info["gamma"] == 1
        assert image.text == {"Title": "A title"}


def test_compressed_xmp_is_read(file_of):
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", XMP.decode(), zip=True)

    assert read(file_of(np.zeros((4, 4), np.uint8), pnginfo=info)).pages[0].metadata.xmp == XMP


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (b"iCCP", b"bomb\0\0" + zlib.compress(bytes(MAX_BYTES + 1), 9)),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(MAX_BYTES + 1), 9)),
    ],
    ids=["profile", "xmp"],
)
def test_a_block_that_inflates_beyond_the_limit_is_refused(kind, body):
    plain = encoded_with("png", Metadata())

    assert len(body) < MAX_BYTES / 900
    with pytest.raises(BrokenImage, match=f"has more than {MAX_BYTES} bytes|data too large"):
        read(plain[:33] + png_chunk(kind, body) + plain[33:])


@pytest.mark.parametrize("keyword", [b"exif", b"APP1"])
@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt"])
def test_exif_in_a_chunk_of_text_becomes_a_chunk_of_exif(keyword, kind):
    block = b"Exif\0\0" + camera_exif(6)
    text = b"\nexif\n%8d\n%s\n" % (len(block), block.hex().encode())
    body = b"Raw profile type " + keyword + b"\0" + (text if kind == b"tEXt" else b"\0" + zlib.compress(text))
    plain = encoded_with("png", Metadata())
    data = plain[:33] + png_chunk(kind, body) + plain[33:]

    once = read(data).pages[0]
    back = encode(read(data), FORMATS["png"]).data

    assert once.samples.shape[:2] == read(plain).pages[0].samples.shape[1::-1]
    assert exif_tags(once.metadata.exif) == exif_tags(camera_exif(6))
    assert b"Raw profile" not in back
    assert read(back).pages[0].samples.equal(once.samples)
