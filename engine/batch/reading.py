"""Reading of image files: in this process, or in another one, so that a file cannot end this one."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from engine.defaults import Colour
from engine.imageio.image import ImageSequence
from engine.imageio.read import read

# Reads a file's bytes. The other arguments are a page, or None for all, and the colours of a camera raw file.
Reader = Callable[[bytes, int | None, Colour], ImageSequence]
# The longest that another process may take for a file. No codec needs as long unless it hangs.
MOST_SECONDS = 600.0


def read_here(data: bytes, page: int | None, colour: Colour) -> ImageSequence:
    """Read a file in this process. Raises ValueError."""
    return read(data, page=page, colour=colour)


@contextmanager
def sandboxed() -> Iterator[Reader]:
    """A reader that uses a process of its own, which the first file waits for. Only Linux can do that.

    A file that crashes a codec, hangs it or needs more memory than there is raises ValueError.
    """
    if sys.platform != "linux":
        yield read_here
        return
    from engine.imageio.sandbox.decoder import Decoder
    from engine.imageio.sandbox.shared_file import in_memory

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with Decoder(MOST_SECONDS, memory) as decoder:

        def read_there(data: bytes, page: int | None, colour: Colour) -> ImageSequence:
            with in_memory(data) as file:
                return decoder.read(file, page=page, colour=colour)

        yield read_there
