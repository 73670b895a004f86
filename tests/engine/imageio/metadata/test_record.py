"""Metadata through every format that is written, as other libraries read it."""

import io

import pytest
from PIL import Image as PILImage

from engine.imageio.metadata import Metadata
from engine.imageio.read import read
from tests.support.images import PROFILE, XMP, camera_exif, encoded_with, exif_tags

FORMATS_WITH_METADATA = ["jpeg", "png", "webp", "tiff", "avif"]


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("kind", FORMATS_WITH_METADATA)
def test_every_block_comes_back_and_pillow_reads_it(kind, order):
    metadata = Metadata(PROFILE, camera_exif(1, order=order), XMP, (300.0, 200.0))

    data = encoded_with(kind, metadata)
    back = read(data).pages[0].metadata
    with PILImage.open(io.BytesIO(data)) as image:
        image.load()
        seen = image.getexif()
        profile, xmp = image.info["icc_profile"], image.info["xmp"]

    assert back.icc_profile == profile == PROFILE
    assert back.xmp == xmp == XMP
    assert back.resolution == pytest.approx((300, 200), rel=1e-4)
    assert exif_tags(back.exif) == exif_tags(seen) == exif_tags(metadata.exif)
    assert not back.lost


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_exif_comes_back_byte_for_byte(kind):
    metadata = Metadata(exif=camera_exif(1))

    assert read(encoded_with(kind, metadata)).pages[0].metadata.exif == metadata.exif


@pytest.mark.parametrize("kind", FORMATS_WITH_METADATA)
def test_writing_a_second_time_changes_nothing(kind):
    first = read(encoded_with(kind, Metadata(PROFILE, camera_exif(1), XMP, (300.0, 300.0)))).pages[0].metadata

    assert read(encoded_with(kind, first)).pages[0].metadata == first


@pytest.mark.parametrize("kind", FORMATS_WITH_METADATA)
def test_a_resolution_without_other_metadata_is_kept(kind):
    back = read(encoded_with(kind, Metadata(resolution=(240.0, 120.0)))).pages[0].metadata

    assert back.resolution == pytest.approx((240, 120), rel=1e-4)


def test_xmp_is_made_upright():
    xmp = b'<a tiff:Orientation="6"><xmp:Thumbnails><b>small</b></xmp:Thumbnails>rest</a>'

    assert Metadata(xmp=xmp).upright().xmp == b'<a tiff:Orientation="1">rest</a>'
