"""BMP: kinds that are not decoded, and colours in the header."""

import io
import struct

import pytest
from PIL import ImageCms

from engine.imageio.codecs.bmp import read_bmp_profile
from engine.imageio.formats import UnsupportedImage
from engine.imageio.read import read
from tests.support.images import PROFILE

SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
P3 = ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06))
# XYZ of the primaries of Display P3.
P3_XYZ = ((0.4866, 0.2290, 0.0), (0.2657, 0.6917, 0.0451), (0.1982, 0.0793, 1.0439))


def bmp(size=124, bits=24, compression=0, space=b"BGRs", colours=((0, 0, 0),) * 3, gamma=0.0, profile=b""):
    """A file of 2 x 2 black pixels."""
    pixels = bytes(16)
    header = struct.pack("<IiiHHIIiiII", size, 2, 2, 1, bits, compression, len(pixels), 0, 0, 0, 0)
    if size >= 108:
        header += bytes(16) + space
        header += b"".join(struct.pack("<3i", *(round(each * 2**30) for each in colour)) for colour in colours)
        header += struct.pack("<3I", *[round(gamma * 2**16)] * 3)
    if size == 124:
        header += struct.pack("<IIII", 4, size + len(pixels) if profile else 0, len(profile), 0)
    start = 14 + len(header)
    return (
        b"BM" + struct.pack("<IHHI", start + len(pixels) + len(profile), 0, 0, start) + header + pixels + profile
    )


@pytest.mark.parametrize(
    ("compression", "name"), [(4, "JPEG"), (5, "PNG"), (11, "CMYK"), (99, "method 99")], ids=str
)
def test_a_compression_that_is_not_decoded_is_named(compression, name):
    with pytest.raises(
        UnsupportedImage, match=f"The BMP file has {name} as its compression, which is not supported"
    ):
        read(bmp(40, compression=compression))


def test_a_depth_that_is_not_decoded_is_named():
    with pytest.raises(UnsupportedImage, match="The BMP file has 64 bits a pixel"):
        read(bmp(40, bits=64))


def test_an_embedded_profile_is_read():
    file = read(bmp(space=b"DEBM", profile=PROFILE))

    assert file.pages[0].metadata.icc_profile == PROFILE
    assert file.changed == ()


def test_an_embedded_profile_that_is_none_is_told():
    assert read(bmp(space=b"DEBM", profile=b"x" * 200)).changed == ("without an unreadable colour profile",)


@pytest.mark.parametrize("size", [108, 124])
def test_chromaticities_become_a_profile(size):
    file = read(bmp(size, space=bytes(4), colours=P3_XYZ, gamma=2.2))

    profile = ImageCms.ImageCmsProfile(io.BytesIO(file.pages[0].metadata.icc_profile)).profile
    assert profile.red_colorant[0] == pytest.approx((0.51512, 0.24120, -0.00105), abs=1e-3)


@pytest.mark.parametrize("options", [{"size": 40}, {"space": bytes(4)}, {"space": b" niW"}, {}], ids=str)
def test_a_header_without_colours_has_no_profile(options):
    assert read_bmp_profile(bmp(**options)) is None
    assert read(bmp(**options)).changed == ()
