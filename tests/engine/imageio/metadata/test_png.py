"""Metadata in PNG files."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image as PILImage
from PIL.PngImagePlugin import PngInfo

from engine.imageio.formats import FORMATS, BrokenImage
from engine.imageio.image import ImageSequence
from engine.imageio.metadata import Metadata
from engine.imageio.metadata.limits import MAX_BYTES
from engine.imageio.metadata.png import png_chunk
from engine.imageio.read import read
from engine.imageio.write import encode
from tests.support.images import XMP, camera_exif, encoded_with, exif_tags, noise_image, same_samples


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


# Chunks that others drop


def with_chunk(data, chunk, at=33):
    return data[:at] + chunk + data[at:]


def with_wrong_checksum(kind, body):
    return png_chunk(kind, body)[:-1] + b"\x7f"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("kind", [b"iCCP", b"tEXt", b"gAMA", b"pHYs", b"eXIf", b"iTXt", b"tIME", b"zzZz"])
def test_a_chunk_with_a_wrong_checksum_is_dropped_and_told(kind, dtype):
    image = noise_image(0, dtype, 3, False, (6, 9))
    plain = encode(ImageSequence(FORMATS["png"], (image,)), FORMATS["png"]).data

    back = read(with_chunk(plain, with_wrong_checksum(kind, b"any body")))

    assert back.changed == (f"without a broken {kind.decode()} chunk",)
    assert same_samples(back.pages[0], image)


@pytest.mark.parametrize("body", [b"x\0\0garbage", b"", b"name", b"x\0\0" + zlib.compress(b"no profile" * 50)])
def test_an_undecodable_profile_is_dropped_and_told(body):
    plain = encoded_with("png", Metadata())

    back = read(with_chunk(plain, png_chunk(b"iCCP", body)))

    assert back.changed == ("without an unreadable colour profile",)
    assert back.pages[0].metadata.icc_profile is None


@pytest.mark.parametrize(
    "kind", [b"pHYs", b"gAMA", b"cHRM", b"sRGB", b"tIME", b"bKGD", b"sBIT", b"iTXt", b"zTXt", b"cICP"]
)
@pytest.mark.parametrize("body", [b"", b"x", bytes(300)])
def test_a_chunk_of_the_wrong_size_does_not_spoil_the_image(kind, body):
    plain = encoded_with("png", Metadata())

    back = read(with_chunk(plain, png_chunk(kind, body)))

    assert same_samples(back.pages[0], read(plain).pages[0])


def chromaticities(*values):
    return struct.pack(">8I", *(round(value * 100_000) for value in values))


WHITE_POINT = (0.3127, 0.329)
PRIMARIES = (0.64, 0.33, 0.3, 0.6, 0.15, 0.06)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (b"gAMA", bytes(4)),
        (b"gAMA", b"\xff" * 4),
        (b"gAMA", b"\0"),
        (b"cHRM", bytes(32)),
        (b"cHRM", chromaticities(*WHITE_POINT, 0.1, 0.1, 0.2, 0.2, 0.3, 0.3)),
        (b"cHRM", chromaticities(0.3, 0, *PRIMARIES)),
        (b"cHRM", b"\xff" * 32),
        (b"cHRM", bytes(31)),
        (b"sRGB", b"\4"),
        (b"cICP", b"\1"),
        (b"mDCV", b"\1"),
        (b"cLLI", b"\1"),
    ],
)
def test_an_invalid_chunk_of_colour_is_dropped_and_told(file_of, kind, body):
    file = read(with_chunk(file_of(np.zeros((4, 4, 3), np.uint8)), png_chunk(kind, body)))

    assert file.changed == (f"without an invalid {kind.decode()} chunk",)
    assert kind not in encode(file, FORMATS["png"]).data


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (b"gAMA", struct.pack(">I", 45455)),
        (b"cHRM", chromaticities(*WHITE_POINT, *PRIMARIES)),
        (b"sRGB", b"\0"),
        (b"cICP", b"\x01\x0d\0\0"),
    ],
)
def test_a_valid_chunk_of_colour_is_kept(file_of, kind, body):
    file = read(with_chunk(file_of(np.zeros((4, 4, 3), np.uint8)), png_chunk(kind, body)))

    assert file.changed == ()
    assert png_chunk(kind, body) in encode(file, FORMATS["png"]).data


def test_an_impossible_resolution_is_dropped_and_told(file_of):
    data = with_chunk(file_of(np.zeros((4, 4), np.uint8)), png_chunk(b"pHYs", b"\xff" * 8 + b"\1"))

    file = read(data)

    assert file.changed == ("without an impossible resolution",)
    assert b"pHYs" not in encode(file, FORMATS["png"]).data


def test_broken_transparency_is_dropped_and_told(file_of):
    image = PILImage.new("RGB", (4, 4), "red")
    data = file_of(image, transparency=(1, 2, 3))
    at = data.index(b"tRNS") - 4
    broken = data[:at] + with_wrong_checksum(b"tRNS", data[at + 8 : at + 14]) + data[at + 18 :]

    back = read(broken)

    assert back.changed == ("without a broken tRNS chunk",)
    assert read(data).pages[0].alpha is not None
    assert back.pages[0].alpha is None


def test_a_still_image_beside_the_animation_is_told(file_of):
    first, *others = [PILImage.new("RGB", (6, 5), colour) for colour in ("red", "white", "blue")]

    beside = read(file_of(first, save_all=True, append_images=others, default_image=True))

    assert beside.changed == ("without the still image beside the animation",)
    assert read(file_of(first, save_all=True, append_images=others)).changed == ()
