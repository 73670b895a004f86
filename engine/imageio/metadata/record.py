"""Metadata: the one record that every file format's metadata is read into and written from."""

import re
from dataclasses import dataclass, replace

from engine.imageio.metadata.exif import exif_orientation, exif_with_sides_swapped, upright_exif
from engine.imageio.metadata.limits import BrokenMetadata, MetadataTooLarge

_XMP_THUMBNAILS = re.compile(rb"<xmp:Thumbnails>.*?</xmp:Thumbnails>", re.DOTALL)
# As an attribute or as an element.
_XMP_ORIENTATION = re.compile(rb"(tiff:Orientation(?:\s*=\s*[\"']|\s*>)\s*)([1-8])(?=\s*[\"'<])")
# Orientations from here on have width and height swapped.
_FIRST_QUARTER_TURN = 5


@dataclass(frozen=True)
class Metadata:
    """exif: begins with its TIFF header. resolution: dots per inch, (x, y).

    chunks: a PNG's chunks of colour and text, as they are in the file. lost: blocks that could not be read, in
    words.
    """

    icc_profile: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    resolution: tuple[float, float] | None = None
    chunks: bytes = b""
    lost: tuple[str, ...] = ()

    @property
    def orientation(self) -> int:
        """EXIF's orientation, or else that of XMP, 1 (upright) to 8. Every reader turns its image by this one."""
        stated = exif_orientation(self.exif)
        if stated is None and self.xmp and (found := _XMP_ORIENTATION.search(self.xmp)):
            return int(found[2])
        return stated or 1

    def upright(self) -> "Metadata":
        """The metadata of an image that has been turned upright or changed: orientation 1, and no thumbnail."""
        xmp = self.xmp and _XMP_ORIENTATION.sub(rb"\g<1>1", _XMP_THUMBNAILS.sub(b"", self.xmp))
        resolution, exif = self.resolution, self.exif
        try:
            if self.orientation >= _FIRST_QUARTER_TURN:
                resolution = resolution and resolution[::-1]
                exif = exif and exif_with_sides_swapped(exif)
            return replace(self, xmp=xmp, exif=exif and upright_exif(exif), resolution=resolution)
        except MetadataTooLarge:
            raise
        except BrokenMetadata:
            lost = (*self.lost, "unreadable EXIF")
            return replace(self, xmp=xmp, exif=None, resolution=resolution, lost=lost)

    def without_blocks_over(self, max_bytes: int) -> "Metadata":
        """The metadata without EXIF or XMP that have more bytes."""
        exif, xmp = (block if len(block or b"") <= max_bytes else None for block in (self.exif, self.xmp))
        return replace(self, exif=exif, xmp=xmp)


NO_METADATA = Metadata()
