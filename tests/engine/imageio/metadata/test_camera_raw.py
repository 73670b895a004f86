"""Camera raw files: recognition, cut data, and EXIF."""

import io
import struct
from datetime import datetime

import numpy as np
import pytest
import tifffile
from PIL import ExifTags
from PIL import Image as PILImage

from engine.imageio.formats import UnsupportedImage, detect_format
from engine.imageio.metadata.camera_raw import is_camera_raw, is_cut_short, new_raw_exif, read_raw_exif
from engine.imageio.metadata.exif import new_exif
from tests.support.images import camera_exif
from tests.support.raw_files import XTRANS, dng, nef, scene

RAW = {
    "dng": dng(),
    "dng with a preview": dng(preview=True),
    "linear dng": dng(np.stack([scene()] * 3, -1), ()),
    "dng without colours": dng(pattern=()),
    "X-Trans dng": dng(pattern=XTRANS),
    "BigTIFF dng": dng(preview=True, big=True),
    "nef": nef(),
}
SIGNATURES = {
    "CR2": b"II*\0\x10\0\0\0CR\2\0",
    "CRW": b"II\x1a\0\0\0HEAPCCDR",
    "CR3": b"\0\0\0\x18ftypcrx \0\0\0\1",
    "RAF": b"FUJIFILMCCD-RAW 0201",
    "ORF": b"IIRO\x08\0\0\0",
    "ORF of some compact cameras": b"IIRS\x08\0\0\0",
    "RW2": b"IIU\0\x18\0\0\0",
    "MRW": b"\0MRM\0\0\0\0",
    "X3F": b"FOVb\0\0\2\0",
    "IIQ": b"IIIITwaR",
}


def saved(*pages, big=False):
    file = io.BytesIO()
    with tifffile.TiffWriter(file, bigtiff=big) as writer:
        for values, options in pages:
            writer.write(values, metadata=None, **options)
    return file.getvalue()


def photograph_with_exif():
    file = io.BytesIO()
    PILImage.new("RGB", (40, 30), "red").save(file, "TIFF", exif=b"Exif\0\0" + camera_exif(orientation=1))
    return file.getvalue()


RGB8, RGB16 = np.zeros((12, 16, 3), np.uint8), np.zeros((12, 16, 3), np.uint16)
CAMERA = [(271, "s", 0, "NIKON CORPORATION", True), (272, "s", 0, "NIKON D850", True)]
TIFF = {
    "8 bits": saved((RGB8, {"photometric": "rgb"})),
    "16 bits": saved((RGB16, {"photometric": "rgb"})),
    "a camera's names": saved((RGB16, {"photometric": "rgb", "extratags": CAMERA})),
    "a camera's EXIF": photograph_with_exif(),
    "DNGVersion, copied from the raw file": saved(
        (RGB16, {"photometric": "rgb", "extratags": [(50706, "B", 4, bytes((1, 4, 0, 0)), True)]})
    ),
    "smaller copies beneath the image": saved(
        (RGB8, {"photometric": "rgb", "subifds": 1}), (RGB8[::2, ::2], {"photometric": "rgb", "subfiletype": 1})
    ),
    "a preview before the image": saved(
        (RGB8[::2, ::2], {"photometric": "rgb", "subfiletype": 1}), (RGB8, {"photometric": "rgb"})
    ),
    "BigTIFF": saved((RGB16, {"photometric": "rgb"}), big=True),
}


@pytest.mark.parametrize("name", RAW)
def test_raw_files_that_begin_like_tiff_are_recognised(name):
    assert is_camera_raw(RAW[name])
    assert detect_format(RAW[name]).name == "raw"


@pytest.mark.parametrize("name", SIGNATURES)
def test_other_raw_files_are_recognised_by_their_first_bytes(name):
    assert detect_format(SIGNATURES[name] + bytes(100)).name == "raw"


@pytest.mark.parametrize("name", TIFF)
def test_ordinary_tiff_files_stay_tiff(name):
    assert not is_camera_raw(TIFF[name])
    assert detect_format(TIFF[name]).name == "tiff"


def test_a_preview_alone_is_never_taken_for_the_image():
    # The IFD with the raw data lies beyond the end: only the preview could be read.
    data = bytearray(nef())
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        at = file.pages[0].tags[330].valueoffset
    struct.pack_into("<I", data, at, 2**30)

    assert detect_format(bytes(data)).name == "raw"


def test_a_preview_need_not_say_that_it_is_one():
    data = saved(
        (RGB8, {"photometric": "rgb", "subifds": 1}), (np.zeros((24, 32, 3), np.uint16), {"photometric": "rgb"})
    )

    assert detect_format(data).name == "raw"


def test_a_video_is_still_refused_by_name():
    with pytest.raises(UnsupportedImage, match="a video"):
        detect_format(b"\0\0\0\x20ftypisom\0\0\0\0")


@pytest.mark.parametrize("keep", [0.3, 0.5, 0.97])
def test_raw_data_beyond_the_end_are_found(keep):
    for data in (dng(), dng(preview=True), nef(), dng(tile=(16, 16))):
        assert not is_cut_short(data)
        start = 600  # the IFDs come first
        assert is_cut_short(data[: int(start + (len(data) - start) * keep)])


def test_a_few_bytes_too_few_are_no_cut():
    assert not is_cut_short(dng()[:-16])


def test_a_size_that_is_no_size_is_no_cut():
    data = bytearray(dng())
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        at = file.pages[0].tags[279].valueoffset
    struct.pack_into("<I", data, at, 2**32 - 1)

    assert not is_cut_short(bytes(data))


@pytest.mark.parametrize("order", ["little", "big"])
def test_maker_notes_and_thumbnails_are_left_out(order):
    exif = camera_exif(thumbnail=b"a thumbnail", order=order)

    kept = PILImage.Exif()
    kept.load(read_raw_exif(exif))

    photograph = kept.get_ifd(ExifTags.IFD.Exif)
    assert kept[ExifTags.Base.Make] == "Makers"
    assert photograph[ExifTags.Base.ISOSpeedRatings] == 6400
    assert ExifTags.Base.MakerNote not in photograph


def test_the_exif_of_a_raf_file_is_that_of_its_preview():
    preview = io.BytesIO()
    PILImage.new("RGB", (8, 8)).save(preview, "JPEG", exif=b"Exif\0\0" + camera_exif())
    head = b"FUJIFILMCCD-RAW 0201".ljust(84, b"\0") + struct.pack(">II", 100, len(preview.getvalue()))

    exif = PILImage.Exif()
    exif.load(read_raw_exif(head.ljust(100, b"\0") + preview.getvalue()))

    assert exif[ExifTags.Base.Make] == "Makers"


def box(kind, body):
    return struct.pack(">I4s", 8 + len(body), kind) + body


def test_the_exif_of_a_cr3_file_is_joined_from_its_blocks():
    def block(*entries):
        return new_exif("<", entries)

    camera = block((271, 2, 6, b"Canon\0"), (274, 3, 1, b"\6\0"), (50706, 1, 4, bytes(4)))
    photograph = block((0x8827, 3, 1, b"\x20\3"), (0x927C, 7, 8, b"a maker'"))
    canon = box(b"CMT1", camera) + box(b"CMT2", photograph) + box(b"CMT4", block((1, 2, 2, b"N\0")))
    movie = box(b"uuid", bytes.fromhex("85c0b687820f11e08111f4ce462b6a48") + canon)
    data = box(b"ftyp", b"crx \0\0\0\1") + box(b"moov", movie) + box(b"mdat", bytes(50))

    exif = PILImage.Exif()
    exif.load(read_raw_exif(data))

    assert (exif[271], exif[274], 50706 in exif) == ("Canon", 6, False)
    assert exif.get_ifd(ExifTags.IFD.Exif) == {0x8827: 800}
    assert exif.get_ifd(ExifTags.IFD.GPSInfo) == {1: "N"}


def test_a_file_without_exif_gives_none():
    cr3, raf = box(b"ftyp", b"crx \0\0\0\1"), b"FUJIFILMCCD-RAW 0201" + bytes(100)

    for data in (cr3, cr3 + b"\0\0\1\0moov", raf, b"FOVb" + bytes(99), b"II*\0\xff\xff\xff\xff", b"IIRO"):
        assert read_raw_exif(data) is None


def test_an_exif_block_is_made_of_what_is_known():
    exif = PILImage.Exif()
    exif.load(new_raw_exif(1 / 250, 5.6, 800, 0, datetime(2026, 1, 2, 3, 4, 5), "Änne", ""))

    photograph = exif.get_ifd(ExifTags.IFD.Exif)
    assert exif[ExifTags.Base.DateTime] == "2026:01:02 03:04:05"
    assert photograph[ExifTags.Base.ExposureTime] == pytest.approx(1 / 250)
    assert photograph[ExifTags.Base.FNumber] == pytest.approx(5.6)
    assert photograph[ExifTags.Base.ISOSpeedRatings] == 800
    assert ExifTags.Base.FocalLength not in photograph
    assert new_raw_exif(0, 0, 0, 0, None, "", "") is None
