"""JPEG: what Pillow does not say of a file, from its segments.

Sources: ITU-T T.81, 1992, annex B; CIPA DC-007, "Multi-Picture Format", 2009; ISO 21496-1:2025, annex C.
"""

import re
import struct
from collections.abc import Iterator
from io import BytesIO
from typing import Literal, NamedTuple, cast

from PIL import Image as PILImage
from PIL import JpegImagePlugin

from engine.imageio.formats import UnsupportedImage
from engine.imageio.metadata.ifd import byte_order, first_ifd_offset, read_ifd
from engine.imageio.metadata.limits import BrokenMetadata
from engine.imageio.metadata.xmp import GAIN_MAP_LOST, OTHERS_LOST, VIDEO_LOST

# Chroma at full resolution, at half the width, and at half the width and height: Pillow's names and numbers.
Subsampling = Literal["4:4:4", "4:2:2", "4:2:0"]
_SUBSAMPLINGS: dict[int, Subsampling] = {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}
# The quantisation tables of quality 50, for luma and chroma, row by row. Source: ITU-T T.81, annex K.1.
_LUMA_TABLE = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22,
    29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103,
    121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip
_CHROMA_TABLE = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99, 47, 66,
    *(99,) * 38,
)  # fmt: skip

# Second bytes of markers.
_FILL = 0xFF
_TEMPORARY = 0x01
_RESTARTS = range(0xD0, 0xD9)  # start of image among them
_END = 0xD9
_SCAN = 0xDA
_APP2 = 0xE2
_END_OF_IMAGE = b"\xff\xd9"
_TABLES = frozenset((0xC4, 0xC8, 0xCC))
# How a frame is coded, by the marker that starts it. Pillow reads those that are not here.
_UNSUPPORTED_FRAMES = {
    0xC3: "lossless JPEG",
    **dict.fromkeys((0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF), "hierarchical JPEG"),
    0xCB: "lossless JPEG with arithmetic coding",
    0xF7: "JPEG-LS",
}
_FRAMES = frozenset(range(0xC0, 0xD0)) - _TABLES | _UNSUPPORTED_FRAMES.keys()
# Names of APP2 segments.
_MULTI_PICTURE = b"MPF\0"
_PROFILE_SEGMENT = b"ICC_PROFILE\0"
_GAIN_MAP_SEGMENT = b"urn:iso:std:iso:ts:21496:-1\0"
# Tags of a multi-picture file's index.
_IMAGE_COUNT = 0xB001
_IMAGE_ENTRIES = 0xB002
# Bytes of an entry, and the bits of its first number that give the type: a larger preview's.
_ENTRY_BYTES = 16
_TYPE_BITS = 0xFFFFFF
_PREVIEWS = (0x010001, 0x010002, 0x010003, 0x010004, 0x010005)
# What the metadata of a gain map have.
_GAIN_MAP = re.compile(rb"hdr-gain-map/1\.0|HDRGainMap|urn:iso:std:iso:ts:21496")
# A video behind the image: the type of an MP4 or QuickTime file.
_VIDEO = re.compile(rb"\0\0\0.ftyp(?:mp4|isom|iso[2-9]|qt  |avc1)", re.DOTALL)
# Zeros with which pixels can end.
_PIXEL_ZEROS = 2
# Bytes that any decoder takes for pixels, if pixels are missing. Never 0xff, which begins a marker.
_PADDING = bytes(31 * number % 251 for number in range(1, 250))


class JpegSettings(NamedTuple):
    """How a JPEG file was compressed. quality: 1 to 100, on the scale of libjpeg and Pillow."""

    quality: int
    subsampling: Subsampling

    @property
    def words(self) -> str:
        """For people."""
        return f"JPEG quality {self.quality}, chroma {self.subsampling}, as in the source"


def read_jpeg_settings(data: bytes) -> JpegSettings | None:
    """The settings of a JPEG file; None if its quantisation tables are missing or broken.

    The quality is the one whose standard tables are nearest to the file's. Programs with tables of their own,
    such as Photoshop, have no quality on this scale.
    """
    try:
        with PILImage.open(BytesIO(data), formats=["JPEG"]) as image:
            found = cast(JpegImagePlugin.JpegImageFile, image)
            tables = [tuple(table) for _, table in sorted(found.quantization.items())][:2]
            sampling = _SUBSAMPLINGS.get(JpegImagePlugin.get_sampling(found), "4:4:4")
    except (OSError, SyntaxError, ValueError, struct.error):
        return None
    if not tables or any(len(table) != len(_LUMA_TABLE) for table in tables):
        return None
    return JpegSettings(min(range(1, 101), key=lambda quality: _distance(tables, quality)), sampling)


def _distance(tables: list[tuple[int, ...]], quality: int) -> float:
    """How far the tables are from those of a quality. Source: libjpeg, `jpeg_quality_scaling`."""
    scale = 5000 / quality if quality < 50 else 200 - 2 * quality
    distance = 0.0
    for table, base in zip(tables, (_LUMA_TABLE, _CHROMA_TABLE), strict=False):
        standard = (min(max((each * int(scale) + 50) // 100, 1), 255) for each in base)
        distance += sum(abs(own - each) for own, each in zip(table, standard, strict=True))
    return distance


def segments(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """The marker, the body and the end of each segment up to the first scan's header."""
    at = 2
    while at + 4 <= len(data) and data[at] == _FILL:
        marker = data[at + 1]
        if marker == _FILL:
            at += 1
        elif marker in _RESTARTS or marker == _TEMPORARY:
            at += 2
        else:
            (size,) = struct.unpack_from(">H", data, at + 2)
            end = at + 2 + max(size, 2)
            yield marker, data[at + 4 : end], end
            if marker in (_SCAN, _END):
                return
            at = end


def refuse_unsupported_jpeg(data: bytes) -> None:
    """Raises UnsupportedImage for kinds of JPEG that are known but not decoded."""
    for marker, body, _ in segments(data):
        if marker not in _FRAMES or not body:
            continue
        if marker in _UNSUPPORTED_FRAMES:
            name = _UNSUPPORTED_FRAMES[marker]
            raise UnsupportedImage(f"This is {name}, which is not supported. Convert it to PNG or TIFF.")
        if body[0] != 8:
            raise UnsupportedImage(
                f"This is JPEG with {body[0]} bits a channel; only 8 are supported. Convert it to PNG or TIFF."
            )
        return


def lacks_profile(data: bytes, profile: bytes | None) -> bool:
    """Whether the file has a profile that Pillow does not put together, because parts of it are missing."""
    return not profile and any(
        marker == _APP2 and body.startswith(_PROFILE_SEGMENT) for marker, body, _ in segments(data)
    )


def other_jpeg_images(data: bytes, xmp: bytes | None) -> tuple[str, ...]:
    """What the file holds besides its main image, in words of `Metadata.lost`."""
    count, previews, has_gain_map, scan = 1, 0, bool(_GAIN_MAP.search(xmp or b"")), len(data)
    for marker, body, end in segments(data):
        if marker == _APP2 and body.startswith(_MULTI_PICTURE):
            count, previews = _read_index(body[len(_MULTI_PICTURE) :])
        has_gain_map |= marker == _APP2 and body.startswith(_GAIN_MAP_SEGMENT)
        scan = end
    # Pixels never hold this marker, so it is the end of the main image.
    end = data.find(_END_OF_IMAGE, scan)
    behind = end + 2 if end >= 0 else len(data)
    has_gain_map |= bool(_GAIN_MAP.search(data, behind))
    others = count - 1 - previews - has_gain_map
    found = {
        GAIN_MAP_LOST: has_gain_map,
        VIDEO_LOST: bool(_VIDEO.search(data, behind)),
        "its previews": previews > 0,
        OTHERS_LOST: others > 0,
    }
    return tuple(words for words, applies in found.items() if applies)


def _read_index(body: bytes) -> tuple[int, int]:
    """The number of images in a multi-picture file, and of those that are previews."""
    try:
        ifd = read_ifd(body, first_ifd_offset(body))
    except BrokenMetadata:
        return 1, 0
    order = byte_order(body)
    entries = ifd[_IMAGE_ENTRIES].value if _IMAGE_ENTRIES in ifd else b""
    count = ifd[_IMAGE_COUNT].integer(order) if _IMAGE_COUNT in ifd else 0
    types = [
        struct.unpack_from(f"{order}I", entries, at)[0] & _TYPE_BITS
        for at in range(0, len(entries) - _ENTRY_BYTES + 1, _ENTRY_BYTES)
    ]
    return max(1, count, len(types)), sum(each in _PREVIEWS for each in types)


def has_end(data: bytes) -> bool:
    """Whether the end marker is behind the first scan's header."""
    scan = max((end for _, _, end in segments(data)), default=0)
    return data.find(_END_OF_IMAGE, scan) >= 0


def open_without_end(data: bytes) -> PILImage.Image | None:
    """The decoded image of a JPEG whose end marker is missing, but no pixels; else None.

    Decoders fill missing pixels in without a word. So the file is decoded twice, with other bytes behind it: the
    two images differ where pixels are missing. Zeros at its end may be the space that a download reserved.
    """
    pixels = data.rstrip(b"\0")
    pixels = data[: len(pixels) + _PIXEL_ZEROS].removesuffix(b"\xff")
    images = []
    for padding in (b"", _PADDING):
        image = PILImage.open(BytesIO(pixels + padding + _END_OF_IMAGE), formats=["JPEG"])
        image.load()
        images.append(image)
    first, second = images
    return first if first.tobytes() == second.tobytes() else None
