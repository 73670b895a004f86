"""Files that are written: without loss where the format can, and with its limits reported."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage

from engine.imageio.formats import FORMATS, CannotWrite
from engine.imageio.image import Image, ImageSequence, from_array
from engine.imageio.metadata import Metadata
from engine.imageio.metadata.icc import gamma_curve, grey_profile
from engine.imageio.read import decode, read
from engine.imageio.write import encode, encode_png
from tests.support.images import PROFILE, noise_image, same_samples

DTYPES = {"8": np.uint8, "16": np.uint16, "float": np.float32}
LOSSLESS = [kind for kind in FORMATS.values() if kind.writes and not kind.quality]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.sampled_from([(kind, depth) for kind in LOSSLESS for depth in kind.writes.depths]),
    st.sampled_from([1, 3]),
    st.booleans(),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.integers(0, 99),
    st.booleans(),
    st.builds(
        Metadata,
        st.none(),
        st.just(None),
        st.none() | st.just(b"<x:xmpmeta/>"),
        st.none() | st.tuples(st.sampled_from([72.0, 300.0]), st.sampled_from([72.0, 300.0])),
    ),
)
def test_lossless_formats_return_every_bit(which, channels, alpha, size, seed, has_profile, metadata):
    kind, depth = which
    if has_profile:
        is_grey = channels == 1 and kind.writes.grey
        metadata = replace(metadata, icc_profile=grey_profile("Grey", gamma_curve(1.8)) if is_grey else PROFILE)
    image = noise_image(seed, DTYPES[depth], channels if kind.writes.grey else 3, alpha, size, metadata)

    written = encode(ImageSequence(kind, (image,)), kind)
    back = read(written.data)

    assert same_samples(back.pages[0], image)
    assert back.kind == kind
    assert (written.changed, back.changed) == ((), ())
    assert back.pages[0].metadata.icc_profile == metadata.icc_profile
    assert back.pages[0].metadata.xmp == metadata.xmp
    # PNG stores whole dots per metre.
    assert back.pages[0].metadata.resolution == (
        metadata.resolution and pytest.approx(metadata.resolution, rel=2e-4)
    )


@pytest.mark.parametrize("level", range(10))
def test_a_png_of_any_level_holds_the_same_image(level, samples):
    image = Image(torch.from_numpy(samples(20, 30)))

    assert torch.equal(decode(encode_png(image, level)).samples, image.samples)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1)])
@pytest.mark.parametrize("grey", [True, False])
def test_images_of_one_pixel_or_line_are_written_and_read(size, grey):
    image = decode(encode_png(Image(torch.full((*size, 1 if grey else 3), 51, dtype=torch.uint8))))

    assert image.pixels.shape == (*size, 3)
    assert image.grey == grey
    torch.testing.assert_close(image.pixels, torch.full((*size, 3), 0.2))


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_an_animation_keeps_its_frames_and_their_timing(kind):
    frames = tuple(noise_image(seed, np.uint8, 3, False, (20, 30)) for seed in range(4))
    animation = ImageSequence(FORMATS["gif"], frames, (40, 50, 60, 70), 3)

    data = encode(animation, FORMATS[kind]).data
    back = read(data)
    with PILImage.open(io.BytesIO(data)) as image:
        seen = image.n_frames, image.info["loop"]

    assert all(map(same_samples, back.pages, frames))
    assert (back.durations, back.plays) == ((40, 50, 60, 70), 3)
    assert seen == (4, 3)


def test_the_pages_of_a_tiff_keep_their_own_sizes_and_depths():
    pages = (
        noise_image(1, np.uint16, 1, False),
        noise_image(2, np.uint8, 3, True, (4, 9)),
        noise_image(3, np.float32, 3, False),
    )

    back = read(encode(ImageSequence(FORMATS["tiff"], pages), FORMATS["tiff"]).data)

    assert len(back.pages) == 3
    assert all(map(same_samples, back.pages, pages))
    assert back.durations is None


# What a format cannot hold


@pytest.mark.parametrize("kind", ["jpeg", "webp", "avif"])
def test_a_depth_that_the_format_cannot_hold_is_reported(kind):
    deep = ImageSequence(FORMATS["png"], (noise_image(0, np.uint16, 3, False),))

    written = encode(deep, FORMATS[kind])

    assert written.changed == ("16 bits a channel to 8 bits a channel",)


def test_floats_become_16_bits_in_a_png_clipped_and_rounded():
    floats = Image(torch.tensor([-1.0, 0.25, 2.0]).view(1, 3, 1))

    written = encode(ImageSequence(FORMATS["tiff"], (floats,)), FORMATS["png"])

    assert written.changed == ("floating point to 16 bits a channel, clipped to black and white",)
    assert decode(written.data).samples.flatten().tolist() == [0, 16384, 65535]


def test_integers_of_another_type_become_16_bits_in_a_png_as_reported():
    image = from_array(np.array([[-5, 7]], np.int16), 16, Metadata())

    png, jpeg = (encode(ImageSequence(FORMATS["tiff"], (image,)), FORMATS[kind]) for kind in ("png", "jpeg"))

    to_16_bits = "signed 16 bits to 16 bits a channel, 32768 added"
    assert png.changed == (to_16_bits,)
    assert jpeg.changed == (to_16_bits, "16 bits a channel to 8 bits a channel")
    assert decode(png.data).samples.flatten().tolist() == [32763, 32775]


def test_samples_that_are_not_numbers_become_black_and_are_reported():
    image = from_array(np.array([[0.5, np.nan, 1]], np.float32), 32, Metadata())

    written = encode(ImageSequence(FORMATS["tiff"], (image,)), FORMATS["png"])

    assert written.changed[1:] == ("samples that are not numbers to black",)
    assert decode(written.data).samples.flatten().tolist() == [32768, 0, 65535]


def test_what_an_animation_loses_in_tiff_and_avif_is_reported():
    frames = tuple(noise_image(seed, np.uint8, 3, True) for seed in range(2))
    animation = ImageSequence(FORMATS["gif"], frames, (40, 50), 3)

    tiff, avif = (encode(animation, FORMATS[kind]).changed for kind in ("tiff", "avif"))

    assert tiff == ("without the frames' timing",)
    assert avif == ("repeats endlessly", "transparency compressed with the colours")


def test_metadata_too_large_for_jpeg_is_left_out_and_reported():
    metadata = Metadata(xmp=b"<x:xmpmeta>" + bytes(70_000) + b"</x:xmpmeta>")

    written = encode(
        ImageSequence(FORMATS["png"], (noise_image(0, np.uint8, 3, False, metadata=metadata),)), FORMATS["jpeg"]
    )

    assert written.changed == ("without XMP, too large for JPEG",)
    assert decode(written.data).metadata.xmp is None


def test_transparency_is_refused_with_the_formats_that_hold_it():
    with pytest.raises(
        CannotWrite, match=r"transparency, which JPEG cannot hold\. Choose PNG, WebP, TIFF or AVIF"
    ):
        encode(ImageSequence(FORMATS["png"], (noise_image(0, np.uint8, 3, True),)), FORMATS["jpeg"])


@pytest.mark.parametrize(
    ("kind", "durations", "message"),
    [
        (
            "png",
            None,
            "2 pages, and PNG holds several only as an animation. Select one page, or choose TIFF.",
        ),
        (
            "jpeg",
            (10, 10),
            "2 pages, and JPEG holds only one. Select one page, or choose PNG, WebP, TIFF or AVIF.",
        ),
    ],
)
def test_pages_are_refused_with_the_formats_that_hold_them(kind, durations, message):
    pages = noise_image(0, np.uint8, 3, False), noise_image(1, np.uint8, 3, False)

    with pytest.raises(CannotWrite, match=message):
        encode(ImageSequence(FORMATS["tiff"], pages, durations), FORMATS[kind])


def test_a_side_that_is_too_long_is_refused():
    with pytest.raises(CannotWrite, match="A side of the image has 16384 pixels; WebP holds at most 16383"):
        encode(ImageSequence(FORMATS["png"], (noise_image(0, np.uint8, 3, False, (1, 16384)),)), FORMATS["webp"])


def test_a_format_that_is_only_read_is_refused():
    with pytest.raises(CannotWrite, match="BMP can be read but not written"):
        encode(ImageSequence(FORMATS["png"], (noise_image(0, np.uint8, 3, False),)), FORMATS["bmp"])


@pytest.mark.parametrize("kind", ["jpeg", "webp", "avif"])
def test_higher_quality_makes_a_larger_file(kind, samples):
    file = ImageSequence(FORMATS["png"], (Image(torch.from_numpy(samples(64, 64))),))

    low, high = (len(encode(file, FORMATS[kind], quality).data) for quality in (30, 95))

    assert low < high
