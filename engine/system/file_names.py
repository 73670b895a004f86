"""File names, as systems compare them, and as results get them."""

import unicodedata
from collections.abc import Hashable, Iterable
from typing import Protocol, TypeVar

# What follows the name of an image that is written beside its source.
DENOISED = ".denoised"


def name_key(name: str) -> str:
    """The same for all names that some system takes for one.

    Windows and macOS do not distinguish upper and lower case. To macOS, a letter with an accent is the same as a
    letter and an accent that follows it.
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


class _Named(Hashable, Protocol):
    """A path, of a file or of an object in a bucket."""

    @property
    def parent(self) -> Hashable: ...

    @property
    def stem(self) -> str: ...


N = TypeVar("N", bound=_Named)


def earlier_results(images: Iterable[N]) -> set[N]:
    """Those of the images that were written beside their sources: a.denoised.png, if there is a.jpg or a.png."""
    images = list(images)
    sources = {(image.parent, image.stem) for image in images}
    return {
        image
        for image in images
        if image.stem.endswith(DENOISED) and (image.parent, image.stem.removesuffix(DENOISED)) in sources
    }
