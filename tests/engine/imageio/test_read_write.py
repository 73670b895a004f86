"""Bytes to pixels and back."""

import io
import re
import struct
import subprocess
import sys
import zlib
from dataclasses import replace
from io import BytesIO
from random import Random

import imagecodecs
import numpy as np
import pillow_heif
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage

from engine.imageio.formats import (
    FORMATS,
    BrokenImage,
    CannotWrite,
    ImageTooLarge,
    NotAImage,
    UnsupportedImage,
)
from engine.imageio.image import STRIP, File, Image, to_pixels, to_samples
from engine.imageio.metadata import NO_METADATA, Metadata
from engine.imageio.read import decode, image_files, outline, read, read_rgb
from engine.imageio.write import encode, encode_png

LOSSLESS = {"PNG": {}, "WEBP": {"lossless": True}, "BMP": {}, "TIFF": {"compression": "tiff_lzw"}}
ORIENTATION = 0x0112


def to_8_bits(pixels):
    return pixels.mul(255).round().to(torch.uint8).numpy()


def png_by_hand(bits, colour_type, data, chunk=b""):
    """Kinds of PNG, 1 pixel wide and high, that Pillow reads and does not write."""
    header = struct.pack(">IIBBBBB", 1, 1, bits, colour_type, 0, 0, 0)
    chunks = [b"IHDR" + header, *([chunk] if chunk else []), b"IDAT" + zlib.compress(b"\0" + data), b"IEND"]
    parts = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("kind", LOSSLESS)
def test_a_lossless_rgb_file_is_decoded_exactly(kind, samples, file_of):
    noisy = samples(9, 14)

    image = decode(file_of(noisy, kind, **LOSSLESS[kind]))

    assert image.samples.dtype == torch.uint8
    assert image.samples.is_contiguous()
    assert image.pixels.dtype == torch.float32
    assert image.pixels.is_contiguous()
    np.testing.assert_array_equal(to_8_bits(image.pixels), noisy)
    assert not image.grey
    assert image.alpha is None
    assert image.depth == "8"


def test_a_jpeg_is_decoded_nearly(samples, file_of):
    noisy = samples(40, 50) // 8 * 8

    image = decode(file_of(noisy, "JPEG", quality=95, subsampling=0))

    assert np.abs(to_8_bits(image.pixels).astype(int) - noisy).mean() < 5


def test_of_a_gif_the_first_frame_is_taken(file_of):
    frames = [PILImage.new("RGB", (6, 5), colour) for colour in ("#204060", "#ffffff")]

    image = decode(file_of(frames[0], "GIF", save_all=True, append_images=frames[1:]))

    assert np.all(to_8_bits(image.pixels) == (0x20, 0x40, 0x60))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF"])
def test_a_grey_image_has_three_equal_channels_and_goes_back_grey(kind, samples, file_of):
    noisy = samples(7, 5, 1)

    image = decode(file_of(noisy, kind))
    with PILImage.open(BytesIO(encode_png(image))) as returned:
        mode, values = returned.mode, np.array(returned)

    assert image.grey
    np.testing.assert_array_equal(to_8_bits(image.pixels), noisy.repeat(3, axis=2))
    assert mode == "L"
    np.testing.assert_array_equal(values, noisy[..., 0])


def test_a_bilevel_scan_is_grey(file_of):
    scan = PILImage.new("1", (8, 3))
    scan.putpixel((5, 1), 1)

    image = decode(file_of(scan, "TIFF", compression="group4"))

    assert image.grey
    assert image.pixels.sum() == 3
    assert image.pixels[1, 5].tolist() == [1, 1, 1]


@pytest.mark.parametrize("channels", [2, 4], ids=["grey", "rgb"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_alpha_is_carried_through_untouched(kind, channels, samples, file_of):
    noisy = samples(6, 11, channels)

    image = decode(file_of(noisy, kind))
    darker = encode_png(replace(image, samples=image.samples // 2))
    with PILImage.open(BytesIO(darker)) as returned:
        values = np.array(returned)

    np.testing.assert_array_equal(image.alpha, noisy[..., -1])
    np.testing.assert_array_equal(values[..., -1], noisy[..., -1])
    assert values.shape == noisy.shape
    np.testing.assert_array_equal(values[..., :-1], noisy[..., :-1] // 2)


def test_a_palettes_colours_and_its_transparent_entry_are_kept(file_of):
    image = PILImage.new("P", (4, 2), 1)
    image.putpalette([200, 0, 0, 10, 20, 30])
    image.putpixel((3, 1), 0)

    decoded = decode(file_of(image, transparency=0))

    assert to_8_bits(decoded.pixels)[0, 0].tolist() == [10, 20, 30]
    assert to_8_bits(decoded.pixels)[1, 3].tolist() == [200, 0, 0]
    assert decoded.alpha.tolist() == [[255, 255, 255, 255], [255, 255, 255, 0]]


@pytest.mark.parametrize(
    ("value", "turned"),
    [(1, lambda a: a), (3, lambda a: a[::-1, ::-1]), (6, lambda a: np.rot90(a, -1)), (8, np.rot90)],
)
def test_an_image_is_turned_as_its_exif_says(value, turned, samples, file_of):
    noisy = samples(5, 8, 4)
    exif = PILImage.Exif()
    exif[ORIENTATION] = value

    image = decode(file_of(noisy, exif=exif))

    np.testing.assert_array_equal(to_8_bits(image.pixels), turned(noisy)[..., :3])
    np.testing.assert_array_equal(image.alpha, turned(noisy)[..., 3])


def test_the_returned_file_does_not_ask_to_be_turned_again(samples, file_of):
    exif = PILImage.Exif()
    exif[ORIENTATION] = 6

    once = encode_png(decode(file_of(samples(5, 8), exif=exif)))

    torch.testing.assert_close(decode(once).pixels, decode(encode_png(decode(once))).pixels)
    assert decode(once).pixels.shape == (8, 5, 3)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_goes_there_and_back_exactly(kind, file_of):
    values = np.arange(0, 65536, 257).astype(np.uint16).reshape(16, 16)
    values[3, 4] = 12345

    image = decode(file_of(values, kind))
    with PILImage.open(BytesIO(encode_png(image))) as returned:
        mode, back = returned.mode, np.array(returned)

    assert (image.grey, image.depth) == (True, "16")
    assert image.pixels[3, 4, 0] == pytest.approx(12345 / 65535)
    assert mode == "I;16"
    np.testing.assert_array_equal(back, values)


def test_the_colour_profile_goes_back(samples, file_of):
    profile = bytes(range(200))

    image = decode(file_of(samples(3, 3), icc_profile=profile))
    with PILImage.open(BytesIO(encode_png(image))) as returned:
        kept = returned.info["icc_profile"]

    assert kept == profile


@pytest.mark.parametrize(("dtype", "white"), [(torch.uint8, 255), (torch.uint16, 65535)])
def test_pixels_are_clipped_and_rounded_to_nearest(dtype, white):
    pixels = torch.tensor([-0.3, 0.0, 99.4 / white, 99.6 / white, 1.0, 1.7]).view(2, 3, 1).repeat(1, 1, 3)

    colour, grey = to_samples(pixels, dtype, 3), to_samples(pixels, dtype, 1)

    assert colour.dtype == grey.dtype == dtype
    assert colour[..., 2].tolist() == grey[..., 0].tolist() == [[0, 0, 99], [100, white, white]]


def test_grey_is_the_mean_of_the_channels():
    pixels = torch.tensor([10.0, 20.0, 60.0]).view(1, 1, 3) / 255

    assert to_samples(pixels, torch.uint8, 1).tolist() == [[[30]]]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_sample_survives_the_way_to_pixels_and_back(dtype, channels):
    every = torch.arange(torch.iinfo(dtype).max + 1).to(dtype).view(-1, 16, 1).expand(-1, -1, channels)

    assert torch.equal(to_samples(to_pixels(every), dtype, channels), every)


@pytest.mark.parametrize("level", range(10))
def test_a_png_of_any_level_holds_the_same_image(level, samples):
    image = Image(torch.from_numpy(samples(20, 30)))

    assert torch.equal(decode(encode_png(image, level)).samples, image.samples)


def test_images_of_many_strips_are_decoded_whole(samples, file_of):
    noisy = samples(2 * STRIP + 3, 4, 2)

    image = decode(file_of(noisy))

    np.testing.assert_array_equal(image.samples, noisy[..., :1])
    np.testing.assert_array_equal(image.alpha, noisy[..., 1])


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1)])
@pytest.mark.parametrize("grey", [True, False])
def test_images_of_one_pixel_or_line_go_there_and_back(size, grey):
    image = decode(encode_png(Image(torch.full((*size, 1 if grey else 3), 51, dtype=torch.uint8))))

    assert image.pixels.shape == (*size, 3)
    assert image.grey == grey
    torch.testing.assert_close(image.pixels, torch.full((*size, 3), 0.2))


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (b"", NotAImage, "0 bytes came; taken are JPEG, PNG, WebP"),
        (b"hello, I am text", NotAImage, re.escape("16 bytes that begin with b'hello, I am '; taken are")),
        (b"\0\0\0\x1cftypisom\0\0\0\0", UnsupportedImage, "film or other ISO media; taken are"),
        (b"%PDF-1.7", UnsupportedImage, "PDF; taken are"),
        (b"\x89PNG\r\n\x1a\n", BrokenImage, "PNG file's header is broken"),
    ],
)
def test_what_is_no_image_is_refused_by_name(data, error, message):
    with pytest.raises(error, match=message):
        decode(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
@pytest.mark.parametrize("part", [0.02, 0.5, 0.9])
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_a_file_cut_short_is_broken_never_half_an_image(kind, part, samples, file_of):
    whole = file_of(samples(40, 50), kind)

    with pytest.raises(BrokenImage, match=f"(?i)the {kind} file"):
        decode(whole[: max(12, int(len(whole) * part))])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_whatever_is_wrong_with_a_file_the_error_is_one_of_ours(kind, samples, file_of):
    whole = file_of(samples(12, 10), kind)
    random = Random(0)
    refused = 0

    for _ in range(100):
        data = bytearray(whole)
        for _ in range(random.choice([1, 3, 10])):
            data[random.randrange(4, min(len(data), 200))] = random.choice([0, 1, 127, 255])
        try:
            decode(bytes(data), max_pixels=10_000)
        except (NotAImage, BrokenImage, UnsupportedImage, ImageTooLarge):
            refused += 1

    assert refused > 5


def test_pixels_we_do_not_take_are_named(file_of):
    with pytest.raises(UnsupportedImage, match="signed numbers of 32 bits a channel; taken are RGB and grey of"):
        decode(file_of(PILImage.new("I", (4, 4)), "TIFF"))


def test_an_image_is_refused_by_its_header_before_its_pixels_are_read(file_of):
    header_alone = file_of(PILImage.new("L", (20, 10)))[:45]

    with pytest.raises(ImageTooLarge, match="20 x 10 = 200 pixels; at most 199 are taken"):
        decode(header_alone, max_pixels=199)


def test_an_image_of_just_the_limit_is_taken(file_of):
    image = decode(file_of(PILImage.new("L", (20, 10))), max_pixels=200)

    assert image.pixels.shape == (10, 20, 3)


# Every depth, and what can be written


def drawn(seed, dtype, channels, alpha, size=(7, 5), known=NO_METADATA):
    """An image of noise; floats reach beyond [0, 1]."""
    rng = np.random.default_rng(seed)

    def values(*shape):
        if dtype == np.float32:
            return torch.from_numpy((rng.standard_normal(shape) * 2).astype(dtype))
        return torch.from_numpy(rng.integers(np.iinfo(dtype).max + 1, size=shape).astype(dtype))

    return Image(values(*size, channels), values(*size) if alpha else None, known)


def same(one, other):
    """Bit for bit."""
    alphas = one.alpha, other.alpha
    assert one.samples.dtype == other.samples.dtype
    assert torch.equal(one.samples, other.samples)
    assert (one.alpha is None and other.alpha is None) or torch.equal(*alphas)
    return True


RGB = {"photometric": "rgb"}
DTYPES = {"8": np.uint8, "16": np.uint16, "float": np.float32}
LOSSLESS_KINDS = [kind for kind in FORMATS.values() if kind.writes and not kind.quality]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.sampled_from([(kind, depth) for kind in LOSSLESS_KINDS for depth in kind.writes.depths]),
    st.sampled_from([1, 3]),
    st.booleans(),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.integers(0, 99),
    st.builds(
        Metadata,
        st.none() | st.binary(min_size=200, max_size=300),
        st.just(None),
        st.none() | st.just(b"<x:xmpmeta/>"),
        st.none() | st.tuples(st.sampled_from([72.0, 300.0]), st.sampled_from([72.0, 300.0])),
    ),
)
def test_what_is_written_without_loss_comes_back_bit_for_bit(which, channels, alpha, size, seed, known):
    kind, depth = which
    image = drawn(seed, DTYPES[depth], channels if kind.writes.grey else 3, alpha, size, known)

    written = encode(File(kind, (image,)), kind)
    back = read(written.data)

    assert same(back.pages[0], image)
    assert back.kind == kind
    assert (written.changed, back.changed) == ((), ())
    assert back.pages[0].metadata.icc_profile == known.icc_profile
    assert back.pages[0].metadata.xmp == known.xmp
    # PNG counts whole dots a metre.
    assert back.pages[0].metadata.resolution == (known.resolution and pytest.approx(known.resolution, rel=2e-4))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_16_bit_png_is_what_another_library_reads_and_writes(channels):
    values = np.random.default_rng(0).integers(65536, size=(6, 7, channels), dtype=np.uint16)

    image = decode(imagecodecs.png_encode(values.squeeze()))
    again = imagecodecs.png_decode(encode_png(image))

    whole = image.samples.numpy()
    whole = whole if image.alpha is None else np.concatenate((whole, image.alpha.numpy()[..., None]), 2)
    np.testing.assert_array_equal(whole, values)
    np.testing.assert_array_equal(again.reshape(values.shape), values)


@pytest.mark.parametrize(
    "way",
    [
        {"compression": "lzw", "predictor": True},
        {"compression": "zlib", "predictor": True},
        {"compression": "packbits"},
        {"tile": (16, 16), "compression": "zlib"},
        {"tile": (32, 16)},
        {"planarconfig": "separate", "photometric": "rgb"},
        {"planarconfig": "separate", "photometric": "rgb", "tile": (16, 16), "compression": "lzw"},
        {"bigtiff": True, "byteorder": ">", "rowsperstrip": 5},
        {"byteorder": ">", "compression": "zlib", "predictor": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_tiff_is_read_however_it_lies_in_the_file(way, dtype):
    values = (np.random.default_rng(0).random((37, 41, 3)) * 200).astype(dtype)
    file = io.BytesIO()
    planes = values.transpose(2, 0, 1).copy() if way.get("planarconfig") else values
    tifffile.imwrite(file, planes, **{"photometric": "rgb", **way})

    np.testing.assert_array_equal(decode(file.getvalue()).samples.numpy(), values)


def test_white_at_0_is_turned_round():
    file = io.BytesIO()
    tifffile.imwrite(file, np.array([[0, 1000]], np.uint16), photometric="miniswhite")

    assert decode(file.getvalue()).samples.flatten().tolist() == [65535, 64535]


def test_float16_becomes_float32_and_is_told_of():
    file = io.BytesIO()
    tifffile.imwrite(file, np.array([[0.5, 2.0]], np.float16))

    back = read(file.getvalue())

    assert back.pages[0].samples.flatten().tolist() == [0.5, 2.0]
    assert back.changed == ("float16 to float32",)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e12])
def test_samples_that_are_no_brightness_are_refused(value):
    file = io.BytesIO()
    tifffile.imwrite(file, np.array([[0.5, value]], np.float32))

    with pytest.raises(UnsupportedImage, match="infinite, not a number or beyond 1e\\+09; taken are finite"):
        decode(file.getvalue())


@pytest.mark.parametrize(
    ("values", "way", "fault"),
    [
        (np.zeros((4, 4), np.float64), {}, "floating point of 64 bits"),
        (np.zeros((4, 4), np.int16), {}, "signed numbers of 16 bits"),
        (np.zeros((4, 4), np.complex64), {}, "complex numbers"),
        (np.zeros((4, 4, 4), np.uint16), {"photometric": "separated"}, "CMYK of 16 bits"),
        (
            np.zeros((4, 4, 4), np.uint16),
            {"photometric": "rgb", "extrasamples": ["unspecified"]},
            "one is neither",
        ),
        (
            np.zeros((4, 4, 4), np.uint8),
            {"photometric": "rgb", "extrasamples": ["unspecified"]},
            "one is neither",
        ),
        (
            np.zeros((4, 4, 4), np.uint16),
            {"photometric": "rgb", "extrasamples": ["assocalpha"]},
            "multiplied with",
        ),
    ],
)
def test_pixels_that_would_come_back_wrong_are_refused_by_name(values, way, fault):
    file = io.BytesIO()
    tifffile.imwrite(file, values, **{"photometric": "minisblack", **way})

    with pytest.raises(UnsupportedImage, match=f"{fault}.*; taken are RGB and grey"):
        decode(file.getvalue())


def test_a_tiff_that_unpacks_without_end_is_refused():
    file = io.BytesIO()
    tifffile.imwrite(file, np.zeros((8, 8), np.uint16), compression="zlib", compressionargs={"level": 9})
    small = file.getvalue()
    with tifffile.TiffFile(io.BytesIO(small)) as opened:
        tags = opened.pages[0].tags
        places = [tags[code].valueoffset for code in (273, 279)]
    bomb = zlib.compress(bytes(30_000_000), 9)
    data = bytearray(small)
    struct.pack_into("<I", data, places[0], len(data))
    struct.pack_into("<I", data, places[1], len(bomb))

    with pytest.raises(BrokenImage):
        decode(bytes(data) + bomb)


# Colours


def test_cielab_becomes_the_srgb_that_it_means(file_of):
    # L*, a*, b* of black, white and sRGB's red, as the CIE's formulas give them at D50.
    lab = np.array([[[0, 0, 0], [255, 0, 0], [139, 81, 70]]], np.uint8)
    data = file_of(lab_image(lab), "TIFF")

    back = read(data)

    expected = torch.tensor([[[0, 0, 0], [255, 255, 255], [255, 0, 0]]])
    assert (back.pages[0].samples.int() - expected).abs().max() <= 8
    assert back.changed == ("CIELAB to sRGB",)


def lab_image(values):
    return PILImage.frombytes("LAB", values.shape[1::-1], values.tobytes())


@pytest.mark.parametrize("kind", ["TIFF", "JPEG"])
def test_cmyk_without_a_profile_is_refused(kind, file_of):
    with pytest.raises(UnsupportedImage, match="CMYK of 8 bits a channel, without the profile"):
        decode(file_of(PILImage.new("CMYK", (4, 4)), kind))


def test_cmyk_with_a_broken_profile_is_refused(file_of):
    with pytest.raises(BrokenImage):
        decode(file_of(PILImage.new("CMYK", (4, 4)), "TIFF", icc_profile=b"no profile" * 20))


# Other kinds


def test_a_10_bit_avif_keeps_its_depth():
    values = np.random.default_rng(0).integers(1024, size=(16, 16, 3)).astype(np.uint16)

    data = imagecodecs.avif_encode(values, bitspersample=10, level=100)
    image = decode(data)

    expected = np.round(imagecodecs.avif_decode(data) / 1023 * 65535)
    np.testing.assert_array_equal(image.samples.numpy(), expected)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_lossless_jpeg_2000_is_decoded_exactly(dtype, channels):
    values = np.random.default_rng(0).integers(np.iinfo(dtype).max + 1, size=(12, 9, channels)).astype(dtype)

    image = decode(imagecodecs.jpeg2k_encode(values.squeeze(), reversible=True))

    assert_holds(image, values)


def assert_holds(image, values):
    whole = image.samples.numpy()
    whole = whole if image.alpha is None else np.concatenate((whole, image.alpha.numpy()[..., None]), 2)
    np.testing.assert_array_equal(whole, values)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_lossless_jpeg_xl_is_decoded_exactly(channels):
    values = np.random.default_rng(0).integers(256, size=(12, 9, channels), dtype=np.uint8)

    assert_holds(decode(imagecodecs.jpegxl_encode(values.squeeze(), lossless=True)), values)


def test_a_jpeg_xl_in_linear_light_is_refused_and_not_shown_too_dark():
    linear = imagecodecs.jpegxl_encode(np.zeros((8, 8, 3), np.float32), lossless=True)

    with pytest.raises(UnsupportedImage, match="a profile or linear light instead of sRGB"):
        decode(linear)


def test_a_jpeg_xl_is_refused_by_its_header():
    data = imagecodecs.jpegxl_encode(np.zeros((300, 200, 3), np.uint8), lossless=True)

    with pytest.raises(ImageTooLarge, match="200 x 300 = 60000 pixels; at most 59999"):
        decode(data[:40], max_pixels=59999)


def test_a_heic_is_decoded_nearly(samples):
    noisy = samples(64, 48) // 8 * 8
    file = io.BytesIO()
    pillow_heif.from_pillow(PILImage.fromarray(noisy)).save(file, quality=95, chroma=444)

    image = decode(file.getvalue())

    assert image.samples.shape == (64, 48, 3)
    assert np.abs(image.samples.numpy().astype(int) - noisy).mean() < 5


# Pages


def test_the_pages_of_a_tiff_keep_their_own_sizes_and_depths():
    pages = drawn(1, np.uint16, 1, False), drawn(2, np.uint8, 3, True, (4, 9)), drawn(3, np.float32, 3, False)

    back = read(encode(File(FORMATS["tiff"], pages), FORMATS["tiff"]).data)

    assert len(back.pages) == 3
    assert all(map(same, back.pages, pages))
    assert back.durations is None


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_an_animation_keeps_its_frames_and_their_timing(kind):
    frames = tuple(drawn(seed, np.uint8, 3, False, (20, 30)) for seed in range(4))
    film = File(FORMATS["gif"], frames, (40, 50, 60, 70), 3)

    data = encode(film, FORMATS[kind]).data
    back = read(data)
    with PILImage.open(io.BytesIO(data)) as image:
        seen = image.n_frames, image.info["loop"]

    assert all(map(same, back.pages, frames))
    assert (back.durations, back.plays) == ((40, 50, 60, 70), 3)
    assert seen == (4, 3)


def test_the_frames_of_a_gif_become_one_kind_of_image(file_of):
    frames = [
        PILImage.new("L", (6, 5), 100),
        PILImage.new("RGB", (6, 5), (200, 10, 10)),
        PILImage.new("L", (6, 5), 7),
    ]

    data = file_of(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=[20, 30, 40], loop=0)
    back = read(data)

    assert back.durations == (20, 30, 40)
    assert back.plays == 0
    assert {page.samples.shape for page in back.pages} == {(5, 6, 3)}
    assert [page.samples[0, 0].tolist() for page in back.pages] == [[100] * 3, [200, 10, 10], [7] * 3]


def test_one_page_can_be_taken_alone():
    pages = tuple(drawn(seed, np.uint8, 3, False) for seed in range(3))
    data = encode(File(FORMATS["tiff"], pages), FORMATS["tiff"]).data

    [page] = read(data, page=2).pages

    assert same(page, pages[1])
    with pytest.raises(CannotWrite, match="Page 4 was asked for; the TIFF file has 3"):
        read(data, page=4)
    with pytest.raises(ImageTooLarge, match="more than 2 pages, which are taken; page= takes one"):
        read(data, max_pages=2)
    with pytest.raises(ImageTooLarge, match="first 3 pages have 105 pixels; at most 104 are taken"):
        read(data, max_pixels=104)


# What headers tell


def files():
    """Files of every kind that is read, and of each depth."""
    rng = np.random.default_rng(0)
    deep = rng.integers(2**16, size=(12, 9, 3)).astype(np.uint16)
    plain = PILImage.fromarray((deep >> 8).astype(np.uint8))
    for kind in LOSSLESS_KINDS:
        for depth in kind.writes.depths:
            page = drawn(0, DTYPES[depth], 3, False)
            yield f"{kind.name}, {depth}", encode(File(kind, (page,)), kind).data
    for kind in ("JPEG", "AVIF", "BMP", "GIF"):
        file = io.BytesIO()
        plain.save(file, kind)
        yield kind, file.getvalue()
    heic = io.BytesIO()
    pillow_heif.from_pillow(plain.resize((64, 48))).save(heic)
    yield "HEIC", heic.getvalue()
    yield "AVIF, 10 bits", imagecodecs.avif_encode(deep >> 6, bitspersample=10)
    for name, values in (("8", deep >> 8), ("16", deep)):
        dtype = np.uint8 if name == "8" else np.uint16
        yield f"JPEG 2000, {name}", imagecodecs.jpeg2k_encode(values.astype(dtype), reversible=True)
    yield "JPEG XL", imagecodecs.jpegxl_encode((deep >> 8).astype(np.uint8), lossless=True)
    pages = drawn(1, np.uint8, 1, False), drawn(2, np.uint16, 3, True, (4, 9)), drawn(3, np.uint8, 3, False)
    yield "pages", encode(File(FORMATS["tiff"], pages), FORMATS["tiff"]).data
    frames = tuple(drawn(seed, np.uint8, 3, False) for seed in range(3))
    for kind in ("png", "webp", "avif"):
        yield f"frames, {kind}", encode(File(FORMATS["gif"], frames, (40, 50, 60)), FORMATS[kind]).data
    moving = io.BytesIO()
    first, *others = [PILImage.new("RGB", (6, 5), colour) for colour in ("red", "white", "blue")]
    first.save(moving, "GIF", save_all=True, append_images=others)
    yield "frames, gif", moving.getvalue()
    shown_first = io.BytesIO()
    first.save(shown_first, "PNG", save_all=True, append_images=others, default_image=True)
    yield "frames, png without its first", shown_first.getvalue()


@pytest.mark.parametrize("data", [pytest.param(data, id=name) for name, data in files()])
def test_headers_tell_how_much_there_is_before_any_of_it_is_decoded(data):
    for page in (None, 1, len(read(data).pages)):
        file, told = read(data, page=page), outline(data, page=page)

        assert told.kind == file.kind
        assert told.pixels == sum(each.samples.shape[:2].numel() for each in file.pages)
        assert told.depth == max((each.depth for each in file.pages), key=["8", "16", "float"].index)


def test_of_a_file_whose_pixels_are_missing_the_header_still_tells(samples, file_of):
    cut = file_of(samples(300, 200))[:5000]

    assert outline(cut).pixels == 300 * 200
    with pytest.raises(BrokenImage):
        read(cut)


def test_what_is_too_large_or_no_image_is_refused_by_its_headers(file_of):
    frames = [PILImage.new("RGB", (6, 5), colour) for colour in ("red", "white", "blue")]
    moving = file_of(frames[0], "GIF", save_all=True, append_images=frames[1:])

    with pytest.raises(ImageTooLarge, match="first 3 pages have 90 pixels; at most 89 are taken"):
        outline(moving, max_pixels=89)
    with pytest.raises(ImageTooLarge, match="more than 2 pages, which are taken; page= takes one"):
        outline(moving, max_pages=2)
    with pytest.raises(NotAImage, match="This is no image"):
        outline(b"not an image")
    with pytest.raises(BrokenImage, match="PNG file's header is broken"):
        outline(b"\x89PNG\r\n\x1a\n")


# What a format cannot hold


@pytest.mark.parametrize("kind", ["jpeg", "webp", "avif"])
def test_depth_that_a_format_cannot_hold_is_told_of(kind):
    deep = File(FORMATS["png"], (drawn(0, np.uint16, 3, False),))

    written = encode(deep, FORMATS[kind])

    assert written.changed == ("16 bits a channel to 8 bits a channel",)


def test_floats_become_16_bits_in_a_png_clipped_and_rounded():
    floats = Image(torch.tensor([-1.0, 0.25, 2.0]).view(1, 3, 1))

    written = encode(File(FORMATS["tiff"], (floats,)), FORMATS["png"])

    assert written.changed == ("floating point to 16 bits a channel, clipped to what white and black are",)
    assert decode(written.data).samples.flatten().tolist() == [0, 16384, 65535]


def test_transparency_that_a_format_cannot_hold_is_refused_with_those_that_can():
    with pytest.raises(CannotWrite, match="transparency, which JPEG cannot hold; ask for PNG"):
        encode(File(FORMATS["png"], (drawn(0, np.uint8, 3, True),)), FORMATS["jpeg"])


def test_pages_that_a_format_cannot_hold_are_refused_with_those_that_can():
    pages = drawn(0, np.uint8, 3, False), drawn(1, np.uint8, 3, False)

    with pytest.raises(CannotWrite, match="2 pages, and PNG holds an animation's only; ask for TIFF, or page="):
        encode(File(FORMATS["tiff"], pages), FORMATS["png"])
    with pytest.raises(CannotWrite, match="2 pages, and JPEG holds one; ask for PNG, WebP, TIFF and AVIF"):
        encode(File(FORMATS["gif"], pages, (10, 10)), FORMATS["jpeg"])


def test_a_side_that_is_too_long_is_refused():
    with pytest.raises(CannotWrite, match="A side has 16384 pixels; WebP holds at most 16383"):
        encode(File(FORMATS["png"], (drawn(0, np.uint8, 3, False, (1, 16384)),)), FORMATS["webp"])


@pytest.mark.parametrize(("kind", "low", "high"), [("jpeg", 30, 95), ("webp", 30, 95), ("avif", 30, 95)])
def test_quality_costs_bytes(kind, low, high, samples):
    file = File(FORMATS["png"], (Image(torch.from_numpy(samples(64, 64))),))

    sizes = [len(encode(file, FORMATS[kind], quality).data) for quality in (low, high)]

    assert sizes[0] < sizes[1]


def test_codecs_that_few_need_are_imported_when_they_are_needed():
    program = "import engine.imageio, sys; print({'tifffile', 'imagecodecs', 'pillow_heif'} & set(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert loaded.stdout.strip() == "set()"


def test_a_file_is_read_as_8_bit_rgb_whatever_it_is(tmp_path, file_of, samples):
    noisy = samples(4, 6, 1)
    file = tmp_path / "grey.png"
    file.write_bytes(file_of(noisy))

    pixels = read_rgb(file)

    assert pixels.dtype == torch.uint8
    np.testing.assert_array_equal(pixels, noisy.repeat(3, axis=2))


def test_a_broken_file_is_named(tmp_path):
    file = tmp_path / "notes.png"
    file.write_bytes(b"no image")

    with pytest.raises(NotAImage, match=r"notes\.png: This is no image"):
        read_rgb(file)


def test_the_images_of_a_folder_are_found_in_order_of_name(tmp_path):
    for name in ("b.JPG", "a.png", "notes.txt", "._b.JPG", "c.tiff"):
        (tmp_path / name).touch()

    assert [file.name for file in image_files(tmp_path)] == ["a.png", "b.JPG", "c.tiff"]


def test_a_folder_without_images_is_an_error_that_names_it(tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path}: no images in this folder"):
        image_files(tmp_path)
    with pytest.raises(ValueError, match="nowhere: no such folder"):
        image_files(tmp_path / "nowhere")
