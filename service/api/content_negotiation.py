"""Content negotiation: picks the image format by the Accept header (RFC 9110, section 12.5.1)."""

from collections.abc import Iterator

from engine.defaults import FORMAT
from engine.imageio.formats import FORMATS, WRITABLE_FORMATS, join_words
from service.problems import ProblemError


def negotiate_format(header: str | None) -> str:
    """The format that an Accept header prefers. Raises ProblemError with status 406 if it accepts none."""
    if not header or not header.strip():
        return FORMAT
    ranges = dict(_ranges(header))
    # Formats of equal weight: the default first, then in the order of the table.
    names = sorted(WRITABLE_FORMATS, key=lambda name: name != FORMAT)
    best = max(names, key=lambda name: _weight(ranges, FORMATS[name].media_type))
    if _weight(ranges, FORMATS[best].media_type) <= 0:
        written = join_words([FORMATS[name].media_type for name in WRITABLE_FORMATS])
        raise ProblemError(f"The request accepts {header[:200]!r}. The service writes {written}.", 406)
    return best


def _ranges(header: str) -> Iterator[tuple[str, float]]:
    for part in header.split(","):
        name, *parameters = (word.strip().lower() for word in part.split(";"))
        weight = next((word[2:] for word in parameters if word.startswith("q=")), "1")
        try:
            yield name, float(weight)
        except ValueError:
            yield name, 0.0


def _weight(ranges: dict[str, float], media_type: str) -> float:
    """The weight of the most specific range that includes the type."""
    for name in (media_type, "image/*", "*/*"):
        if name in ranges:
            return ranges[name]
    return 0.0
