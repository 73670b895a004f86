"""Metadata: the one record that every file format's metadata is read into and written from."""

import re
from dataclasses import dataclass, replace

from engine.imageio.metadata.exif import exif_orientation, upright_exif
from engine.imageio.metadata.limits import BrokenMetadata, MetadataTooLarge

_XMP_THUMBNAILS = re.compile(rb"<xmp:Thumbnails>.*?</xmp:Thumbnails>", re.DOTALL)
# Any orientation but 1, as an attribute or as an element.
_XMP_ORIENTATION = re.compile(rb"(tiff:Orientation(?:=[\"']|>))[2-8](?=[\"'<])")


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
        """EXIF's orientation, 1 (upright) to 8."""
        return exif_orientation(self.exif)

    def upright(self) -> "Metadata":
        """The metadata of an image that has been turned upright or changed: orientation 1, and no thumbnail."""
        xmp = self.xmp and _XMP_ORIENTATION.sub(rb"\g<1>1", _XMP_THUMBNAILS.sub(b"", self.xmp))
        try:
            return replace(self, xmp=xmp, exif=self.exif and upright_exif(self.exif))
        except MetadataTooLarge:
            raise
        except BrokenMetadata:
            return replace(self, xmp=xmp, exif=None, lost=(*self.lost, "unreadable EXIF"))

    def without_blocks_over(self, max_bytes: int) -> "Metadata":
        """The metadata without EXIF or XMP that have more bytes."""
        exif, xmp = (block if len(block or b"") <= max_bytes else None for block in (self.exif, self.xmp))
        return replace(self, exif=exif, xmp=xmp)


NO_METADATA = Metadata()
