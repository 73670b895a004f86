"""Stages of the pipeline: decode a file, run its pages through the network, encode the result."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import numpy as np
from anyio import CapacityLimiter, to_thread
from numpy.typing import NDArray

from engine.defaults import COLOUR, Colour
from engine.imageio.codecs.raw import RawMosaic
from engine.imageio.formats import Format
from engine.imageio.image import EncodedImage, Image, ImageInfo, ImageSequence
from engine.imageio.sandbox.decoder import Crashed, Decoder, TooLargeToDecode, TooSlowToDecode
from engine.imageio.sandbox.shared_file import SharedFile
from engine.imageio.write import encode
from engine.inference.denoise import OutputOptions, TiledDenoiser
from engine.inference.mosaic import (
    MosaicDenoiser,
    MosaicLaw,
    law_of,
)
from engine.inference.preparation import (
    Preparation,
)
from engine.models.checkpoint import Model
from service.runtime.result_cache import digest_of
from service.runtime.ticket import Ticket, until_done
from service.runtime.upload import ImageSource
from service.telemetry.logs import log

T = TypeVar("T")

# How many headers are read at the same time, in addition to files being decoded. A header takes little time.
HEADERS_AT_ONCE = 4


@dataclass(frozen=True)
class DecodeStage:
    """Reads files in decoder processes, within the limits on pixels and pages."""

    decoder: Decoder
    max_pixels: int
    max_pages: int
    _limiter: CapacityLimiter = field(default_factory=partial(CapacityLimiter, HEADERS_AT_ONCE))
    _memory_lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def read_info(
        self, source: ImageSource, page: int | None, colour: Colour = COLOUR, count_pages: bool = False
    ) -> ImageInfo:
        """What a file's header says. Raises what Decoder.read_info raises."""
        return await self._with_file(source, partial(self._info, page, colour, count_pages))

    async def identify(self, source: ImageSource, page: int | None, colour: Colour) -> tuple[ImageInfo, str]:
        """What a file's header says, and the SHA-256 of the file. Raises what Decoder.read_info raises."""
        return await self._with_file(
            source, lambda file: (self._info(page, colour, False, file), digest_of(file))
        )

    def _info(self, page: int | None, colour: Colour, count_pages: bool, file: SharedFile) -> ImageInfo:
        return self.decoder.read_info(file, self.max_pixels, self.max_pages, page, colour, count_pages)

    async def _with_file(self, source: ImageSource, look: Callable[[SharedFile], T]) -> T:
        """Opens a file, and looks at it in a thread."""

        def work() -> T:
            with _logging_refusals(), source.open() as file:
                return look(file)

        # In threads of its own: an image that will be refused should not have to wait for a thread that decodes.
        # A source whose memory is not counted yet is opened only while no other such source is open.
        async with self._memory_lock if source.memory else nullcontext():
            return await until_done(asyncio.ensure_future(to_thread.run_sync(work, limiter=self._limiter)))

    async def decode(
        self, ticket: Ticket, source: ImageSource, page: int | None, colour: Colour = COLOUR
    ) -> ImageSequence:
        """The file's pages. Raises what Decoder.read raises."""

        def work() -> ImageSequence:
            with _logging_refusals(), source.open() as file:
                check = ticket.flow.check
                return self.decoder.read(file, self.max_pixels, self.max_pages, page, colour, check)

        return await ticket.in_thread(work)

    async def read_mosaic(self, ticket: Ticket, source: ImageSource) -> tuple[RawMosaic, MosaicLaw] | None:
        """A camera raw file's mosaic and its noise law; None without either. Raises what Decoder.read raises."""

        def work() -> tuple[RawMosaic, MosaicLaw] | None:
            with _logging_refusals(), source.open() as file:
                mosaic = self.decoder.read_mosaic(file, self.max_pixels, ticket.flow.check)
            law = law_of(mosaic) if mosaic else None
            return (mosaic, law) if mosaic and law else None

        return await ticket.in_thread(work)

    async def develop(
        self, ticket: Ticket, source: ImageSource, mosaic: NDArray[np.uint16], colour: Colour
    ) -> ImageSequence:
        """The image from a camera raw file with this mosaic. Raises what Decoder.read raises."""

        def work() -> ImageSequence:
            with _logging_refusals(), source.open() as file:
                return self.decoder.develop(file, mosaic, self.max_pixels, colour, ticket.flow.check)

        return await ticket.in_thread(work)


@contextmanager
def _logging_refusals() -> Iterator[None]:
    """Logs a file that exceeds a limit or crashes a codec. The operator may want to raise the limit."""
    try:
        yield
    except (Crashed, TooLargeToDecode, TooSlowToDecode) as error:
        log.warning("decoding ended", reason=str(error))
        raise


@dataclass(frozen=True)
class DenoiseStage:
    """Runs pages through the network. memory_budget: for the network's work, in bytes."""

    memory_budget: int

    async def denoise(
        self,
        ticket: Ticket,
        model: Model,
        pages: list[Image],
        options: OutputOptions,
        preparations: Sequence[Preparation],
        on_window: Callable[[int], None],
    ) -> None:
        """Replaces each page in the list by its denoised page.

        preparations: the steps for each page. on_window: called with each window's pixels.
        """
        for number, preparation in enumerate(preparations):
            begin = partial(
                TiledDenoiser,
                model.net,
                pages[number],
                self.memory_budget,
                options=options,
                preparation=preparation,
            )
            denoising = await ticket.in_thread(begin)
            for window in denoising.windows:
                await ticket.in_network(window)
                on_window(window.pixels)
            pages[number] = await ticket.in_thread(denoising.result)

    async def denoise_mosaic(
        self, ticket: Ticket, model: Model, mosaic: RawMosaic, law: MosaicLaw, share: float
    ) -> NDArray[np.uint16] | None:
        """The mosaic's values, denoised; None to leave them. share: as MosaicDenoiser."""
        begin = partial(MosaicDenoiser, model.net, mosaic, law, share, self.memory_budget)
        denoising = await ticket.in_thread(begin)
        for window in denoising.windows:
            await ticket.in_network(window)
        # The developed image's pixels are still to come.
        ticket.done = 0
        return await ticket.in_thread(denoising.result)


@dataclass(frozen=True)
class EncodeStage:
    """Writes files. png_level: how hard PNGs are compressed, 0 to 9."""

    png_level: int

    async def encode(
        self, ticket: Ticket, file: ImageSequence, kind: Format, quality: int | None
    ) -> EncodedImage:
        """The file's bytes. Raises what engine.imageio.write.encode raises."""
        return await ticket.in_thread(partial(encode, file, kind, quality, self.png_level))
