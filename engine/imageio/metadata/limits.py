"""Limits on metadata from untrusted files, and the errors for metadata that exceeds them."""

import math
import zlib

# Bytes of one block, decompressed. The largest known profiles, those of printers, have about 4 MB.
MAX_BYTES = 16 * 2**20
# Entries of one IFD. A camera writes about 60, a microscope about 200.
MAX_ENTRIES = 4096
# Dots per inch.
MAX_RESOLUTION = 1e6


class BrokenMetadata(ValueError):
    """Metadata that does not follow its standard."""


class MetadataTooLarge(BrokenMetadata):
    """Metadata over a limit. A small file can hold it compressed."""


def inflate(packed: bytes, what: str) -> bytes:
    """The deflated bytes, decompressed. Stops at the limit: deflate can pack a thousand bytes into one.

    what: names the block in errors. Raises BrokenMetadata.
    """
    try:
        plain = zlib.decompressobj().decompress(packed, MAX_BYTES + 1)
    except zlib.error as error:
        raise BrokenMetadata(f"{what} is broken: {error}") from error
    if len(plain) > MAX_BYTES:
        raise MetadataTooLarge(f"{what} has more than {MAX_BYTES} bytes, the limit.")
    return plain


def plausible_resolution(x: float, y: float) -> tuple[float, float] | None:
    """The resolution in dots per inch, or None for the values that files write for "unknown": 0, 1, infinity."""
    return (x, y) if all(math.isfinite(n) and 1 < n < MAX_RESOLUTION for n in (x, y)) else None
