"""Image metadata: colour profile, EXIF, XMP and resolution. One module per standard."""

from engine.imageio.metadata.record import NO_METADATA, Metadata

__all__ = ["NO_METADATA", "Metadata"]
