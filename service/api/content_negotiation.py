"""Which format a request accepts, if it does not ask for one by name."""

from collections.abc import Iterator

from engine.imageio.formats import FORMATS, WRITABLE_FORMATS, join_words
from service.params import DEFAULT
from service.problems import ClientError


class NotAcceptable(ClientError):
    """An Accept header that has none of the formats that are written."""

    status = 406


def acceptable(header: str | None) -> str:
    """The format that an Accept header (RFC 9110, section 12.5.1) likes best. Raises NotAcceptable."""
    if not header or not header.strip():
        return DEFAULT
    ranges = dict(_ranges(header))
    # Of those liked equally the default, and then the order of the table.
    names = sorted(WRITABLE_FORMATS, key=lambda name: name != DEFAULT)
    best = max(names, key=lambda name: _liking(ranges, FORMATS[name].media_type))
    if _liking(ranges, FORMATS[best].media_type) <= 0:
        written = join_words([FORMATS[name].media_type for name in WRITABLE_FORMATS])
        raise NotAcceptable(f"The request accepts {header[:200]!r}; written are {written}.")
    return best


def _ranges(header: str) -> Iterator[tuple[str, float]]:
    for part in header.split(","):
        name, *parameters = (word.strip().lower() for word in part.split(";"))
        weight = next((word[2:] for word in parameters if word.startswith("q=")), "1")
        try:
            yield name, float(weight)
        except ValueError:
            yield name, 0.0


def _liking(ranges: dict[str, float], media_type: str) -> float:
    """By the most specific range that holds it."""
    for name in (media_type, "image/*", "*/*"):
        if name in ranges:
            return ranges[name]
    return 0.0
