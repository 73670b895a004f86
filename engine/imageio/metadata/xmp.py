"""XMP packets: removes what announces other images of the file, and thumbnails.

The packet is taken apart tag by tag, in one pass, and never parsed as XML: a packet can be made to slow a parser
down.

Sources: Android, "Ultra HDR Image Format", version 1.1, and "Motion photo format", version 1.0; Adobe, "XMP
Specification Part 3", 2020, section 1.1.3.1.
"""

import re
from collections.abc import Iterator

_ADOBE_GAIN_MAP = b"http://ns.adobe.com/hdr-gain-map/1.0/"
_APPLE_GAIN_MAP = b"http://ns.apple.com/HDRGainMap/1.0/"
_APPLE_AUXILIARY = b"http://ns.apple.com/pixeldatainfo/1.0/"
_CONTAINER = b"http://ns.google.com/photos/1.0/container/"
_CONTAINER_ITEM = b"http://ns.google.com/photos/1.0/container/item/"
_CAMERA = b"http://ns.google.com/photos/1.0/camera/"
_DEPTH = b"http://ns.google.com/photos/1.0/depthmap/"
_DYNAMIC_DEPTH = b"http://ns.google.com/photos/dd/1.0/"
_IMAGE = b"http://ns.google.com/photos/1.0/image/"
_EXTENSION = b"http://ns.adobe.com/xmp/note/"
_BASIC = b"http://ns.adobe.com/xap/1.0/"
# Namespaces of which every element and attribute describes another image or a video.
_OTHER_IMAGES = (
    _ADOBE_GAIN_MAP, _APPLE_GAIN_MAP, _APPLE_AUXILIARY, _CONTAINER, _CONTAINER_ITEM, _DEPTH, _DYNAMIC_DEPTH,
    _IMAGE,
)  # fmt: skip
# Names of the camera's namespace that do.
_VIDEO = re.compile(rb"Motion(?:Photo|Video)\w*|MicroVideo\w*")
_HAS_VIDEO = re.compile(rb"(?:MotionPhoto|MicroVideo)(?:\s?=\s?[\"']|>)\s?1")
# What a result lacks, in words of `Metadata.lost`.
GAIN_MAP_LOST = "the HDR gain map"
VIDEO_LOST = "the motion photo's video"
DEPTH_LOST = "the depth map"
OTHERS_LOST = "the other images of the file"
_EXTENSION_LOST = "extended XMP"

_NAMESPACE = re.compile(rb"\sxmlns:([\w.-]+)\s*=\s*(?:\"([^\"]*)\"|'([^']*)')")
_TAG = re.compile(rb"<(/?)(?:([\w.-]+):)?([\w.-]+)([^<>]*)>")
_ATTRIBUTE = re.compile(rb"\s([\w.-]+):([\w.-]+)\s*=\s*(?:\"[^\"]*\"|'[^']*')")


def without_other_images(xmp: bytes) -> tuple[bytes, tuple[str, ...]]:
    """The packet without thumbnails, and without what announces other images; and these images, in words."""
    prefixes = {prefix: one or two for prefix, one, two in _NAMESPACE.findall(xmp)}
    # Some packets are fragments without declarations.
    prefixes.setdefault(b"xmp", _BASIC)
    lost = _announced(xmp, prefixes)
    removed = b"".join(_kept(xmp, prefixes))
    return (removed if len(removed) < len(xmp) else xmp), tuple(lost)


def _announced(xmp: bytes, prefixes: dict[bytes, bytes]) -> dict[str, None]:
    spaces = set(prefixes.values())
    announced = {
        GAIN_MAP_LOST: bool(spaces & {_ADOBE_GAIN_MAP, _APPLE_GAIN_MAP}) or b"GainMap" in xmp,
        DEPTH_LOST: bool(spaces & {_DEPTH, _DYNAMIC_DEPTH}),
        VIDEO_LOST: _CAMERA in spaces and bool(_HAS_VIDEO.search(xmp)),
        _EXTENSION_LOST: _EXTENSION in spaces and b"HasExtendedXMP" in xmp,
    }
    return dict.fromkeys(words for words, applies in announced.items() if applies)


def _is_removed(prefix: bytes | None, name: bytes, prefixes: dict[bytes, bytes]) -> bool:
    space = prefixes.get(prefix or b"")
    if space in _OTHER_IMAGES:
        return True
    if space == _CAMERA:
        return bool(_VIDEO.fullmatch(name))
    if space == _EXTENSION:
        return name == b"HasExtendedXMP"
    if space == _BASIC:
        return name == b"Thumbnails"
    return prefix == b"xmlns" and prefixes.get(name) in _OTHER_IMAGES


def _kept(xmp: bytes, prefixes: dict[bytes, bytes]) -> Iterator[bytes]:
    """The pieces of the packet that stay."""
    at = 0
    # Of a removed element that is open: its name, and how many of that name are open.
    removed: tuple[bytes | None, bytes] | None = None
    depth = 0
    for tag in _TAG.finditer(xmp):
        closing, prefix, name, rest = tag.groups()
        if removed:
            if (prefix, name) == removed and not rest.endswith(b"/"):
                depth += -1 if closing else 1
            if not depth:
                removed, at = None, tag.end()
        elif _is_removed(prefix, name, prefixes):
            yield xmp[at : tag.start()]
            at = tag.end()
            if not closing and not rest.endswith(b"/"):
                removed, depth = (prefix, name), 1
        elif not closing:
            yield xmp[at : tag.start(4)]
            yield _ATTRIBUTE.sub(lambda each: b"" if _is_removed(each[1], each[2], prefixes) else each[0], rest)
            at = tag.end(4)
    # An element that is never closed takes everything after it along.
    yield b"" if removed else xmp[at:]
