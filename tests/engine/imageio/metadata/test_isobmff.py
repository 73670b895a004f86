"""Boxes of ISO base media files, and the metadata in them."""

import struct

import imagecodecs
import numpy as np
import pytest

from engine.imageio.metadata.cicp import ColourCode
from engine.imageio.metadata.isobmff import boxes, read_box_metadata
from engine.imageio.metadata.limits import BrokenMetadata
from engine.imageio.read import read
from tests.support.images import PROFILE, XMP, camera_exif, exif_tags


def box(kind, body):
    return struct.pack(">I4s", 8 + len(body), kind) + body


def test_exif_xmp_and_profile_are_read_from_their_boxes():
    exif = camera_exif(1)
    data = box(b"Exif", bytes(4) + exif) + box(b"xml ", XMP) + box(b"jp2h", box(b"colr", b"\2\0\0" + PROFILE))

    found = read_box_metadata(data)

    assert exif_tags(found.exif) == exif_tags(exif)
    assert (found.xmp, found.icc_profile, found.lost) == (XMP, PROFILE, ())


def test_the_numbers_of_a_colour_space_are_read():
    found = read_box_metadata(box(b"jp2h", box(b"colr", b"\5\0\0" + struct.pack(">HHHB", 9, 16, 0, 0x80))))

    assert found.colour_code == ColourCode(9, 16)


def test_compressed_boxes_are_reported_as_lost():
    image = imagecodecs.jpegxl_encode(np.zeros((8, 8, 3), np.uint8), lossless=True, usecontainer=True)

    assert read(image + box(b"brob", b"Exif...")).changed == ("without Brotli-compressed metadata",)


def test_a_long_box_and_a_last_box_without_a_size_are_read():
    long = struct.pack(">I4sQ", 1, b"xml ", 16 + 3) + b"one"
    last = struct.pack(">I4s", 0, b"xml ") + b"two"

    assert list(boxes(long + last)) == [(b"xml ", b"one"), (b"xml ", b"two")]


@pytest.mark.parametrize("size", [7, 100])
def test_a_box_of_an_impossible_size_is_broken(size):
    with pytest.raises(BrokenMetadata, match="ends beyond the end of the file"):
        list(boxes(struct.pack(">I4s", size, b"xml ") + b"one"))
