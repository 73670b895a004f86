"""Malicious files: small files that claim to be large, and files with wrong sizes or lengths. Each is refused."""

import io
import struct
import tracemalloc
import zlib

import astropy.io.fits
import imagecodecs
import numpy as np
import pillow_heif
import pytest
import tifffile
from PIL import Image

from engine.imageio.formats import BrokenImage, ImageTooLarge
from engine.imageio.read import read
from tests.support import czi_files
from tests.support.czi_files import Tile, czi_file
from tests.support.nd2_files import LOSSLESS, NONE, nd2_file

WIDTH = 128
HEIGHT = 64
MAX_PIXELS = 50_000_000
NOISE = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def by_pillow(kind, values=NOISE, **options):
    file = io.BytesIO()
    Image.fromarray(values).save(file, kind, **options)
    return file.getvalue()


def changed(data, old, new, after=b""):
    """Replaces the first occurrence of `old` that follows the first occurrence of `after`."""
    at = data.index(old, data.index(after) + len(after))
    return data[:at] + new + data[at + len(old) :]


def png(width, height, data=None):
    data = data or by_pillow("PNG")
    body = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
    return data[:12] + body + struct.pack(">I", zlib.crc32(body)) + data[33:]


def jpeg(width, height):
    sizes = (struct.pack(">HH", high, wide) for wide, high in ((WIDTH, HEIGHT), (width, height)))
    return changed(by_pillow("JPEG"), *sizes, after=b"\xff\xc0")


def gif_screen(width, height):
    data = by_pillow("GIF")
    return data[:6] + struct.pack("<HH", width, height) + data[10:]


def gif_frame(width, height):
    old, new = (b"," + struct.pack("<4H", 0, 0, *size) for size in ((WIDTH, HEIGHT), (width, height)))
    return changed(by_pillow("GIF"), old, new)


def bmp(width, height):
    data = by_pillow("BMP")
    return data[:18] + struct.pack("<ii", width, height) + data[26:]


def tiff(width, height, compression=None):
    file = io.BytesIO()
    tifffile.imwrite(file, NOISE, photometric="rgb", compression=compression)
    data = bytearray(file.getvalue())
    with tifffile.TiffFile(io.BytesIO(data)) as opened:
        tags = opened.pages[0].tags
        for code, value in ((256, width), (257, height)):
            struct.pack_into("<I" if tags[code].dtype == 4 else "<H", data, tags[code].valueoffset, value)
    return bytes(data)


def tiff_deflated(width, height):
    return tiff(width, height, "zlib")


def webp_lossy(width, height):
    old, new = (struct.pack("<HH", *size) for size in ((WIDTH, HEIGHT), (width, height)))
    return changed(by_pillow("WEBP", quality=80), old, new, after=b"\x9d\x01\x2a")


def webp_lossless(width, height):
    old, new = (
        struct.pack("<I", (wide - 1) % 2**14 | (high - 1) % 2**14 << 14)
        for wide, high in ((WIDTH, HEIGHT), (width, height))
    )
    return changed(by_pillow("WEBP", lossless=True), old, new, after=b"VP8L")


def webp_moving(width, height):
    frames = [Image.fromarray(NOISE), Image.fromarray(255 - NOISE)]
    data = io.BytesIO()
    frames[0].save(data, "WEBP", save_all=True, append_images=frames[1:])
    old, new = (
        b"".join(struct.pack("<I", (side - 1) % 2**24)[:3] for side in size)
        for size in ((WIDTH, HEIGHT), (width, height))
    )
    return changed(data.getvalue(), old, new, after=b"VP8X")


def with_ispe(data, width, height):
    old, new = (b"ispe" + struct.pack(">III", 0, *size) for size in ((WIDTH, HEIGHT), (width, height)))
    return changed(data, old, new)


def avif(width, height):
    return with_ispe(by_pillow("AVIF"), width, height)


def heic(width, height):
    file = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(NOISE)).save(file)
    return with_ispe(file.getvalue(), width, height)


def jpeg_2000(width, height):
    data = imagecodecs.jpeg2k_encode(NOISE)
    at = data.index(b"\xff\x51")
    return data[: at + 6] + struct.pack(">II", width, height) + data[at + 14 :]


def jpeg_xl(width, height):
    """A header alone: it is not a "small" one, has both sides in 30 bits, and the default for all else."""

    def side(value):
        return "11" + f"{value - 1 & 2**30 - 1:030b}"[::-1]

    bits = "0" + side(height) + "000" + side(width) + "1"
    return b"\xff\x0a" + int(bits[::-1], 2).to_bytes(16, "little")


def fits(width, height):
    file = io.BytesIO()
    astropy.io.fits.PrimaryHDU(NOISE[..., 0]).writeto(file)
    return fits_size(file.getvalue(), b"NAXIS", width, height)


def fits_compressed(width, height):
    file = io.BytesIO()
    unit = astropy.io.fits.CompImageHDU(NOISE[..., 0].astype(np.int16))
    astropy.io.fits.HDUList([astropy.io.fits.PrimaryHDU(), unit]).writeto(file)
    return fits_size(file.getvalue(), b"ZNAXIS", width, height)


def fits_size(data, name, width, height):
    for axis, old, new in ((b"1", WIDTH, width), (b"2", HEIGHT, height)):
        keyword = (name + axis).ljust(8) + b"= "
        data = changed(data, keyword + b"%20d" % old, keyword + b"%20d" % new)
    return data


def mrc(width, height):
    header = struct.pack("<10i", width, height, 1, 0, 0, 0, 0, width, height, 1)
    return header.ljust(208, b"\0") + b"MAP DD\0\0" + bytes(1024 - 216) + NOISE[..., 0].tobytes()


def czi(width, height, compression="none"):
    data = czi_file(Tile(NOISE[..., 0], compression=compression))
    for name, old, new in ((b"X", WIDTH, width), (b"Y", HEIGHT, height)):
        # The start, the size, a coordinate, and the stored size.
        old, new = (name.ljust(8, b"\0") + struct.pack("<ifi", side, 0, side) for side in (old, new))
        data = data.replace(old, new)
    return data


def czi_zstd(width, height):
    return czi(width, height, "zstd")


def czi_jpeg_xr(width, height):
    return czi(width, height, "jpeg xr")


def nd2(width, height, compression=NONE):
    data = nd2_file(NOISE[None, ..., :1], compression=compression)
    for name, old, new in (
        ("uiWidth", WIDTH, width),
        ("uiWidthBytes", WIDTH, width),
        ("uiHeight", HEIGHT, height),
    ):
        head = f"{name}\0".encode("utf-16-le")
        data = changed(data, head + struct.pack("<I", old), head + struct.pack("<I", new))
    return data


def nd2_compressed(width, height):
    return nd2(width, height, LOSSLESS)


# How each format makes an image of any claimed size, and the side to claim.
LARGE = [
    (png, 60_000), (jpeg, 60_000), (gif_screen, 60_000), (gif_frame, 60_000), (bmp, 60_000), (tiff, 60_000),
    (tiff_deflated, 60_000), (webp_lossy, 16_383), (webp_lossless, 16_384), (webp_moving, 16_384), (avif, 16_384),
    (heic, 60_000), (jpeg_2000, 60_000), (jpeg_xl, 60_000), (fits, 60_000), (fits_compressed, 60_000),
    (mrc, 60_000), (czi, 60_000), (czi_zstd, 60_000), (czi_jpeg_xr, 60_000), (nd2, 60_000),
    (nd2_compressed, 60_000),
]  # fmt: skip


def name_of(value):
    return getattr(value, "__name__", None)


@pytest.mark.parametrize(("make", "side"), LARGE, ids=name_of)
def test_a_small_file_of_a_large_image_is_refused_by_its_header(make, side):
    data = make(side, side)

    assert len(data) < 40_000
    with pytest.raises(ImageTooLarge, match=f"{side} x {side} = {side * side} pixels; the limit is {MAX_PIXELS}"):
        read(data, MAX_PIXELS)


@pytest.mark.parametrize("make", [make for make, _ in LARGE if make is not gif_screen], ids=name_of)
@pytest.mark.parametrize("size", [(0, 0), (0, HEIGHT), (WIDTH, 0)])
def test_an_image_without_pixels_is_broken(make, size):
    # Some formats store the side less 1, so for 0 the file claims the largest side.
    with pytest.raises((BrokenImage, ImageTooLarge)):
        read(make(*size), MAX_PIXELS)


@pytest.mark.parametrize(
    "make",
    [
        png,
        gif_frame,
        bmp,
        tiff,
        tiff_deflated,
        webp_lossy,
        heic,
        jpeg_2000,
        fits,
        mrc,
        czi,
        czi_zstd,
        czi_jpeg_xr,
        nd2,
        nd2_compressed,
    ],
    ids=name_of,
)
@pytest.mark.parametrize("size", [(WIDTH, 2 * HEIGHT), (2 * WIDTH, HEIGHT), (4 * WIDTH, 4 * HEIGHT)])
def test_an_image_with_fewer_pixels_than_it_claims_is_broken(make, size):
    with pytest.raises(BrokenImage):
        read(make(*size), MAX_PIXELS)


def png_of(rows, width, height, is_interlaced=0):
    """A PNG file. rows: RGB, each after the number of its filter."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, is_interlaced)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    )


def interlaced(values):
    """An interlaced PNG file, in seven passes. values: (H, W, 3)."""
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    rows = b"".join(
        b"\0" + row.tobytes()
        for top, left, down, across in passes
        for row in values[top::down, left::across]
        if row.size
    )
    return png_of(rows, values.shape[1], values.shape[0], 1)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
@pytest.mark.parametrize("size", [(1, 1), (9, 3), (8, 2)])
def test_a_png_without_its_last_row_is_broken_a_black_one_is_not(mode, size):
    black = np.zeros((*size[::-1], 4), np.uint8)
    file = io.BytesIO()
    Image.fromarray(black).convert(mode).save(file, "PNG")

    assert read(file.getvalue()).pages[0].samples.shape[:2] == size[::-1]
    with pytest.raises(BrokenImage, match="rows are missing"):
        read(png(size[0], size[1] + 1, file.getvalue()))


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (17, 9), (8, 16)])
def test_an_interlaced_png_is_read_whole_or_not_at_all(size):
    values = NOISE[: size[1], : size[0]]
    whole, black = interlaced(values), interlaced(np.zeros_like(values))

    np.testing.assert_array_equal(read(whole).pages[0].samples.numpy(), values)
    assert not read(black).pages[0].samples.any()
    with pytest.raises(BrokenImage):
        read(png(size[0], size[1] + 8, whole))


def test_a_png_that_is_compressed_a_thousandfold_is_read():
    file = io.BytesIO()
    Image.new("L", (3000, 2000)).save(file, "PNG", compress_level=9)

    assert len(file.getvalue()) < 3000 * 2000 / 900
    assert not read(file.getvalue()).pages[0].samples.any()


def test_a_png_bomb_is_not_decompressed_to_its_end():
    bomb = png_of(bytes(200_000_000), 4, 4)

    assert peak_of_reading(bomb) < 10_000_000


def test_an_nd2_bomb_is_not_decompressed_to_its_end():
    bomb = nd2_file(np.zeros((1, 100_000, 1000, 1), np.uint8), compression=LOSSLESS)
    for name, old, new in (("uiHeight", 100_000, 4), ("uiWidth", 1000, 4), ("uiWidthBytes", 1000, 4)):
        head = f"{name}\0".encode("utf-16-le")
        bomb = changed(bomb, head + struct.pack("<I", old), head + struct.pack("<I", new))
    # The package is imported before memory is measured.
    read(nd2(WIDTH, HEIGHT))

    assert peak_of_reading(bomb) < 10_000_000


def peak_of_reading(bomb):
    """The most memory that is taken while an image of 4 x 4 pixels is read, in bytes."""
    tracemalloc.start()
    image = read(bomb).pages[0]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert image.samples.shape[:2] == (4, 4)
    return peak


def test_a_czi_bomb_is_not_decompressed_to_its_end(monkeypatch):
    bomb = imagecodecs.zstd_encode(bytes(200_000_000))
    monkeypatch.setattr(czi_files, "packed", lambda tile: bomb)

    with pytest.raises(BrokenImage, match="CZI file is broken"):
        read(czi_file(Tile(NOISE[..., 0], compression="zstd")))


LARGEST = 2**31 - 1
WRONG_LENGTHS = {
    "png, its pixels": changed(by_pillow("PNG"), by_pillow("PNG")[33:37], struct.pack(">I", 99), after=b"IHDR"),
    "png, its profile": changed(by_pillow("PNG", icc_profile=bytes(500)), b"iCCP", b"iCCP\xff\xff\xff"),
    "jpeg, its exif": changed(by_pillow("JPEG", exif=Image.Exif()), b"\xff\xe0\0\x10", b"\xff\xe0\xff\xff"),
    "jpeg, its tables": changed(by_pillow("JPEG"), b"\xff\xdb\0\x43", b"\xff\xdb\0\1"),
    "webp": changed(by_pillow("WEBP", quality=80), b"VP8 ", b"VP8 \xff\xff\xff\x7f"),
    "tiff, its strips": changed(tiff(WIDTH, HEIGHT), struct.pack("<I", NOISE.size), struct.pack("<I", LARGEST)),
    "tiff, its tags": changed(tiff(WIDTH, HEIGHT), b"\0\1\4\0\1\0\0\0", b"\0\1\4\0" + struct.pack("<I", LARGEST)),
    "avif, a box": changed(avif(WIDTH, HEIGHT), b"\0\0\0\x14ispe", b"\0\0\0\4ispe"),
    "avif, a box of 64 bits": changed(avif(WIDTH, HEIGHT), b"\0\0\0\x14ispe", b"\0\0\0\1ispe"),
    "heic, a box": changed(heic(WIDTH, HEIGHT), b"\0\0\0\x14ispe", b"\x7f\xff\xff\xffispe"),
    "jpeg 2000, a box": changed(jpeg_2000(WIDTH, HEIGHT), b"jp2h", b"jp2x"),
    "jpeg 2000, a tile": changed(jpeg_2000(WIDTH, HEIGHT), b"\xff\x90\0\x0a", b"\xff\x90\xff\xff"),
    "bmp, where its pixels are": changed(by_pillow("BMP"), struct.pack("<I", 54), struct.pack("<I", LARGEST)),
}


@pytest.mark.parametrize("data", WRONG_LENGTHS.values(), ids=WRONG_LENGTHS)
def test_a_file_with_a_wrong_length_is_broken(data):
    with pytest.raises(BrokenImage):
        read(data)


def test_an_animation_with_too_many_frames_is_refused():
    frames = [Image.new("1", (1, 1), number % 2) for number in range(3000)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])

    with pytest.raises(ImageTooLarge, match="more than 100 pages"):
        read(file.getvalue())
