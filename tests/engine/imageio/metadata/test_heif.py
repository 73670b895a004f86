"""Items of AVIF and HEIC files."""

import io
import struct

import numpy as np
import pillow_heif
import pytest
from PIL import Image as PILImage

from engine.imageio.metadata import Metadata
from engine.imageio.metadata.cicp import ColourCode
from engine.imageio.metadata.heif import set_colour_code, with_heif_items
from engine.imageio.read import read


def box(kind, body, version=None):
    body = body if version is None else bytes((version, 0, 0, 0)) + body
    return struct.pack(">I4s", 8 + len(body), kind) + body


def item(number, kind):
    return box(b"infe", struct.pack(">HH4s", number, 0, kind) + b"\0", 2)


def reference(kind, start, *to):
    return box(kind, struct.pack(f">HH{len(to)}H", start, len(to), *to))


def file_with(items, references=(), properties=(), owned=()):
    """The head of a file whose main image is item 1. owned: (item, numbers of its properties)."""
    associations = b"".join(struct.pack(">HB", number, len(of)) + bytes(of) for number, of in owned)
    meta = (
        box(b"pitm", struct.pack(">H", 1), 0)
        + box(b"iinf", struct.pack(">H", len(items)) + b"".join(items), 0)
        + box(b"iref", b"".join(references), 0)
        + box(
            b"iprp",
            box(b"ipco", b"".join(properties)) + box(b"ipma", struct.pack(">I", len(owned)) + associations, 0),
        )
    )
    return box(b"ftyp", b"heic" + bytes(4)) + box(b"meta", meta, 0) + box(b"mdat", b"")


def auxiliary(name):
    return box(b"auxC", name + b"\0", 0)


NCLX = box(b"colr", b"nclx" + struct.pack(">HHHB", 12, 13, 6, 0x80))


def test_the_colour_of_the_main_image_is_read():
    other = box(b"colr", b"nclx" + struct.pack(">HHHB", 9, 16, 9, 0x80))
    data = file_with(
        [item(1, b"hvc1"), item(2, b"hvc1")], [reference(b"thmb", 2, 1)], [other, NCLX], [(1, [2]), (2, [1])]
    )

    found = with_heif_items(Metadata(), data)

    assert (found.colour_code, found.lost) == (ColourCode(12, 13), ())
    assert with_heif_items(Metadata(icc_profile=b"a profile"), data).colour_code is None


@pytest.mark.parametrize(
    ("kinds", "name", "lost"),
    [
        ([b"hvc1"], b"urn:com:apple:photo:2020:aux:hdrgainmap", ("the HDR gain map",)),
        ([b"hvc1"], b"urn:mpeg:hevc:2015:auxid:2", ("the depth map",)),
        ([b"hvc1"], b"urn:com:apple:photo:2019:aux:semanticskymatte", ("auxiliary images",)),
        ([b"av01"], b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha", ()),
        ([b"av01", b"tmap"], b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha", ("the HDR gain map",)),
        ([b"hvc1", b"hvc1"], b"urn:mpeg:hevc:2015:auxid:1", ("the other images of the file",)),
    ],
)
def test_the_other_images_are_told(kinds, name, lost):
    items = [item(1, b"hvc1"), *(item(2 + at, kind) for at, kind in enumerate(kinds))]
    data = file_with(items, [reference(b"auxl", 2, 1)], [auxiliary(name)], [(2, [1])])

    assert with_heif_items(Metadata(), data).lost == lost


def test_tiles_and_thumbnails_are_no_other_images():
    items = [item(1, b"grid"), *(item(number, b"hvc1") for number in (2, 3, 4))]
    data = file_with(items, [reference(b"dimg", 1, 2, 3), reference(b"thmb", 4, 1)])

    assert with_heif_items(Metadata(), data).lost == ()


def test_the_video_of_a_motion_photo_is_told():
    data = file_with([item(1, b"hvc1")]) + box(b"mpvd", b"a video")

    assert with_heif_items(Metadata(), data).lost == ("the motion photo's video",)


def test_broken_items_say_nothing():
    data = file_with([item(1, b"hvc1")], [reference(b"thmb", 2, 1)], [NCLX], [(1, [1])])

    for at in range(8, len(data)):
        with_heif_items(Metadata(), data[:at])
        with_heif_items(Metadata(), data[:at] + b"\xff" + data[at + 1 :])


@pytest.mark.parametrize("frames", [1, 2])
def test_the_colour_of_an_avif_is_set_and_read(frames, samples, file_of):
    images = [PILImage.fromarray(samples(32, 48, seed=seed)) for seed in range(frames)]
    data = file_of(images[0], "AVIF", save_all=frames > 1, append_images=images[1:])

    back = read(set_colour_code(data, ColourCode(9, 16)))

    assert back.pages[0].metadata.colour_code == ColourCode(9, 16)
    assert read(data).pages[0].metadata.colour_code is None
    np.testing.assert_array_equal(back.pages[0].samples, read(data).pages[0].samples)


def test_the_colour_of_a_heic_is_read(samples):
    file = io.BytesIO()
    pillow_heif.from_pillow(PILImage.fromarray(samples(64, 48))).save(
        file, color_primaries=12, transfer_characteristics=13, matrix_coefficients=6, full_range_flag=1
    )

    assert read(file.getvalue()).pages[0].metadata.colour_code == ColourCode(12, 13)
