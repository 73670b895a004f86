"""TIFF files."""

import io
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile

from engine.imageio.formats import FORMATS, BrokenImage, UnsupportedImage
from engine.imageio.image import to_array
from engine.imageio.read import decode, read, read_info
from engine.imageio.write import encode


def saved(values, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, values, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    "layout",
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
        {"compression": "zstd", "predictor": True},
        {"compression": "lzma", "predictor": True, "tile": (16, 16)},
        {"compression": "lerc"},
        {"compression": "lerc", "rowsperstrip": 8},
        {"compression": "lerc", "compressionargs": {"compression": "zstd"}, "tile": (16, 16)},
        {"compression": "lerc", "compressionargs": {"compression": "deflate"}},
        {"compression": "lerc", "planarconfig": "separate", "photometric": "rgb"},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "dtype", [np.uint8, np.uint16, np.float32, np.int8, np.int16, np.int32, np.uint32, np.float64]
)
def test_every_layout_is_read(layout, dtype):
    values = (np.random.default_rng(0).random((37, 41, 3), np.float32) * 100).astype(dtype)
    file = io.BytesIO()
    planes = values.transpose(2, 0, 1).copy() if layout.get("planarconfig") else values
    tifffile.imwrite(file, planes, **{"photometric": "rgb", **layout})

    np.testing.assert_array_equal(decode(file.getvalue()).samples.numpy(), values)


def test_white_at_0_is_inverted():
    file = io.BytesIO()
    tifffile.imwrite(file, np.array([[0, 1000]], np.uint16), photometric="miniswhite")

    assert decode(file.getvalue()).samples.flatten().tolist() == [65535, 64535]


def test_float16_becomes_float32_and_is_reported():
    file = io.BytesIO()
    tifffile.imwrite(file, np.array([[0.5, 2.0]], np.float16))

    back = read(file.getvalue())

    assert back.pages[0].samples.flatten().tolist() == [0.5, 2.0]
    assert back.changed == ("float16 to float32",)


@pytest.mark.parametrize(
    ("values", "options", "fault"),
    [
        (np.zeros((4, 4), np.int64), {}, "signed integers of 64 bits"),
        (np.zeros((4, 4), np.uint64), {}, "colour or grey of 64 bits"),
        (np.zeros((4, 4), np.int16), {"photometric": "miniswhite"}, "signed integers in which 0 is white"),
        (np.zeros((4, 4), np.complex64), {}, "complex numbers"),
        (np.zeros((4, 4, 4), np.uint16), {"photometric": "separated"}, "CMYK of 16 bits"),
        (
            np.zeros((4, 4, 5), np.uint16),
            {"photometric": "rgb", "planarconfig": "contig", "extrasamples": ["unspecified"] * 2},
            "one of which is neither",
        ),
        (np.zeros((4, 4, 2), np.uint8), {"planarconfig": "contig"}, "one of which is neither"),
        (
            np.zeros((4, 4, 4), np.uint16),
            {"photometric": "rgb", "extrasamples": ["assocalpha"]},
            "multiplied by their transparency",
        ),
    ],
)
def test_pixels_that_are_not_supported_are_named(values, options, fault):
    file = io.BytesIO()
    tifffile.imwrite(file, values, **{"photometric": "minisblack", **options})

    with pytest.raises(UnsupportedImage, match=f"{fault}.*Supported pixels: RGB and grey"):
        decode(file.getvalue())


@pytest.mark.parametrize(
    ("compression", "name", "dtype"),
    [
        ("png", "PNG", np.uint8),
        ("png", "PNG", np.uint16),
        ("jpeg2000", "JPEG 2000", np.uint8),
        ("jpeg2000", "JPEG 2000", np.uint16),
        ("jpegxl", "JPEG XL", np.uint8),
        ("jpegxl", "JPEG XL", np.uint16),
        ("webp", "WebP", np.uint8),
    ],
)
def test_a_compression_that_is_not_supported_is_named(compression, name, dtype):
    data = saved(np.zeros((16, 16, 3), dtype), compression=compression, photometric="rgb")

    with pytest.raises(UnsupportedImage, match=f"compression is {name}. Supported are none, LZW"):
        decode(data)


def test_a_compression_without_a_name_is_numbered():
    data = bytearray(saved(np.zeros((4, 4), np.uint16)))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        struct.pack_into("<H", data, file.pages[0].tags[259].valueoffset, 32809)

    with pytest.raises(UnsupportedImage, match="compression is number 32809"):
        decode(bytes(data))


def test_a_segment_that_decompresses_beyond_its_size_is_refused():
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


def lerc_file(block, order="<"):
    """A file of 8 x 8 floats that are in this block."""
    data = bytearray(saved(np.zeros((8, 8), np.float32), byteorder=order) + block)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        places = {code: file.pages[0].tags[code].valueoffset for code in (259, 273, 279)}
    struct.pack_into(f"{order}H", data, places[259], 34887)
    struct.pack_into(f"{order}I", data, places[273], len(data) - len(block))
    struct.pack_into(f"{order}I", data, places[279], len(block))
    return bytes(data)


@pytest.mark.parametrize("shape", [(4000, 4000), (8, 4000), (7, 8)])
def test_a_lerc_block_of_another_size_is_refused(shape):
    with pytest.raises(BrokenImage, match="The TIFF file is broken"):
        decode(lerc_file(imagecodecs.lerc_encode(np.zeros(shape, np.float32))))


@pytest.mark.parametrize("order", ["<", ">"])
def test_floats_that_lerc_leaves_out_are_missing(order):
    present = np.ones((8, 8), bool)
    present[2, 3] = False

    data = lerc_file(imagecodecs.lerc_encode(np.ones((8, 8), np.float32), masks=present), order)

    np.testing.assert_array_equal(to_array(decode(data)), np.where(present, 1, np.nan))


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.uint32, np.float64])
def test_other_types_are_written_as_they_were(dtype):
    values = (100 * np.random.default_rng(0).random((20, 30))).astype(dtype)

    back = encode(read(saved(values)), FORMATS["tiff"])

    again = tifffile.imread(io.BytesIO(back.data))
    assert again.dtype == dtype
    np.testing.assert_allclose(again, values, rtol=1e-7)
    inexact = ("64-bit floats to the precision of 32-bit floats",) if dtype == np.float64 else ()
    assert back.changed == inexact


@pytest.mark.parametrize("value", [np.nan, np.inf, -9999.0, -3.4028234663852886e38])
def test_missing_values_are_written_as_they_were(value):
    values = np.random.default_rng(0).random((20, 30)).astype(np.float32)
    values[5:9, 3:30] = value
    data = saved(values, extratags=[(42113, 2, 6, "-9999", True)])

    file = read(data)

    assert read_info(data).depth == file.pages[0].depth == "float"
    assert float(file.pages[0].samples.min()) >= 0
    np.testing.assert_array_equal(tifffile.imread(io.BytesIO(encode(file, FORMATS["tiff"]).data)), values)


@pytest.mark.parametrize(("bits", "to"), [(1, 8), (4, 8), (10, 16), (12, 16), (14, 16)])
def test_integers_that_are_scaled_are_reported(bits, to):
    dtype = bool if bits == 1 else np.uint8 if bits < 8 else np.uint16
    values = np.arange(2).reshape(1, 2).astype(dtype)

    file = read(saved(values, bitspersample=bits))

    assert file.changed == (f"{bits} bit{'s' * (bits > 1)} to {to}, scaled",)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_fourth_channel_without_meaning_is_transparency(dtype):
    values = np.arange(4 * 5 * 4).reshape(4, 5, 4).astype(dtype)

    file = read(saved(values, photometric="rgb", extrasamples=["unspecified"]))

    np.testing.assert_array_equal(to_array(file.pages[0]), values)
    assert file.changed == ("the fourth channel, of no stated meaning, taken for transparency",)


# Which images of a file are pages


def written(*pages, **options):
    file = io.BytesIO()
    with tifffile.TiffWriter(file, **options) as writer:
        for values, more in pages:
            writer.write(values, metadata=None, photometric="minisblack", **more)
    return file.getvalue()


FULL = np.arange(64 * 48, dtype=np.uint16).reshape(48, 64)


@pytest.mark.parametrize(
    "pages",
    [
        [(FULL, {}), (FULL[::2, ::2], {"subfiletype": 1}), (FULL[::4, ::4], {"subfiletype": 1})],
        [(FULL, {"subifds": 2}), (FULL[::2, ::2], {"subfiletype": 1}), (FULL[::4, ::4], {"subfiletype": 1})],
        [(FULL[::2, ::2], {"subfiletype": 1}), (FULL, {})],
        [(FULL, {"description": "Aperio Image Library"}), (FULL[::2, ::2], {}), (FULL[::4, ::4], {})],
    ],
    ids=["overviews", "pyramid beneath", "preview first", "slide"],
)
def test_smaller_copies_and_masks_are_no_pages(pages):
    file = read(written(*pages))

    assert len(file.pages) == 1
    np.testing.assert_array_equal(file.pages[0].samples[..., 0], FULL)


def test_a_mask_is_no_page():
    data = bytearray(written((FULL, {}), (FULL[:10], {"subfiletype": 1})))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        struct.pack_into("<I", data, file.pages[1].tags[254].valueoffset, 4)

    assert len(read(bytes(data)).pages) == 1


def test_a_file_of_a_preview_alone_is_read():
    assert len(read(written((FULL, {"subfiletype": 1}))).pages) == 1


STACK = np.arange(6 * 16 * 16, dtype=np.uint16).reshape(6, 16, 16)


@pytest.mark.parametrize(
    "options",
    [
        {"imagej": True, "truncate": True, "metadata": {"axes": "ZYX"}},
        {"truncate": True, "photometric": "minisblack"},
        {"truncate": True, "photometric": "minisblack", "rowsperstrip": 5},
    ],
)
def test_a_stack_behind_one_directory_comes_back_whole(options):
    data = saved(STACK, **options)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        assert len(file.pages) == 1

    back = encode(read(data), FORMATS["tiff"])

    with tifffile.TiffFile(io.BytesIO(back.data)) as file:
        assert len(file.pages) == 6
        np.testing.assert_array_equal(file.asarray(), STACK)
    np.testing.assert_array_equal(decode_page(data, 4), STACK[3])


def decode_page(data, page):
    return read(data, page=page).pages[0].samples[..., 0]


def test_a_stack_in_colours_behind_one_directory_comes_back_whole():
    values = np.random.default_rng(0).integers(255, size=(3, 8, 9, 3)).astype(np.uint8)

    file = read(saved(values, truncate=True, photometric="rgb"))

    np.testing.assert_array_equal(np.stack([page.samples for page in file.pages]), values)


def test_a_metamorph_stack_comes_back_whole_without_its_tags():
    data = saved(STACK[0], metadata=None, extratags=[(33628, 4, 1, 0, True), (33629, 5, 6, (1, 1) * 6, True)])
    data = bytearray(data + STACK[1:].tobytes())

    back = encode(read(bytes(data)), FORMATS["tiff"])

    with tifffile.TiffFile(io.BytesIO(back.data)) as file:
        np.testing.assert_array_equal(np.stack([page.asarray() for page in file.pages]), STACK)
        assert not file.is_stk
    assert back.changed[0].startswith("without MetaMorph's description")


def test_a_stack_that_is_cut_short_is_broken():
    data = saved(STACK, imagej=True, truncate=True, metadata={"axes": "ZYX"})

    with pytest.raises(BrokenImage, match="6 images were in it, and 4 are left"):
        read(data[: -2 * STACK[0].nbytes + 9])


def test_a_compressed_stack_behind_one_directory_is_refused():
    data = saved(STACK[0], metadata=None, compression="zlib", extratags=[(33629, 5, 6, (1, 1) * 6, True)])

    with pytest.raises(UnsupportedImage, match="6 compressed images behind one directory"):
        read(data)


def test_the_indices_of_a_stack_are_looked_up_in_its_palette():
    palette = np.random.default_rng(0).integers(256, size=(3, 256)).astype(np.uint16) * 257
    indices = np.random.default_rng(1).integers(256, size=(2, 8, 9)).astype(np.uint8)

    file = read(saved(indices, truncate=True, photometric="palette", colormap=palette))

    colours = np.stack([page.samples for page in file.pages])
    np.testing.assert_array_equal(colours, (palette.T >> 8).astype(np.uint8)[indices])
