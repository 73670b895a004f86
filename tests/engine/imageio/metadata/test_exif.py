"""EXIF blocks: orientation, thumbnail, resolution, and blocks that are broken or too large."""

import io
import struct
from dataclasses import replace

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, ImageOps
from PIL import Image as PILImage

from engine.imageio.formats import FORMATS, BrokenImage
from engine.imageio.image import ImageSequence, from_array
from engine.imageio.metadata import Metadata
from engine.imageio.metadata.exif import exif_resolution, exif_with_resolution, new_exif
from engine.imageio.metadata.limits import MetadataTooLarge
from engine.imageio.metadata.png import png_chunk
from engine.imageio.read import read
from engine.imageio.write import encode, encode_png
from tests.support.images import camera_exif, encoded_with, exif_tags

ORIENTATIONS = range(1, 9)


def png_with_exif(block):
    plain = encoded_with("png", Metadata())
    return plain[:33] + png_chunk(b"eXIf", block) + plain[33:]


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_a_new_resolution_replaces_the_one_in_exif(kind):
    exif = exif_with_resolution(camera_exif(1), (72.0, 72.0))

    back = read(encoded_with(kind, Metadata(exif=exif, resolution=(300.0, 300.0)))).pages[0].metadata

    assert back.resolution == pytest.approx((300, 300), rel=1e-4)
    assert exif_tags(back.exif) == exif_tags(camera_exif(1))


# Upright


@pytest.mark.parametrize("order", ["little", "big"])
def test_upright_changes_the_orientation_and_moves_nothing(order):
    block = camera_exif(6, order=order)

    upright = Metadata(exif=block).upright().exif

    assert Metadata(exif=block).orientation == 6
    assert Metadata(exif=upright).orientation == 1
    assert len(upright) == len(block)
    assert sum(a != b for a, b in zip(upright, block, strict=True)) == 1
    assert exif_tags(upright) == exif_tags(block)


@pytest.mark.parametrize("order", ["little", "big"])
def test_upright_removes_the_thumbnail(order):
    thumbnail = b"\xff\xd8 the noisy one, small \xff\xd9"
    block = camera_exif(1, thumbnail, order=order)

    upright = Metadata(exif=block).upright().exif
    with PILImage.open(io.BytesIO(encoded_with("jpeg", Metadata(exif=upright)))) as image:
        second_ifd = image.getexif().get_ifd(ExifTags.IFD.IFD1)

    assert thumbnail in block
    assert b"noisy" not in upright
    assert len(upright) < len(block)
    assert exif_tags(upright) == exif_tags(block)
    assert not second_ifd


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_an_image_is_turned_once(kind, orientation, file_of):
    values = np.zeros((16, 32, 3), np.uint8)
    values[:8, :8] = 255
    values[:8, 24:] = (255, 0, 0)
    exif = PILImage.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    turned = PILImage.fromarray(values)
    turned.getexif()[ExifTags.Base.Orientation] = orientation
    expected = np.array(ImageOps.exif_transpose(turned)).astype(int)

    once = read(file_of(values, kind, exif=exif)).pages[0]
    twice = read(encode_png(once)).pages[0]

    assert np.abs(once.samples.numpy().astype(int) - expected).mean() < 6
    assert once.metadata.orientation == 1
    assert torch.equal(twice.samples, once.samples)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_16_bit_image_is_turned_as_an_8_bit_one(orientation):
    values = np.arange(6 * 4 * 3, dtype=np.uint16).reshape(6, 4, 3)
    files = io.BytesIO(), io.BytesIO()
    for file, dtype in zip(files, (np.uint8, np.uint16), strict=True):
        tifffile.imwrite(file, values.astype(dtype), extratags=[(274, 3, 1, orientation, True)])

    of_8_bits, of_16_bits = (read(file.getvalue()).pages[0].samples for file in files)

    np.testing.assert_array_equal(of_8_bits.numpy(), of_16_bits.numpy())


# Whatever wrote the orientation

# TIFF's types of numbers, as struct writes them.
NUMBERS = {1: "B", 3: "H", 4: "I", 5: "2I", 6: "b", 8: "h", 9: "i"}
QUARTERS = np.arange(6 * 4 * 3).reshape(6, 4, 3)


def oriented_block(type_code, orientation, order, others=()):
    values = (orientation, 1) if type_code == 5 else (orientation,)
    value = struct.pack(order + NUMBERS[type_code], *values)
    return new_exif(order, [(274, type_code, 1, value), *others])


@pytest.mark.parametrize("type_code", NUMBERS)
@pytest.mark.parametrize("order", ["<", ">"])
def test_an_orientation_of_any_type_is_applied_once(type_code, order):
    block = oriented_block(type_code, 6, order, [(315, 2, 7, b"Artist\0")])

    metadata = Metadata(exif=block)
    upright = metadata.upright()

    assert metadata.orientation == 6
    assert upright.orientation == 1
    assert exif_tags(upright.exif) == exif_tags(block)


@pytest.mark.parametrize("type_code", [1, 3, 4])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("options", [{}, {"compression": "jpeg"}, {"description": "a staircase"}], ids=str)
def test_a_tiff_with_an_orientation_of_any_type_is_turned_once(type_code, byteorder, dtype, options):
    if options.get("compression") and dtype == np.uint16:
        options = {"compression": "lzw"}
    values = np.kron(QUARTERS * 3, np.ones((16, 16, 1))).astype(dtype)
    file = io.BytesIO()
    extra = [(274, type_code, 1, 6, True)]
    tifffile.imwrite(
        file, values, byteorder=byteorder, extratags=extra, metadata=None, photometric="rgb", **options
    )

    once = read(file.getvalue())
    twice = read(encode(once, FORMATS["tiff"]).data)

    expected = np.rot90(values, -1).astype(int)
    assert np.abs(once.pages[0].samples.numpy().astype(int) - expected).mean() < 2
    assert torch.equal(twice.pages[0].samples, once.pages[0].samples)


XMP_FORMS = [
    b'<r tiff:Orientation="6"/>',
    b"<r tiff:Orientation = '6'/>",
    b"<tiff:Orientation>6</tiff:Orientation>",
    b"<tiff:Orientation> 6 </tiff:Orientation>",
]


@pytest.mark.parametrize("xmp", XMP_FORMS)
def test_an_orientation_in_xmp_is_read_and_reset(xmp):
    metadata = Metadata(xmp=xmp)

    assert metadata.orientation == 6
    assert metadata.upright().orientation == 1
    assert b"6" not in metadata.upright().xmp


def test_exifs_orientation_goes_before_that_of_xmp():
    upright = Metadata(exif=oriented_block(3, 1, "<"), xmp=XMP_FORMS[0])

    assert upright.orientation == 1


def test_a_jpeg_2000_with_an_orientation_in_xmp_is_turned_once():
    uuid = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
    data = imagecodecs.jpeg2k_encode(QUARTERS.astype(np.uint8), codecformat="jp2", reversible=True)
    box = struct.pack(">I4s", 8 + len(uuid) + len(XMP_FORMS[0]), b"uuid") + uuid + XMP_FORMS[0]
    at = data.index(b"jp2c") - 4

    once = read(data[:at] + box + data[at:])

    np.testing.assert_array_equal(once.pages[0].samples, np.rot90(QUARTERS, -1))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_an_image_with_an_orientation_in_xmp_is_turned_once(dtype, kind):
    image = from_array(QUARTERS.astype(dtype), 8 * np.dtype(dtype).itemsize, Metadata())
    stored = replace(image, metadata=Metadata(xmp=XMP_FORMS[0]))
    data = encode(ImageSequence(FORMATS["png"], (stored,)), FORMATS[kind]).data

    once = read(data)
    twice = read(encode(once, FORMATS[kind]).data)

    np.testing.assert_array_equal(once.pages[0].samples, np.rot90(QUARTERS, -1))
    assert torch.equal(twice.pages[0].samples, once.pages[0].samples)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_tiff_that_says_upright_is_not_turned_by_its_xmp(dtype):
    file = io.BytesIO()
    extra = [(274, 3, 1, 1, True), (700, 1, len(XMP_FORMS[0]), XMP_FORMS[0], True)]
    tifffile.imwrite(file, QUARTERS.astype(dtype), extratags=extra, metadata=None, photometric="rgb")

    np.testing.assert_array_equal(read(file.getvalue()).pages[0].samples, QUARTERS)


def test_a_quarter_turn_swaps_width_and_height():
    exif = PILImage.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif.get_ifd(ExifTags.IFD.Exif).update({0xA002: 640, 0xA003: 480})

    upright = Metadata(exif=exif.tobytes().removeprefix(b"Exif\0\0")).upright()

    assert exif_tags(upright.exif)[1] == {0xA002: 480, 0xA003: 640}


def test_a_quarter_turn_swaps_the_resolutions():
    exif = oriented_block(
        3, 6, "<", [(282, 5, 1, struct.pack("<2I", 72, 1)), (283, 5, 1, struct.pack("<2I", 50, 1))]
    )

    upright = Metadata(exif=exif, resolution=(72.0, 50.0)).upright()

    assert upright.resolution == exif_resolution(upright.exif) == (50.0, 72.0)


# Broken or too large


def test_too_many_entries_are_refused_with_the_limit():
    block = new_exif("<", [(tag, 3, 1, b"\1\0") for tag in range(1, 60001)])

    with pytest.raises(BrokenImage, match="60000 entries; the limit is 4096"):
        read(png_with_exif(block))


def test_entries_that_share_their_bytes_do_not_fill_the_memory():
    entries = b"".join(struct.pack("<HHII", tag, 1, 2**20, 8) for tag in range(40000, 44000))
    block = b"II*\0" + struct.pack("<I", 8 + 2**20) + bytes(2**20) + struct.pack("<H", 4000) + entries + bytes(4)

    with pytest.raises(MetadataTooLarge, match="more than"):
        Metadata(exif=block).upright()


def test_unreadable_exif_is_left_out_and_reported():
    file = read(png_with_exif(b"II*\0\xff\xff\0\0 nonsense"))

    assert file.pages[0].metadata.exif is None
    assert file.changed == ("without unreadable EXIF",)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.data())
def test_any_block_is_made_upright_or_refused(data):
    block = bytearray(camera_exif(3, b"small"))
    for _ in range(data.draw(st.integers(1, 6))):
        block[data.draw(st.integers(0, len(block) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(block[: data.draw(st.integers(0, len(block)))])

    metadata = Metadata(exif=cut)
    try:
        upright = metadata.upright()
    except MetadataTooLarge:
        return

    assert upright.exif is None or upright.orientation == 1 or metadata.orientation == upright.orientation
    exif_resolution(upright.exif)
    encoded_with("tiff", upright)
    encoded_with("webp", Metadata(exif=upright.exif, resolution=(300.0, 300.0)).without_blocks_over(10**6))
