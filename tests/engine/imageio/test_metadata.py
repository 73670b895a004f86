"""What surrounds the pixels, as other libraries see it."""

import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, ImageOps
from PIL import Image as PILImage
from PIL.PngImagePlugin import PngInfo

from engine.imageio import metadata
from engine.imageio.formats import FORMATS, BrokenImage
from engine.imageio.image import File, Image
from engine.imageio.metadata import MOST_BYTES, Metadata, TooMuchMetadata
from engine.imageio.read import read
from engine.imageio.write import encode

PROFILE = bytes(range(256)) * 2
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r tiff:Orientation="1"/></x:xmpmeta>'


def camera_exif(orientation=6, thumbnail=b"", maker=b"\1\2\3 the maker's own", order="little"):
    """As a camera writes it: notes, a place, and a small image."""
    exif = PILImage.Exif()
    exif.endian = "<" if order == "little" else ">"
    exif[ExifTags.Base.Make] = "Makers"
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.Base.DateTime] = "2026:01:02 03:04:05"
    exif.get_ifd(ExifTags.IFD.Exif).update(
        {0x829A: (1, 250), 0x8827: 6400, 0x927C: maker, 0x9003: "2026:01:02 03:04:05"}
    )
    exif.get_ifd(ExifTags.IFD.GPSInfo).update({1: "N", 2: (52.0, 30.0, 1.5)})
    block = exif.tobytes().removeprefix(b"Exif\0\0")
    return with_thumbnail(block, thumbnail) if thumbnail else block


def with_thumbnail(block, image):
    """The block with a second IFD and a JPEG at its end."""
    order = ">" if block[:2] == b"MM" else "<"
    (first,) = struct.unpack_from(f"{order}I", block, 4)
    (count,) = struct.unpack_from(f"{order}H", block, first)
    second = len(block)
    start = second + 2 + 3 * 12 + 4
    ifd = struct.pack(f"{order}H", 3)
    for tag, value in ((0x0103, 6), (0x0201, start), (0x0202, len(image))):
        ifd += struct.pack(f"{order}HHII", tag, 4, 1, value)
    linked = bytearray(block)
    struct.pack_into(f"{order}I", linked, first + 2 + 12 * count, second)
    return bytes(linked) + ifd + bytes(4) + image


def image(known, seed=0, size=(6, 9)):
    rng = np.random.default_rng(seed)
    return Image(torch.from_numpy(rng.integers(256, size=(*size, 3), dtype=np.uint8)), None, known)


def written(kind, known):
    return encode(File(FORMATS["png"], (image(known),)), FORMATS[kind]).data


def tags(exif):
    """What another library reads in a block, or in an image's file: of each IFD, less what is about pixels."""
    if isinstance(exif, bytes):
        block, exif = exif, PILImage.Exif()
        exif.load(b"Exif\0\0" + block)
    about = {ExifTags.Base.Make, ExifTags.Base.DateTime, ExifTags.Base.Artist}
    first = {tag: value for tag, value in exif.items() if tag in about}
    return first, dict(exif.get_ifd(ExifTags.IFD.Exif)), dict(exif.get_ifd(ExifTags.IFD.GPSInfo))


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "tiff", "avif"])
def test_every_block_comes_back_and_other_libraries_read_it(kind, order):
    known = Metadata(PROFILE, camera_exif(1, order=order), XMP, (300.0, 200.0))

    data = written(kind, known)
    back = read(data).pages[0].metadata
    with PILImage.open(io.BytesIO(data)) as image:
        image.load()
        seen = image.getexif()
        profile, xmp = image.info["icc_profile"], image.info["xmp"]

    assert back.icc_profile == profile == PROFILE
    assert back.xmp == xmp == XMP
    assert back.resolution == pytest.approx((300, 200), rel=1e-4)
    assert tags(back.exif) == tags(seen) == tags(known.exif)
    assert not back.lost


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_exif_comes_back_byte_for_byte(kind):
    known = Metadata(exif=camera_exif(1))

    assert read(written(kind, known)).pages[0].metadata.exif == known.exif


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "tiff", "avif"])
def test_a_second_time_changes_nothing_any_more(kind):
    first = read(written(kind, Metadata(PROFILE, camera_exif(1), XMP, (300.0, 300.0)))).pages[0].metadata

    assert read(written(kind, first)).pages[0].metadata == first


@pytest.mark.parametrize("kind", ["png", "webp", "tiff", "avif", "jpeg"])
def test_the_resolution_alone_survives(kind):
    back = read(written(kind, Metadata(resolution=(240.0, 120.0)))).pages[0].metadata

    assert back.resolution == pytest.approx((240, 120), rel=1e-4)


def test_a_resolution_in_centimetres_is_told_in_inches():
    file = io.BytesIO()
    tifffile.imwrite(file, np.zeros((4, 4), np.uint8), resolution=(100, 50), resolutionunit="CENTIMETER")

    assert read(file.getvalue()).pages[0].metadata.resolution == pytest.approx((254, 127))


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_a_new_resolution_goes_into_an_exif_block_that_has_another(kind):
    exif = metadata.with_resolution(camera_exif(1), (72.0, 72.0))

    back = read(written(kind, Metadata(exif=exif, resolution=(300.0, 300.0)))).pages[0].metadata

    assert back.resolution == pytest.approx((300, 300), rel=1e-4)
    assert tags(back.exif) == tags(camera_exif(1))


# Upright


@pytest.mark.parametrize("order", ["little", "big"])
def test_upright_only_the_orientation_changes_and_nothing_moves(order):
    block = camera_exif(6, order=order)

    upright = Metadata(exif=block).upright().exif

    assert Metadata(exif=block).orientation == 6
    assert Metadata(exif=upright).orientation == 1
    assert len(upright) == len(block)
    assert sum(a != b for a, b in zip(upright, block, strict=True)) == 1
    assert tags(upright) == tags(block)


@pytest.mark.parametrize("order", ["little", "big"])
def test_the_small_image_of_how_it_was_is_gone(order):
    small = b"\xff\xd8 the noisy one, small \xff\xd9"
    block = camera_exif(1, small, order=order)

    upright = Metadata(exif=block).upright().exif

    assert small in block
    assert b"noisy" not in upright
    assert len(upright) < len(block)
    assert tags(upright) == tags(block)
    assert (
        not PILImage.open(io.BytesIO(written("jpeg", Metadata(exif=upright))))
        .getexif()
        .get_ifd(ExifTags.IFD.IFD1)
    )


def test_xmp_is_made_upright_as_well():
    xmp = b'<a tiff:Orientation="6"><xmp:Thumbnails><b>small</b></xmp:Thumbnails>rest</a>'

    assert Metadata(xmp=xmp).upright().xmp == b'<a tiff:Orientation="1">rest</a>'


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
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
    twice = read(written_as_is(once)).pages[0]

    assert np.abs(once.samples.numpy().astype(int) - expected).mean() < 6
    assert once.metadata.orientation == 1
    assert torch.equal(twice.samples, once.samples)


def written_as_is(page):
    return encode(File(FORMATS["png"], (page,)), FORMATS["png"]).data


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_deep_image_is_turned_as_a_shallow_one_is(orientation):
    values = np.arange(6 * 4 * 3, dtype=np.uint16).reshape(6, 4, 3)
    files = io.BytesIO(), io.BytesIO()
    for file, dtype in zip(files, (np.uint8, np.uint16), strict=True):
        tifffile.imwrite(file, values.astype(dtype), extratags=[(274, 3, 1, orientation, True)])

    shallow, deep = (read(file.getvalue()).pages[0].samples for file in files)

    np.testing.assert_array_equal(shallow.numpy(), deep.numpy())


# TIFF and PNG


def test_a_tiff_s_own_tags_survive_and_those_of_its_pixels_do_not():
    file = io.BytesIO()
    extra = [(315, 2, 7, "Artist", True), (285, 2, 5, "page", True), (65000, 4, 3, (1, 2, 3), True)]
    tifffile.imwrite(
        file, np.zeros((8, 8, 3), np.uint16), description="what it shows", metadata=None, extratags=extra
    )

    data = encode(read(file.getvalue()), FORMATS["tiff"]).data
    with tifffile.TiffFile(io.BytesIO(data)) as again:
        kept = {tag.code: tag.value for tag in again.pages[0].tags}

    assert (kept[315], kept[285], kept[65000], kept[270]) == ("Artist", "page", (1, 2, 3), "what it shows")
    assert kept[259] == 8


def test_a_png_s_own_colours_and_texts_are_carried_along(file_of):
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


# Bad input


def png_with(kind, body):
    plain = written("png", Metadata())
    return plain[:33] + metadata.png_chunk(kind, body) + plain[33:]


@pytest.mark.parametrize(
    "chunk",
    [
        (b"iCCP", b"bomb\0\0" + zlib.compress(bytes(MOST_BYTES + 1), 9)),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(MOST_BYTES + 1), 9)),
    ],
    ids=["profile", "xmp"],
)
def test_what_unpacks_without_end_is_refused(chunk):
    assert len(chunk[1]) < MOST_BYTES / 900

    with pytest.raises(BrokenImage, match=f"has more than {MOST_BYTES} bytes|data too large"):
        read(png_with(*chunk))


def test_sixty_thousand_entries_are_refused_with_how_many_are_taken():
    block = metadata.new_exif("<", [(tag, 3, 1, b"\1\0") for tag in range(1, 60001)])

    with pytest.raises(BrokenImage, match="60000 entries; at most 4096 are taken"):
        read(png_with(b"eXIf", block))


def test_entries_that_share_their_bytes_do_not_fill_the_memory():
    entries = b"".join(struct.pack("<HHII", tag, 1, 2**20, 8) for tag in range(40000, 44000))
    block = b"II*\0" + struct.pack("<I", 8 + 2**20) + bytes(2**20) + struct.pack("<H", 4000) + entries + bytes(4)

    with pytest.raises(TooMuchMetadata, match="more than"):
        Metadata(exif=block).upright()


def test_exif_that_cannot_be_read_is_left_out_and_told_of():
    file = read(png_with(b"eXIf", b"II*\0\xff\xff\0\0 nonsense"))

    assert file.pages[0].metadata.exif is None
    assert file.changed == ("without EXIF that cannot be read",)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.data())
def test_whatever_a_block_holds_it_is_made_upright_or_refused(data):
    block = bytearray(camera_exif(3, b"small"))
    for _ in range(data.draw(st.integers(1, 6))):
        block[data.draw(st.integers(0, len(block) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(block[: data.draw(st.integers(0, len(block)))])

    known = Metadata(exif=cut)
    try:
        upright = known.upright()
    except TooMuchMetadata:
        return

    assert upright.exif is None or upright.orientation == 1 or known.orientation == upright.orientation
    metadata.exif_resolution(upright.exif)
    written("tiff", upright)
    written("webp", metadata.within(Metadata(exif=upright.exif, resolution=(300.0, 300.0)), 10**6))
