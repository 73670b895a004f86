"""Files that are not read: each is refused by the name of its kind."""

import re
import struct

import pytest
from PIL import Image as PILImage

from engine.imageio.formats import UnsupportedImage, detect_format
from engine.imageio.other_kinds import other_kind


def media_file(*brands):
    return struct.pack(">I", 16 + 4 * len(brands[1:])) + b"ftyp" + brands[0] + bytes(4) + b"".join(brands[1:])


KINDS = {
    "Photoshop": b"8BPS\0\1",
    "XCF": b"gimp xcf v011\0",
    "Radiance HDR": b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n",
    "icon (ICO)": struct.pack("<3H4B2H2I", 0, 1, 1, 16, 16, 0, 0, 1, 32, 40, 22),
    "cursor": struct.pack("<3H4B2H2I", 0, 2, 1, 16, 16, 0, 0, 1, 32, 40, 22),
    "ICNS": b"icns\0\0\0\x10",
    "JPEG XR": b"II\xbc\x01 \0\0\0",
    "DDS": b"DDS \x7c\0\0\0",
    "SGI": b"\x01\xda\1\1\0\3",
    "PCX": b"\x0a\5\1\x08" + bytes(12),
    "Sun raster": b"\x59\xa6\x6a\x95\0\0\0\1",
    "XPM": b"/* XPM */\nstatic",
    "XBM": b"#define im_width 16\n",
    "DjVu": b"AT&TFORM",
    "WMF": b"\xd7\xcd\xc6\x9a\0\0",
    "EMF": b"\1\0\0\0" + bytes(36) + b" EMF",
    "OS/2": b"BA" + struct.pack("<IIHH", 40, 0, 0, 0),
    "DPX": b"SDPX",
    "DICOM": bytes(128) + b"DICM\2\0",
    "HDF5": b"\x89HDF\r\n\x1a\n",
    "NetCDF": b"CDF\1",
    "NIfTI": struct.pack("<I", 348) + bytes(340) + b"n+1\0",
    "NRRD": b"NRRD0004\n",
    "NumPy": b"\x93NUMPY\1\0",
    "Lytro": b"\x89LFP\r\n\x1a\n",
    "ARRI": b"ARRI\x12\x34",
    "PDF": b"\n%PDF-1.7",
    "PostScript": b"%!PS-Adobe-3.0",
    "SVG": b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- made by hand -->\n<svg width="4">',
    "HTML": b"<!doctype html><title>404</title>",
    "XML": b'<?xml version="1.0"?><note/>',
    "JSON": b'{"detail": "x"}',
    "QuickTime": b"\0\0\0\x08wide\0\0",
    "Matroska": b"\x1a\x45\xdf\xa3",
    "AVI": b"RIFF\0\0\0\0AVI LIST",
    "sound": b"RIFF\0\0\0\0WAVEfmt ",
    "MPEG": b"\0\0\1\xba",
    "zip": b"PK\3\4",
    "gzip": b"\x1f\x8b\x08\0",
    "RAR": b"Rar!\x1a\x07\1\0",
    "7-Zip": b"7z\xbc\xaf\x27\x1c",
    "video or other ISO": media_file(b"isom", b"mp42"),
    "HEIF file with AVC": media_file(b"mif1", b"avci", b"miaf"),
    "HEIF file with JPEG 2000": media_file(b"j2ki", b"mif1"),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_that_is_not_read_is_named(name):
    with pytest.raises(UnsupportedImage, match=f"This is an? .*{re.escape(name)}.*Supported formats: JPEG"):
        detect_format(KINDS[name])


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P"])
@pytest.mark.parametrize("rle", [False, True])
def test_a_tga_without_a_signature_is_named(mode, rle, file_of):
    data = file_of(PILImage.new(mode, (20, 10)), "TGA", compression="tga_rle" if rle else None)

    assert other_kind(data) == "a TGA image"
    assert other_kind(data[:40]) == "a TGA image"


@pytest.mark.parametrize("data", [b"x", b"hello, I am text", b"\0" * 40, b"\n\n\ntext", bytes(range(64))])
def test_unknown_bytes_have_no_kind(data):
    assert other_kind(data) is None


@pytest.mark.parametrize(
    ("brands", "kind"),
    [
        ((b"avif", b"mif1", b"miaf"), "avif"),
        ((b"avis", b"msf1", b"avif"), "avif"),
        ((b"mif1", b"avif", b"miaf"), "avif"),
        ((b"msf1", b"miaf", b"avis"), "avif"),
        ((b"mif1", b"heic", b"miaf"), "heic"),
        ((b"msf1", b"hevc"), "heic"),
        ((b"mif1", b"heix", b"avif"), "heic"),
        ((b"heix", b"mif1"), "heic"),
        ((b"mif1", b"miaf"), "heic"),
        ((b"crx ", b"isom"), "raw"),
    ],
)
def test_the_brands_tell_avif_from_heic(brands, kind):
    assert detect_format(media_file(*brands)).name == kind
