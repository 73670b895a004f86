"""Metadata: the one record that every file format's metadata is read into and written from."""

import re
from dataclasses import dataclass, replace

from engine.imageio.metadata.cicp import ColourCode
from engine.imageio.metadata.exif import exif_orientation, exif_with_sides_swapped, upright_exif
from engine.imageio.metadata.limits import BrokenMetadata, MetadataTooLarge
from engine.imageio.metadata.xmp import without_other_images

# As an attribute or as an element.
_XMP_ORIENTATION = re.compile(rb"(tiff:Orientation(?:\s*=\s*[\"']|\s*>)\s*)([1-8])(?=\s*[\"'<])")
# Orientations from here on have width and height swapped.
_FIRST_QUARTER_TURN = 5


@dataclass(frozen=True)
class Metadata:
    """exif: begins with its TIFF header. resolution: dots per inch, (x, y).

    chunks: a PNG's chunks of colour and text, as they are in the file. lost: blocks that could not be read, and
        other images in the file, in words.
    colour_code: the colour space by number, if the file has one. It takes precedence over the profile.
    """

    icc_profile: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    resolution: tuple[float, float] | None = None
    chunks: bytes = b""
    lost: tuple[str, ...] = ()
    colour_code: ColourCode | None = None

    @property
    def orientation(self) -> int:
        """EXIF's orientation, or else that of XMP, 1 (upright) to 8. Every reader turns its image by this one."""
        stated = exif_orientation(self.exif)
        if stated is None and self.xmp and (found := _XMP_ORIENTATION.search(self.xmp)):
            return int(found[2])
        return stated or 1

    def upright(self) -> "Metadata":
        """The metadata of an image that has been turned upright or changed, alone.

        Its orientation is 1, and it announces neither a thumbnail nor other images of the file.
        """
        xmp, others = without_other_images(self.xmp) if self.xmp else (None, ())
        xmp = xmp and _XMP_ORIENTATION.sub(rb"\g<1>1", xmp)
        resolution, exif = self.resolution, self.exif
        alone = replace(self, xmp=xmp, lost=(*self.lost, *others))
        try:
            if self.orientation >= _FIRST_QUARTER_TURN:
                resolution = resolution and resolution[::-1]
                exif = exif and exif_with_sides_swapped(exif)
            return replace(alone, exif=exif and upright_exif(exif), resolution=resolution)
        except MetadataTooLarge:
            raise
        except BrokenMetadata:
            return replace(alone, exif=None, resolution=resolution, lost=(*alone.lost, "unreadable EXIF"))

    def without_profile(self, lost: str) -> "Metadata":
        """The metadata without the colour profile. lost: what it was, in words."""
        return replace(self, icc_profile=None, lost=(*self.lost, lost))

    def without_blocks_over(self, max_bytes: int) -> "Metadata":
        """The metadata without EXIF or XMP that have more bytes."""
        exif, xmp = (block if len(block or b"") <= max_bytes else None for block in (self.exif, self.xmp))
        return replace(self, exif=exif, xmp=xmp)


NO_METADATA = Metadata()
