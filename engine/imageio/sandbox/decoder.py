"""Decoder: reads image files in separate processes, so that a file cannot harm the service.

A file may hang a codec, crash it or use up memory: then its worker is killed, and nothing else is affected.
Linux only.
"""

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from engine.defaults import COLOUR, DECODE_MEMORY, DECODE_SECONDS, MAX_PAGES, Colour
from engine.imageio.codecs.raw import RawMosaic
from engine.imageio.formats import FORMATS, BrokenImage, Format, ImageTooLarge, detect_format
from engine.imageio.image import ImageInfo, ImageSequence
from engine.imageio.sandbox.fork_server import REFUSALS, ForkServer, Worker
from engine.imageio.sandbox.messages import Part, decode_image, decode_mosaic, receive, send_request
from engine.imageio.sandbox.shared_file import SharedFile

# How many bytes at the start of a file are read to detect its format.
HEAD_BYTES = 4096
# Workers that are kept for the next files.
IDLE = 4


class TooSlowToDecode(ValueError):
    """A file that takes longer than allowed."""


class TooLargeToDecode(ImageTooLarge):
    """A file that takes more memory than allowed."""


class Crashed(BrokenImage):
    """A file that ends the process that decodes it."""


def require_linux() -> None:
    """Raises OSError on other systems."""
    if sys.platform != "linux":
        raise OSError("the service decodes images in sandboxed processes, which needs Linux")


class Decoder:
    """Decodes any number of files at once. Use it in a `with` block, which ends its processes.

    seconds: how long one file may take. memory: how many bytes, on top of what an idle worker uses.
    """

    def __init__(
        self, seconds: float = DECODE_SECONDS, memory: int = DECODE_MEMORY, fork_server: ForkServer | None = None
    ) -> None:
        """Returns at once; the first file waits until the codecs are loaded. Raises OSError."""
        self.seconds = seconds
        self.memory = memory
        self.fork_server = fork_server or ForkServer()
        self._idle: list[Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Ends all processes."""
        while self._idle:
            self.fork_server.end(self._idle.pop())
        self.fork_server.close()

    def read(
        self,
        file: SharedFile,
        max_pixels: int | None = None,
        max_pages: int = MAX_PAGES,
        page: int | None = None,
        colour: Colour = COLOUR,
        check: Callable[[], None] = lambda: None,
    ) -> ImageSequence:
        """As engine.imageio.read.read.

        check: called every fork_server.TICK seconds; an error that it raises ends the work.
        Raises what that function raises, TooSlowToDecode, TooLargeToDecode and Crashed; all are ValueErrors.
        """
        options = {"max_pixels": max_pixels, "max_pages": max_pages, "page": page, "colour": colour}
        decoded = self._decode(file, {"work": "read", "options": options}, check)
        assert isinstance(decoded, ImageSequence)
        return decoded

    def read_info(
        self,
        file: SharedFile,
        max_pixels: int | None = None,
        max_pages: int = MAX_PAGES,
        page: int | None = None,
        colour: Colour = COLOUR,
        count_pages: bool = False,
    ) -> ImageInfo:
        """As engine.imageio.read.read_info. Raises what `read` raises."""
        options = {"max_pixels": max_pixels, "max_pages": max_pages, "page": page, "colour": colour}
        decoded = self._decode(file, {"work": "info", "options": {**options, "count_pages": count_pages}})
        assert isinstance(decoded, ImageInfo)
        return decoded

    def read_mosaic(
        self, file: SharedFile, max_pixels: int | None = None, check: Callable[[], None] = lambda: None
    ) -> RawMosaic | None:
        """As engine.imageio.read.read_mosaic. Raises what `read` raises."""
        decoded = self._decode(file, {"work": "mosaic", "options": {"max_pixels": max_pixels}}, check)
        assert decoded is None or isinstance(decoded, RawMosaic)
        return decoded

    def develop(
        self,
        file: SharedFile,
        mosaic: NDArray[np.uint16],
        max_pixels: int | None = None,
        colour: Colour = COLOUR,
        check: Callable[[], None] = lambda: None,
    ) -> ImageSequence:
        """As engine.imageio.read.develop. Raises what `read` raises."""
        options = {"max_pixels": max_pixels, "colour": colour}
        request = {"work": "develop", "options": options, "shape": mosaic.shape}
        decoded = self._decode(file, request, check, [np.ascontiguousarray(mosaic).data])
        assert isinstance(decoded, ImageSequence)
        return decoded

    def _decode(
        self,
        file: SharedFile,
        request: dict[str, Any],
        check: Callable[[], None] = lambda: None,
        parts: Sequence[Part] = (),
    ) -> ImageSequence | ImageInfo | RawMosaic | None:
        """request: what is to be done, and its options. parts: raw bytes that go with it."""
        kind = detect_format(file.read(HEAD_BYTES), file.size)
        worker = self._take_worker()
        try:
            send_request(worker.socket, {**request, "memory": self.memory}, file, parts)
            decoded = self._receive(worker, kind, check)
        except BaseException as error:
            cause = self.fork_server.end(worker)
            if isinstance(error, EOFError | ConnectionError):
                raise Crashed(
                    f"The {kind.title} file is broken: its decoder process ended with {cause}."
                ) from error
            raise
        if len(self._idle) < IDLE:
            self._idle.append(worker)
        else:
            self.fork_server.end(worker)
        if isinstance(decoded, ValueError):
            raise decoded
        return decoded

    def _take_worker(self) -> Worker:
        while True:
            try:
                worker = self._idle.pop()
            except IndexError:
                return self.fork_server.start()
            if worker.is_idle():
                return worker
            self.fork_server.end(worker)

    def _receive(
        self, worker: Worker, kind: Format, check: Callable[[], None]
    ) -> ImageSequence | ImageInfo | RawMosaic | ValueError | None:
        """The file's content, or the error that explains why it was refused."""
        end = time.monotonic() + self.seconds
        pages = []
        while True:
            message, parts = self._next_message(worker, kind, end, check)
            match message["type"]:
                case "page":
                    pages.append(decode_image(message, parts))
                case "end":
                    durations, changed = message["durations"], tuple(message["changed"])
                    return ImageSequence(
                        FORMATS[message["kind"]],
                        tuple(pages),
                        durations and tuple(durations),
                        message["plays"],
                        changed,
                    )
                case "info":
                    kind = FORMATS[message["kind"]]
                    return ImageInfo(kind, message["pixels"], message["depth"], message["pages"])
                case "mosaic":
                    return decode_mosaic(message, parts)
                case "no mosaic":
                    return None
                case "refusal":
                    return REFUSALS[message["error"]](message["text"])
                case "memory":
                    raise TooLargeToDecode(
                        f"Decoding the {kind.title} file takes more than {self.memory} bytes of memory."
                    )
                case other:
                    raise AssertionError(f"unknown message from a decoder process: {other}")

    def _next_message(
        self, worker: Worker, kind: Format, end: float, check: Callable[[], None]
    ) -> tuple[dict[str, Any], list[memoryview | None]]:
        while time.monotonic() < end:
            check()
            with suppress(TimeoutError):
                return receive(worker.socket, self.memory)
        raise TooSlowToDecode(
            f"Decoding the {kind.title} file takes more than {self.seconds:g} seconds, the limit."
        )
