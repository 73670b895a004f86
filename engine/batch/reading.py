"""Reading of image files: in this process, or in another one, so that a file cannot end this one."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.defaults import Colour
from engine.imageio.codecs.raw import RawMosaic
from engine.imageio.image import ImageSequence
from engine.imageio.read import develop, read, read_mosaic

if TYPE_CHECKING:
    from engine.imageio.sandbox.decoder import Decoder

# The longest that another process may take for a file. No codec needs as long unless it hangs.
MOST_SECONDS = 600.0
# Files of one's own are read whatever their number of pages: only memory limits it.
MOST_PAGES = 2**31


class Reader(Protocol):
    """Reads files' bytes, as the functions of engine.imageio.read do. All raise ValueError."""

    def read(self, data: bytes, page: int | None, colour: Colour) -> ImageSequence:
        """page: None for all. colour: of a camera raw file."""

    def read_mosaic(self, data: bytes) -> RawMosaic | None:
        """A camera raw file's mosaic, if it has one."""

    def develop(self, data: bytes, mosaic: NDArray[np.uint16], colour: Colour) -> ImageSequence:
        """The image from a camera raw file with this mosaic."""


class _ReadHere:
    def read(self, data: bytes, page: int | None, colour: Colour) -> ImageSequence:
        return read(data, max_pages=MOST_PAGES, page=page, colour=colour)

    def read_mosaic(self, data: bytes) -> RawMosaic | None:
        return read_mosaic(data)

    def develop(self, data: bytes, mosaic: NDArray[np.uint16], colour: Colour) -> ImageSequence:
        return develop(data, mosaic, colour=colour)


# Reads in this process.
READ_HERE: Reader = _ReadHere()


class _ReadThere:
    def __init__(self, decoder: "Decoder") -> None:
        self._decoder = decoder

    def read(self, data: bytes, page: int | None, colour: Colour) -> ImageSequence:
        from engine.imageio.sandbox.shared_file import in_memory

        with in_memory(data) as file:
            return self._decoder.read(file, max_pages=MOST_PAGES, page=page, colour=colour)

    def read_mosaic(self, data: bytes) -> RawMosaic | None:
        from engine.imageio.sandbox.shared_file import in_memory

        with in_memory(data) as file:
            return self._decoder.read_mosaic(file)

    def develop(self, data: bytes, mosaic: NDArray[np.uint16], colour: Colour) -> ImageSequence:
        from engine.imageio.sandbox.shared_file import in_memory

        with in_memory(data) as file:
            return self._decoder.develop(file, mosaic, colour=colour)


@contextmanager
def sandboxed(share: float = 1.0) -> Iterator[Reader]:
    """A reader that uses a process of its own, which the first file waits for. Only Linux can do that.

    share: of this machine's memory that a file may take. A file that crashes a codec, hangs it or needs more
    memory raises ValueError.
    """
    if sys.platform != "linux":
        yield READ_HERE
        return
    from engine.imageio.sandbox.decoder import Decoder

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with Decoder(MOST_SECONDS, int(memory * share)) as decoder:
        yield _ReadThere(decoder)
