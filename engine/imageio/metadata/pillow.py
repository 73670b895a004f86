"""Metadata as Pillow and pillow-heif give it, in an image's `info`, and as Pillow's `save` takes it."""

from collections.abc import Mapping
from typing import Any

from engine.imageio.metadata.exif import exif_resolution, exif_with_resolution
from engine.imageio.metadata.limits import plausible_resolution
from engine.imageio.metadata.record import Metadata

# Pillow writes a resolution as 16 bits.
_MAX_DPI = 65535


def metadata_from_info(info: Mapping[Any, Any]) -> Metadata:
    """The metadata in the `info` of an image."""
    exif, xmp = info.get("exif"), info.get("xmp")
    exif = exif.removeprefix(b"Exif\0\0") if isinstance(exif, bytes) else None
    xmp = xmp.encode() if isinstance(xmp, str) else xmp
    dpi = info.get("dpi")
    resolution = plausible_resolution(*map(float, dpi)) if dpi else exif_resolution(exif)
    return Metadata(info.get("icc_profile") or None, exif or None, xmp or None, resolution)


def save_options(metadata: Metadata, has_dpi: bool) -> dict[str, Any]:
    """Options for `save`. has_dpi: whether the format has a place of its own for the resolution."""
    exif = metadata.exif if has_dpi else exif_with_resolution(metadata.exif, metadata.resolution)
    options: dict[str, Any] = {"icc_profile": metadata.icc_profile, "xmp": metadata.xmp}
    options["exif"] = b"Exif\0\0" + exif if exif else None
    if has_dpi and metadata.resolution:
        options["dpi"] = tuple(min(_MAX_DPI, round(n)) for n in metadata.resolution)
    return {name: value for name, value in options.items() if value is not None}
