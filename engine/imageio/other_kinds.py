"""Kinds of files that people send and that are not read, by their signatures, so that an error can name them."""

import re
import struct

# The kind, in words, and a regular expression for its first bytes. The first one that fits counts.
_SIGNATURES: tuple[tuple[str, bytes], ...] = (
    # Images
    ("a Photoshop file (PSD)", rb"8BPS"),
    ("a GIMP file (XCF)", rb"gimp xcf"),
    ("a Radiance HDR file", rb"#\?(RADIANCE|RGBE)"),
    ("a Windows icon (ICO)", rb"\x00\x00\x01\x00[^\x00].{3}\x00"),
    ("a Windows cursor (CUR)", rb"\x00\x00\x02\x00[^\x00].{3}\x00"),
    ("a macOS icon (ICNS)", rb"icns"),
    ("a JPEG XR file", rb"II\xbc[\x00\x01]"),
    ("a DDS texture", rb"DDS \x7c"),
    ("a KTX texture", rb"\xabKTX "),
    ("an SGI image", rb"\x01\xda[\x00\x01][\x01\x02]"),
    ("a PCX file", rb"\x0a[\x00\x02-\x05][\x00\x01][\x01\x02\x04\x08]"),
    ("a Sun raster image", rb"\x59\xa6\x6a\x95"),
    ("an XPM image", rb"/\* XPM \*/"),
    ("an XBM image", rb"#define \S+_width \d"),
    ("a MNG animation", rb"\x8aMNG\r\n"),
    ("a JNG image", rb"\x8bJNG\r\n"),
    ("a FLIF image", rb"FLIF"),
    ("a BPG image", rb"BPG\xfb"),
    ("a farbfeld image", rb"farbfeld"),
    ("a JBIG2 file", rb"\x97JB2\r\n"),
    ("a DjVu document", rb"AT&TFORM"),
    ("an IFF image", rb"FORM....(ILBM|PBM )"),
    ("a Windows metafile (WMF)", rb"\xd7\xcd\xc6\x9a"),
    ("a Windows metafile (EMF)", rb"\x01\x00\x00\x00.{36} EMF"),
    ("an OS/2 bitmap array or icon", rb"(BA|CI|CP|IC|PT).{4}\x00\x00\x00\x00"),
    ("a DPX or Cineon file", rb"SDPX|XPDS|\x80\x2a\x5f\xd7"),
    # Science and medicine
    ("a DICOM file", rb".{128}DICM"),
    ("an HDF5 file", rb"\x89HDF\r\n\x1a\n"),
    ("a NetCDF file", rb"CDF[\x01\x02\x05]"),
    ("a NIfTI file", rb"\x5c\x01\x00\x00.{340}n[+i]1\x00|\x1c\x02\x00\x00n\+2\x00"),
    ("an NRRD file", rb"NRRD0"),
    ("a NumPy file", rb"\x93NUMPY"),
    ("a Leica LIF file", rb"\x70\x00\x00\x00.{4}\x2a"),
    ("an OLE compound file", rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"),
    # Cameras, beside those that LibRaw opens
    ("a Lytro light field", rb"\x89LFP\r\n"),
    ("an ARRI raw file", rb"ARRI"),
    ("a RED raw file", rb"....RED[12]"),
    # Documents
    ("a PDF file", rb".{0,1000}%PDF-\d"),
    ("a PostScript file", rb"%!PS|\xc5\xd0\xd3\xc6"),
    ("an SVG file", rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?(<!DOCTYPE svg[^>]*>\s*)?<svg[\s>]"),
    ("an HTML page", rb"(?i:(\xef\xbb\xbf)?\s*<(!DOCTYPE html|html|head|body)[\s>])"),
    ("an XML file", rb"(\xef\xbb\xbf)?\s*<\?xml"),
    ("a JSON file", rb"\s*\{\s*\""),
    # Videos
    ("a QuickTime video", rb"....(moov|mdat|wide|free|skip|pnot)"),
    ("a Matroska or WebM video", rb"\x1a\x45\xdf\xa3"),
    ("an AVI video", rb"RIFF....AVI "),
    ("a sound file", rb"RIFF....WAVE|ID3[\x02-\x04]|fLaC"),
    ("an Ogg file", rb"OggS"),
    ("an MPEG video", rb"\x00\x00\x01[\xb3\xba]"),
    ("a Flash video", rb"FLV\x01"),
    ("a Windows Media video", rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),
    # Archives
    ("a zip", rb"PK(\x03\x04|\x05\x06|\x07\x08)"),
    ("a gzip file", rb"\x1f\x8b\x08"),
    ("a RAR archive", rb"Rar!\x1a\x07"),
    ("a 7-Zip archive", rb"7z\xbc\xaf\x27\x1c"),
    ("an xz, bzip2 or Zstandard file", rb"\xfd7zXZ\x00|BZh[1-9]|\x28\xb5\x2f\xfd"),
)
_COMPILED = tuple((name, re.compile(signature, re.DOTALL)) for name, signature in _SIGNATURES)
# Signatures are looked for in this many bytes.
_HEAD_BYTES = 4096
# HEIF files whose images are compressed with another method than AV1 or HEVC, by brand.
_OTHER_HEIF = {
    b"avci": "AVC", b"avcs": "AVC", b"vvic": "VVC", b"vvis": "VVC", b"evbi": "EVC", b"evbs": "EVC",
    b"j2ki": "JPEG 2000", b"j2is": "JPEG 2000", b"jpeg": "JPEG", b"jpgs": "JPEG", b"unif": "no compression",
}  # fmt: skip
_TGA_FOOTER = b"TRUEVISION-XFILE.\0"
_TGA_HEADER = 18  # bytes


def file_brands(data: bytes) -> list[bytes]:
    """The brands of an ISO media file, such as AVIF, HEIC or MP4, the major one first; none of another file."""
    if data[4:8] != b"ftyp":
        return []
    (size,) = struct.unpack_from(">I", data)
    listed = data[16 : min(max(size, 16), _HEAD_BYTES)]
    return [data[8:12], *(listed[at : at + 4] for at in range(0, len(listed) - 3, 4))]


def is_other_heif(brands: list[bytes]) -> bool:
    """Whether a HEIF file's images are in a coding that is not read."""
    return any(brand in _OTHER_HEIF for brand in brands)


def other_kind(data: bytes) -> str | None:
    """The kind of a file that is not read, in words; None if its beginning is unknown."""
    if brands := file_brands(data):
        coded = next((_OTHER_HEIF[brand] for brand in brands if brand in _OTHER_HEIF), None)
        return f"a HEIF file with {coded}" if coded else "a video or other ISO media file"
    head = data[:_HEAD_BYTES]
    for name, signature in _COMPILED:
        if signature.match(head):
            return name
    return "a TGA image" if _is_tga(data) else None


def _is_tga(data: bytes) -> bool:
    """TGA has no signature at its start: its header must make sense, or its footer be there."""
    if data[-len(_TGA_FOOTER) :] == _TGA_FOOTER:
        return True
    if len(data) < _TGA_HEADER:
        return False
    _, has_map, kind, start, entries, entry_bits, _, _, width, height, bits, descriptor = struct.unpack_from(
        "<BBBHHBHHHHBB", data
    )
    if not width or not height or descriptor & 0xC0 or descriptor & 0x0F > 8:
        return False
    if kind in (1, 9):
        return has_map == 1 and entry_bits in (15, 16, 24, 32) and bits in (8, 16)
    if has_map or start or entries or entry_bits:
        return False
    return bits in {2: (15, 16, 24, 32), 10: (15, 16, 24, 32), 3: (8, 16), 11: (8, 16)}.get(kind, ())
