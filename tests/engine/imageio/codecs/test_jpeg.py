"""JPEG: kinds that are known but not decoded, files without an end marker, and other images in the file."""

import io
import struct

import imagecodecs
import numpy as np
import pytest
from PIL import Image as PILImage

from engine.imageio.codecs.jpeg import JpegSettings, other_jpeg_images, read_jpeg_settings
from engine.imageio.formats import BrokenImage, UnsupportedImage
from engine.imageio.read import read
from tests.support.images import PROFILE, XMP

END = b"\xff\xd9"
GAIN_MAP_XMP = b'<r xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0"/>'
GREY_16 = np.full((32, 24), 2000, np.uint16)
FRAME = b"\xff\xc0"
KINDS = {
    "12 bits": (imagecodecs.jpeg8_encode(GREY_16, bitspersample=12), "JPEG with 12 bits a channel; only 8"),
    "lossless": (imagecodecs.ljpeg_encode(GREY_16), "This is lossless JPEG, which is not supported"),
    "JPEG-LS": (imagecodecs.jpegls_encode(GREY_16.astype(np.uint8)), "This is JPEG-LS, which is not supported"),
}


def segment(marker, body):
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body


def with_segments(data, *segments):
    """The file with segments behind its start."""
    return data[:2] + b"".join(segments) + data[2:]


def index(*types):
    """A segment with the index of a multi-picture file: the type of each image."""
    entries = b"".join(struct.pack("<IIIHH", kind, 1000, 0, 0, 0) for kind in types)
    ifd = struct.pack("<HHHII", 2, 0xB001, 4, 1, len(types))
    ifd += struct.pack("<HHIII", 0xB002, 7, len(entries), 38, 0)
    return segment(0xE2, b"MPF\0II*\0" + struct.pack("<I", 8) + ifd + entries)


@pytest.fixture
def jpeg(samples, file_of):
    return file_of(samples(60, 80), "JPEG", quality=90)


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_that_is_not_decoded_is_named(name):
    data, message = KINDS[name]

    with pytest.raises(UnsupportedImage, match=message):
        read(data)


@pytest.mark.parametrize(
    ("marker", "name"), [(0xC5, "hierarchical JPEG"), (0xCB, "lossless JPEG with arithmetic")]
)
def test_rare_kinds_are_named(marker, name, jpeg):
    with pytest.raises(UnsupportedImage, match=f"This is {name}"):
        read(jpeg.replace(FRAME, bytes((0xFF, marker)), 1))


# Without an end


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}], ids=str)
@pytest.mark.parametrize("missing", [1, 2])
def test_a_file_without_its_end_marker_is_read_and_told(options, missing, samples, file_of):
    whole = file_of(samples(60, 80), "JPEG", quality=90, **options)

    back = read(whole[:-missing])

    np.testing.assert_array_equal(back.pages[0].samples, read(whole).pages[0].samples)
    assert back.changed == ("with the end marker that was missing",)


def test_cmyk_without_its_end_marker_is_refused_for_its_inks_only(file_of):
    whole = file_of(PILImage.new("CMYK", (16, 16)), "JPEG")

    with pytest.raises(UnsupportedImage, match="without the colour profile that defines the inks"):
        read(whole[:-2])


@pytest.mark.parametrize("behind", [bytes(1), bytes(500), b"\r\n"])
def test_a_file_with_other_bytes_for_its_end_marker_is_read_and_told(behind, jpeg):
    back = read(jpeg[:-2] + behind)

    np.testing.assert_array_equal(back.pages[0].samples, read(jpeg).pages[0].samples)
    assert back.changed == ("with the end marker that was missing",)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_download_that_stopped_is_broken_though_space_was_reserved(progressive, samples, file_of):
    whole = file_of(samples(60, 80), "JPEG", quality=90, progressive=progressive)

    for part in (0.5, 0.7, 0.9):
        end = int(len(whole) * part)
        with pytest.raises(BrokenImage, match="pixels and its end marker are missing"):
            read(whole[:end] + bytes(len(whole) - end))


@pytest.mark.parametrize("progressive", [False, True])
def test_a_file_that_lacks_pixels_stays_broken(progressive, samples, file_of):
    whole = file_of(samples(60, 80), "JPEG", quality=90, progressive=progressive)
    start = whole.rfind(b"\xff\xda")

    for end in range(start + 20, len(whole) - 12, 37):
        with pytest.raises(BrokenImage, match="JPEG file is broken or cut short"):
            read(whole[:end])


def test_a_profile_whose_parts_are_missing_is_told(jpeg):
    half = segment(0xE2, b"ICC_PROFILE\0\1\2" + PROFILE[:300])

    back = read(with_segments(jpeg, half))

    assert back.changed == ("without an unreadable colour profile",)
    assert read(with_segments(jpeg, segment(0xE2, b"ICC_PROFILE\0\1\1" + PROFILE))).changed == ()


# Other images


def test_a_plain_file_has_no_other_images(jpeg):
    assert other_jpeg_images(jpeg, None) == ()
    assert read(with_segments(jpeg, index(0x030000))).changed == ()


@pytest.mark.parametrize(
    ("types", "told"),
    [
        ((0x030000, 0x020002), "without the other images of the file"),
        ((0x030000, 0x020002, 0x020002), "without the other images of the file"),
        ((0x030000, 0x010001, 0x010002), "without its previews"),
    ],
    ids=["stereo", "three", "previews"],
)
def test_the_images_of_a_multi_picture_file_are_told(types, told, jpeg):
    back = read(with_segments(jpeg, index(*types)) + jpeg)

    assert back.changed == (told,)
    assert len(back.pages) == 1


def test_what_pillow_writes_as_mpo_is_told(samples):
    file = io.BytesIO()
    first, second = (PILImage.fromarray(samples(60, 80, seed=seed)) for seed in range(2))
    first.save(file, "MPO", save_all=True, append_images=[second])

    assert read(file.getvalue()).changed == ("without the other images of the file",)


@pytest.mark.parametrize("place", ["xmp", "segment", "second image"])
def test_a_gain_map_is_told_wherever_it_is_announced(place, jpeg):
    second = jpeg
    parts = [index(0x030000, 0)]
    match place:
        case "xmp":
            parts.append(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + GAIN_MAP_XMP))
        case "segment":
            parts.append(segment(0xE2, b"urn:iso:std:iso:ts:21496:-1\0\0\0\0\0"))
        case _:
            second = with_segments(jpeg, segment(0xE1, b"http://ns.apple.com/HDRGainMap/1.0/"))

    back = read(with_segments(jpeg, *parts) + second)

    assert back.changed == ("without the HDR gain map",)
    assert b"hdrgm" not in (back.pages[0].metadata.xmp or b"")


def test_a_video_behind_the_image_is_told(jpeg):
    assert read(jpeg + b"MotionPhoto_Data\0\0\0\x18ftypmp42" + bytes(99)).changed == (
        "without the motion photo's video",
    )


@pytest.mark.parametrize("behind", [b"", bytes(999), XMP, b"\xff", b"MPF\0"])
def test_other_bytes_behind_the_image_are_nothing(behind, jpeg):
    assert read(jpeg + behind).changed == ()


def test_a_broken_index_says_nothing(jpeg):
    whole = with_segments(jpeg, index(0x030000, 0x020002))

    for at in range(6, 80):
        read(whole[:at] + b"\xff" + whole[at + 1 :])


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("quality", [1, 30, 50, 75, 92, 95, 100])
def test_the_settings_of_a_file_are_found(quality, subsampling, samples, file_of):
    data = file_of(samples(40, 40), "JPEG", quality=quality, subsampling=subsampling)

    assert read_jpeg_settings(data) == JpegSettings(quality, subsampling)


def test_a_grey_file_and_tables_of_other_programs_have_a_quality(samples, file_of):
    grey = file_of(samples(40, 40, 1), "JPEG", quality=60)
    own = file_of(samples(40, 40), "JPEG", qtables="web_high")

    assert read_jpeg_settings(grey).quality == 60
    assert 80 <= read_jpeg_settings(own).quality <= 100
    assert read_jpeg_settings(b"\xff\xd8\xff no JPEG") is None
