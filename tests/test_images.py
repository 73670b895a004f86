"""Bytes to pixels and back."""

import re
import struct
import zlib
from dataclasses import replace
from io import BytesIO
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image

from engine.images import (
    STRIP,
    BrokenPicture,
    NotAPicture,
    Picture,
    PictureTooLarge,
    UnsupportedPicture,
    decode,
    encode_png,
    picture_files,
    read_rgb,
    to_pixels,
    to_samples,
)

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

    picture = decode(file_of(noisy, kind, **LOSSLESS[kind]))

    assert picture.samples.dtype == torch.uint8
    assert picture.samples.is_contiguous()
    assert picture.pixels.dtype == torch.float32
    assert picture.pixels.is_contiguous()
    np.testing.assert_array_equal(to_8_bits(picture.pixels), noisy)
    assert not picture.grey
    assert picture.alpha is None
    assert picture.depth == 8


def test_a_jpeg_is_decoded_nearly(samples, file_of):
    noisy = samples(40, 50) // 8 * 8

    picture = decode(file_of(noisy, "JPEG", quality=95, subsampling=0))

    assert np.abs(to_8_bits(picture.pixels).astype(int) - noisy).mean() < 5


def test_of_a_gif_the_first_frame_is_taken(file_of):
    frames = [Image.new("RGB", (6, 5), colour) for colour in ("#204060", "#ffffff")]

    picture = decode(file_of(frames[0], "GIF", save_all=True, append_images=frames[1:]))

    assert np.all(to_8_bits(picture.pixels) == (0x20, 0x40, 0x60))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF"])
def test_a_grey_picture_has_three_equal_channels_and_goes_back_grey(kind, samples, file_of):
    noisy = samples(7, 5, 1)

    picture = decode(file_of(noisy, kind))
    with Image.open(BytesIO(encode_png(picture))) as returned:
        mode, values = returned.mode, np.array(returned)

    assert picture.grey
    np.testing.assert_array_equal(to_8_bits(picture.pixels), noisy.repeat(3, axis=2))
    assert mode == "L"
    np.testing.assert_array_equal(values, noisy[..., 0])


def test_a_bilevel_scan_is_grey(file_of):
    scan = Image.new("1", (8, 3))
    scan.putpixel((5, 1), 1)

    picture = decode(file_of(scan, "TIFF", compression="group4"))

    assert picture.grey
    assert picture.pixels.sum() == 3
    assert picture.pixels[1, 5].tolist() == [1, 1, 1]


@pytest.mark.parametrize("channels", [2, 4], ids=["grey", "rgb"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_alpha_is_carried_through_untouched(kind, channels, samples, file_of):
    noisy = samples(6, 11, channels)

    picture = decode(file_of(noisy, kind))
    darker = encode_png(replace(picture, samples=picture.samples // 2))
    with Image.open(BytesIO(darker)) as returned:
        values = np.array(returned)

    np.testing.assert_array_equal(picture.alpha, noisy[..., -1])
    np.testing.assert_array_equal(values[..., -1], noisy[..., -1])
    assert values.shape == noisy.shape
    np.testing.assert_array_equal(values[..., :-1], noisy[..., :-1] // 2)


def test_a_palettes_colours_and_its_transparent_entry_are_kept(file_of):
    picture = Image.new("P", (4, 2), 1)
    picture.putpalette([200, 0, 0, 10, 20, 30])
    picture.putpixel((3, 1), 0)

    decoded = decode(file_of(picture, transparency=0))

    assert to_8_bits(decoded.pixels)[0, 0].tolist() == [10, 20, 30]
    assert to_8_bits(decoded.pixels)[1, 3].tolist() == [200, 0, 0]
    assert decoded.alpha.tolist() == [[255, 255, 255, 255], [255, 255, 255, 0]]


@pytest.mark.parametrize(
    ("value", "turned"),
    [(1, lambda a: a), (3, lambda a: a[::-1, ::-1]), (6, lambda a: np.rot90(a, -1)), (8, np.rot90)],
)
def test_a_picture_is_turned_as_its_exif_says(value, turned, samples, file_of):
    noisy = samples(5, 8, 4)
    exif = Image.Exif()
    exif[ORIENTATION] = value

    picture = decode(file_of(noisy, exif=exif))

    np.testing.assert_array_equal(to_8_bits(picture.pixels), turned(noisy)[..., :3])
    np.testing.assert_array_equal(picture.alpha, turned(noisy)[..., 3])


def test_the_returned_file_does_not_ask_to_be_turned_again(samples, file_of):
    exif = Image.Exif()
    exif[ORIENTATION] = 6

    once = encode_png(decode(file_of(samples(5, 8), exif=exif)))

    torch.testing.assert_close(decode(once).pixels, decode(encode_png(decode(once))).pixels)
    assert decode(once).pixels.shape == (8, 5, 3)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_goes_there_and_back_exactly(kind, file_of):
    values = np.arange(0, 65536, 257).astype(np.uint16).reshape(16, 16)
    values[3, 4] = 12345

    picture = decode(file_of(values, kind))
    with Image.open(BytesIO(encode_png(picture))) as returned:
        mode, back = returned.mode, np.array(returned)

    assert (picture.grey, picture.depth) == (True, 16)
    assert picture.pixels[3, 4, 0] == pytest.approx(12345 / 65535)
    assert mode == "I;16"
    np.testing.assert_array_equal(back, values)


def test_the_colour_profile_goes_back(samples, file_of):
    profile = bytes(range(200))

    picture = decode(file_of(samples(3, 3), icc_profile=profile))
    with Image.open(BytesIO(encode_png(picture))) as returned:
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
def test_a_png_of_any_level_holds_the_same_picture(level, samples):
    picture = Picture(torch.from_numpy(samples(20, 30)))

    assert torch.equal(decode(encode_png(picture, level)).samples, picture.samples)


def test_pictures_of_many_strips_are_decoded_whole(samples, file_of):
    noisy = samples(2 * STRIP + 3, 4, 2)

    picture = decode(file_of(noisy))

    np.testing.assert_array_equal(picture.samples, noisy[..., :1])
    np.testing.assert_array_equal(picture.alpha, noisy[..., 1])


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1)])
@pytest.mark.parametrize("grey", [True, False])
def test_pictures_of_one_pixel_or_line_go_there_and_back(size, grey):
    picture = decode(encode_png(Picture(torch.full((*size, 1 if grey else 3), 51, dtype=torch.uint8))))

    assert picture.pixels.shape == (*size, 3)
    assert picture.grey == grey
    torch.testing.assert_close(picture.pixels, torch.full((*size, 3), 0.2))


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (b"", NotAPicture, "0 bytes came; taken are JPEG, PNG, WebP"),
        (b"hello, I am text", NotAPicture, re.escape("16 bytes that begin with b'hello, I am '; taken are")),
        (b"\0\0\0\x1cftypheic\0\0\0\0", UnsupportedPicture, "HEIC or AVIF; taken are"),
        (b"%PDF-1.7", UnsupportedPicture, "PDF; taken are"),
        (b"\x89PNG\r\n\x1a\n", BrokenPicture, "PNG file's header is broken"),
    ],
)
def test_what_is_no_picture_is_refused_by_name(data, error, message):
    with pytest.raises(error, match=message):
        decode(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
@pytest.mark.parametrize("part", [0.02, 0.5, 0.9])
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_a_file_cut_short_is_broken_never_half_a_picture(kind, part, samples, file_of):
    whole = file_of(samples(40, 50), kind)

    with pytest.raises(BrokenPicture, match=f"The {kind} file"):
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
        except (NotAPicture, BrokenPicture, UnsupportedPicture, PictureTooLarge):
            refused += 1

    assert refused > 5


@pytest.mark.parametrize(
    ("mode", "name"),
    [("CMYK", "CMYK of 8 bits"), ("F", "floating-point grey of 32 bits"), ("I", "grey of 32 bits")],
)
def test_pixels_we_do_not_take_are_named(mode, name, file_of):
    with pytest.raises(UnsupportedPicture, match=f"pixels are {name} a channel; taken are RGB of 8 bits"):
        decode(file_of(Image.new(mode, (4, 4)), "TIFF"))


@pytest.mark.parametrize(("colour_type", "samples_"), [(2, 3), (4, 2), (6, 4)])
def test_16_bit_colour_is_refused_and_not_silently_cut_to_8(colour_type, samples_):
    with pytest.raises(UnsupportedPicture, match="colour of 16 bits a channel"):
        decode(png_by_hand(16, colour_type, bytes(2 * samples_)))


def test_16_bit_grey_with_a_transparent_value_is_refused():
    with pytest.raises(UnsupportedPicture, match="grey with a transparent colour of 16 bits"):
        decode(png_by_hand(16, 0, b"\1\2", chunk=b"tRNS\1\2"))


def test_a_picture_is_refused_by_its_header_before_its_pixels_are_read(file_of):
    header_alone = file_of(Image.new("L", (20, 10)))[:45]

    with pytest.raises(PictureTooLarge, match="20 x 10 = 200 pixels; at most 199 are taken"):
        decode(header_alone, max_pixels=199)


def test_a_picture_of_just_the_limit_is_taken(file_of):
    picture = decode(file_of(Image.new("L", (20, 10))), max_pixels=200)

    assert picture.pixels.shape == (10, 20, 3)


def test_a_file_is_read_as_8_bit_rgb_whatever_it_is(tmp_path, file_of, samples):
    noisy = samples(4, 6, 1)
    file = tmp_path / "grey.png"
    file.write_bytes(file_of(noisy))

    pixels = read_rgb(file)

    assert pixels.dtype == torch.uint8
    np.testing.assert_array_equal(pixels, noisy.repeat(3, axis=2))


def test_a_broken_file_is_named(tmp_path):
    file = tmp_path / "notes.png"
    file.write_bytes(b"no picture")

    with pytest.raises(NotAPicture, match=r"notes\.png: This is no picture"):
        read_rgb(file)


def test_the_pictures_of_a_folder_are_found_in_order_of_name(tmp_path):
    for name in ("b.JPG", "a.png", "notes.txt", "._b.JPG", "c.tiff"):
        (tmp_path / name).touch()

    assert [file.name for file in picture_files(tmp_path)] == ["a.png", "b.JPG", "c.tiff"]


def test_a_folder_without_pictures_is_an_error_that_names_it(tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path}: no pictures in this folder"):
        picture_files(tmp_path)
    with pytest.raises(ValueError, match="nowhere: no such folder"):
        picture_files(tmp_path / "nowhere")
