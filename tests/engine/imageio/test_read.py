"""Files that are read: refused by their headers, read page by page, and found in folders."""

import io
from random import Random

import imagecodecs
import numpy as np
import pillow_heif
import pytest
import tifffile
import torch
from PIL import Image as PILImage

from engine.imageio.formats import (
    FORMATS,
    BrokenImage,
    ImageTooLarge,
    NotAnImage,
    PageNotFound,
    UnsupportedImage,
)
from engine.imageio.image import STRIP, ImageSequence
from engine.imageio.read import decode, image_files, is_image_name, read, read_info, read_rgb
from engine.imageio.write import encode
from tests.support.images import noise_image, same_samples

PILLOW_FORMATS = ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"]


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (b"", NotAnImage, "The file is empty: 0 bytes. Supported formats: JPEG, PNG, WebP"),
        (b"hello, I am text", NotAnImage, '16 bytes that begin with "hello, I am"[.] Supported'),
        (b"a\nb\n", NotAnImage, '4 bytes that begin with "a b"[.] Supported'),
        (b"\x93\0caf\xe9", NotAnImage, "6 bytes that begin with 93 00 63 61 66 e9[.] Supported"),
        (b"\0\0\0\x1cftypisom\0\0\0\0", UnsupportedImage, "a video or other ISO media file. Supported formats"),
        (b"%PDF-1.7", UnsupportedImage, "This is a PDF file. Supported formats"),
        (b"\x89PNG\r\n\x1a\n", BrokenImage, "PNG file's header is broken"),
    ],
)
def test_a_file_that_is_no_image_is_refused_by_name(data, error, message):
    with pytest.raises(error, match=message):
        decode(data)


@pytest.mark.parametrize("kind", PILLOW_FORMATS)
@pytest.mark.parametrize("part", [0.02, 0.5, 0.9])
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_a_file_cut_short_is_broken_never_half_an_image(kind, part, samples, file_of):
    whole = file_of(samples(40, 50), kind)

    with pytest.raises(BrokenImage, match=f"(?i)the {kind} file"):
        decode(whole[: max(12, int(len(whole) * part))])


@pytest.mark.parametrize("kind", PILLOW_FORMATS)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_a_file_with_changed_bytes_raises_only_our_errors(kind, samples, file_of):
    whole = file_of(samples(12, 10), kind)
    random = Random(0)
    refused = 0

    for _ in range(100):
        data = bytearray(whole)
        for _ in range(random.choice([1, 3, 10])):
            data[random.randrange(4, min(len(data), 200))] = random.choice([0, 1, 127, 255])
        try:
            decode(bytes(data), max_pixels=10_000)
        except (NotAnImage, BrokenImage, UnsupportedImage, ImageTooLarge):
            refused += 1

    assert refused > 5


def test_an_image_is_refused_by_its_header_alone(file_of):
    header = file_of(PILImage.new("L", (20, 10)))[:45]

    with pytest.raises(ImageTooLarge, match="20 x 10 = 200 pixels; the limit is 199"):
        decode(header, max_pixels=199)


def test_an_image_of_exactly_the_limit_is_read(file_of):
    image = decode(file_of(PILImage.new("L", (20, 10))), max_pixels=200)

    assert image.pixels.shape == (10, 20, 3)


def test_images_of_many_strips_are_decoded_whole(samples, file_of):
    noisy = samples(2 * STRIP + 3, 4, 2)

    image = decode(file_of(noisy))

    np.testing.assert_array_equal(image.samples, noisy[..., :1])
    np.testing.assert_array_equal(image.alpha, noisy[..., 1])


# Pages


def test_one_page_can_be_read_alone():
    pages = tuple(noise_image(seed, np.uint8, 3, False) for seed in range(3))
    data = encode(ImageSequence(FORMATS["tiff"], pages), FORMATS["tiff"]).data

    [page] = read(data, page=2).pages
    [last] = read(data, max_pages=2, page=3).pages

    assert same_samples(page, pages[1])
    assert same_samples(last, pages[2])
    with pytest.raises(PageNotFound, match="There is no page 4: the TIFF file has 3 pages"):
        read(data, page=4)
    with pytest.raises(ImageTooLarge, match=r"more than 2 pages, the limit\. Select one page\."):
        read(data, max_pages=2)
    with pytest.raises(ImageTooLarge, match="first 3 pages have 105 pixels; the limit is 104"):
        read(data, max_pixels=104)


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "PNG", "WEBP"])
def test_the_pages_of_a_file_are_counted(kind, samples, file_of):
    pages = [PILImage.fromarray(samples(9, 7, seed=seed)) for seed in range(4)]
    data = file_of(pages[0], kind, save_all=True, append_images=pages[1:])

    for page in (1, 3, None):
        assert read_info(data, page=page, count_pages=True).pages == 4
    assert read_info(file_of(pages[0], kind), page=1, count_pages=True).pages == 1


def test_pages_are_counted_up_to_a_broken_one():
    data = io.BytesIO()
    tifffile.imwrite(data, np.zeros((3, 9, 7), np.uint16), photometric="minisblack", metadata=None)
    broken = bytearray(data.getvalue())
    with tifffile.TiffFile(io.BytesIO(broken)) as file:
        second = file.pages[1].offset
    tags = int.from_bytes(broken[second : second + 2], "little")
    # Where the offset of the third page stands.
    at = second + 2 + 12 * tags
    broken[at : at + 4] = (len(broken) + 1000).to_bytes(4, "little")

    assert read_info(bytes(broken), page=1, count_pages=True).pages == 2
    assert len(read(bytes(broken), page=1).pages) == 1


def test_of_a_gif_the_first_frame_is_decoded(file_of):
    frames = [PILImage.new("RGB", (6, 5), colour) for colour in ("#204060", "#ffffff")]

    image = decode(file_of(frames[0], "GIF", save_all=True, append_images=frames[1:]))

    assert image.samples.flatten(0, 1).unique(dim=0).tolist() == [[0x20, 0x40, 0x60]]


def test_the_frames_of_a_gif_are_read_in_one_mode(file_of):
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


# Headers


def every_kind():
    """A file of every kind that is read, and of each depth: (name, bytes)."""
    deep = np.random.default_rng(0).integers(2**16, size=(12, 9, 3)).astype(np.uint16)
    plain = (deep >> 8).astype(np.uint8)
    yield from written_here()
    yield from written_by_pillow(plain)
    yield "AVIF, 10 bits", imagecodecs.avif_encode(deep >> 6, bitspersample=10)
    yield "JPEG 2000, 8", imagecodecs.jpeg2k_encode(plain, reversible=True)
    yield "JPEG 2000, 16", imagecodecs.jpeg2k_encode(deep, reversible=True)
    yield "QOI", imagecodecs.qoi_encode(plain)
    yield "PPM, 10 bits", b"P6 9 12 1023\n" + (deep >> 6).astype(">u2").tobytes()
    yield "PFM", b"PF 9 12 -1\n" + (deep / 65535).astype("<f4").tobytes()
    yield "JPEG XL", imagecodecs.jpegxl_encode(plain, lossless=True)


def written_here():
    dtypes = {"8": np.uint8, "16": np.uint16, "float": np.float32}
    for kind in FORMATS.values():
        if kind.writes and not kind.quality:
            for depth in kind.writes.depths:
                page = noise_image(0, dtypes[depth], 3, False)
                yield f"{kind.name}, {depth}", encode(ImageSequence(kind, (page,)), kind).data
    pages = (
        noise_image(1, np.uint8, 1, False),
        noise_image(2, np.uint16, 3, True, (4, 9)),
        noise_image(3, np.uint8, 3, False),
    )
    yield "pages", encode(ImageSequence(FORMATS["tiff"], pages), FORMATS["tiff"]).data
    frames = tuple(noise_image(seed, np.uint8, 3, False) for seed in range(3))
    for kind in ("png", "webp", "avif"):
        yield f"frames, {kind}", encode(ImageSequence(FORMATS["gif"], frames, (40, 50, 60)), FORMATS[kind]).data


def written_by_pillow(pixels):
    plain = PILImage.fromarray(pixels)

    def saved(image, kind, **options):
        file = io.BytesIO()
        image.save(file, kind, **options)
        return file.getvalue()

    for kind in ("JPEG", "AVIF", "BMP", "GIF"):
        yield kind, saved(plain, kind)
    heic = io.BytesIO()
    pillow_heif.from_pillow(plain.resize((64, 48))).save(heic)
    yield "HEIC", heic.getvalue()
    first, *others = [PILImage.new("RGB", (6, 5), colour) for colour in ("red", "white", "blue")]
    animated = {"save_all": True, "append_images": others}
    yield "frames, gif", saved(first, "GIF", **animated)
    yield "frames, png without its first", saved(first, "PNG", **animated, default_image=True)


@pytest.mark.parametrize("data", [pytest.param(data, id=name) for name, data in every_kind()])
def test_headers_tell_what_reading_will_return(data):
    for page in (None, 1, len(read(data).pages)):
        file, info = read(data, page=page), read_info(data, page=page)

        assert info.kind == file.kind
        assert info.pixels == sum(each.samples.shape[:2].numel() for each in file.pages)
        assert info.depth == max((each.depth for each in file.pages), key=["8", "16", "float"].index)


def test_headers_are_read_where_pixels_are_missing(samples, file_of):
    cut = file_of(samples(300, 200))[:5000]

    assert read_info(cut).pixels == 300 * 200
    with pytest.raises(BrokenImage):
        read(cut)


def test_headers_alone_raise_the_errors_of_reading(file_of):
    frames = [PILImage.new("RGB", (6, 5), colour) for colour in ("red", "white", "blue")]
    animation = file_of(frames[0], "GIF", save_all=True, append_images=frames[1:])

    with pytest.raises(ImageTooLarge, match="first 3 pages have 90 pixels; the limit is 89"):
        read_info(animation, max_pixels=89)
    with pytest.raises(ImageTooLarge, match=r"more than 2 pages, the limit\. Select one page\."):
        read_info(animation, max_pages=2)
    with pytest.raises(NotAnImage, match="This is not an image"):
        read_info(b"not an image")
    with pytest.raises(BrokenImage, match="PNG file's header is broken"):
        read_info(b"\x89PNG\r\n\x1a\n")


# Files and folders


def test_a_grey_file_is_read_as_8_bit_rgb(tmp_path, file_of, samples):
    noisy = samples(4, 6, 1)
    file = tmp_path / "grey.png"
    file.write_bytes(file_of(noisy))

    pixels = read_rgb(file)

    assert pixels.dtype == torch.uint8
    np.testing.assert_array_equal(pixels, noisy.repeat(3, axis=2))


def test_a_broken_file_is_named(tmp_path):
    file = tmp_path / "notes.png"
    file.write_bytes(b"no image")

    with pytest.raises(NotAnImage, match=r"notes\.png: This is not an image"):
        read_rgb(file)


def test_the_images_of_a_folder_are_sorted_by_name(tmp_path):
    for name in ("b.JPG", "a.png", "notes.txt", "._b.JPG", "c.tiff"):
        (tmp_path / name).touch()

    assert [file.name for file in image_files(tmp_path)] == ["a.png", "b.JPG", "c.tiff"]


def test_a_folder_without_images_is_named_in_the_error(tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path}: no images in this folder. Supported formats"):
        image_files(tmp_path)
    with pytest.raises(ValueError, match="nowhere: no such folder"):
        image_files(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["a.jfif", "a.jpe", "a.HIF", "a.dib", "a.j2c"])
def test_rarer_suffixes_are_images_too(name):
    assert is_image_name(name)
