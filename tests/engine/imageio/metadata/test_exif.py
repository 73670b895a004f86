"""EXIF blocks: orientation, thumbnail, resolution, and blocks that are broken or too large."""

import io
import struct

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, ImageOps
from PIL import Image as PILImage

from engine.imageio.formats import BrokenImage
from engine.imageio.metadata import Metadata
from engine.imageio.metadata.exif import exif_resolution, exif_with_resolution, new_exif
from engine.imageio.metadata.limits import MetadataTooLarge
from engine.imageio.metadata.png import png_chunk
from engine.imageio.read import read
from engine.imageio.write import encode_png
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
