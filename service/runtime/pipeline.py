"""An image file on its way through: decoded, denoised page by page, encoded. Every such route goes here."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from urllib.parse import quote

from anyio import CapacityLimiter, to_thread

from engine.imageio.formats import FORMATS, Depth, Format, chosen
from engine.imageio.image import File, Image, Outline, Written
from engine.imageio.sandbox.decoder import Crashed, Decoder, TooLargeToDecode, TooSlowToDecode
from engine.imageio.write import encode
from engine.inference.denoise import WHOLE, Denoising, Finish
from engine.inference.noise_estimation.estimator import NoiseEstimate, in_words
from engine.models.checkpoint import Model
from service.params import DEFAULT, DenoiseParams
from service.registry.snapshot import Snapshot
from service.runtime.scheduler import Disconnected, Scheduler
from service.runtime.ticket import Load, MemoryShare, Ticket, until_done
from service.runtime.upload import ImageSource
from service.settings import Settings
from service.telemetry.logs import log
from service.telemetry.metrics import Metrics

# Memory that a pixel takes on its way from file to file, at most, in bytes, by the depth it is kept in; and what
# some formats' encoders take besides. Measured on noise, all processes together: 10 without and 12 with
# transparency of 8 bits, 27 with it of 16; 43 in all from 8 bits to WebP. In one process it was up to twice that.
PIXEL_BYTES: Mapping[Depth, int] = {"8": 20, "16": 40, "float": 60}
ENCODER_BYTES = {"webp": 40, "avif": 40}
# Files whose headers are read at once, apart from those in work: it is done soon.
LOOKED_AT = 4


@dataclass(frozen=True)
class Denoised:
    """A denoised file, and what made it. estimate: the noise found, where the model was chosen by it."""

    written: Written
    model: Model
    precision: str
    estimate: NoiseEstimate | None
    seconds: float

    @property
    def headers(self) -> dict[str, str]:
        """What an answer tells of it beside the image."""
        headers = {
            "X-Denoise-Model": quote(self.model.name),
            "X-Denoise-Digest": self.model.digest,
            "X-Denoise-Precision": self.precision,
            "X-Denoise-Seconds": f"{self.seconds:.3f}",
        }
        if self.estimate:
            headers["X-Denoise-Noise"] = in_words(self.estimate)
        if self.written.changed:
            headers["X-Denoise-Changed"] = "; ".join(self.written.changed)
        return headers


@dataclass(frozen=True)
class Denoiser:
    """What it takes to denoise a file: the weights, whose turn it is, who decodes, the limits, and who counts.

    serving: gives the weights that are in service when it is called. accepted, low_priority: as Scheduler.turn.
    """

    serving: Callable[[], Snapshot]
    schedule: Scheduler
    decoder: Decoder
    settings: Settings
    metrics: Metrics = field(default_factory=Metrics)
    accepted: bool = False
    low_priority: bool = False
    looking: asyncio.Lock = field(default_factory=asyncio.Lock)
    looks: CapacityLimiter = field(default_factory=partial(CapacityLimiter, LOOKED_AT))

    @property
    def models(self) -> Snapshot:
        """The weights in service now. The next time they may be others."""
        return self.serving()

    def settled(self) -> "Denoiser":
        """The same for a request of several files: all get the weights that are in service now, and none of them
        is turned away, since the request was not.
        """
        models = self.models
        return replace(self, serving=lambda: models, accepted=True)

    def with_low_priority(self) -> "Denoiser":
        """The same for long work, which lets others go first."""
        return replace(self, low_priority=True)

    def refuse_unknown(self, params: DenoiseParams) -> None:
        """Raises NoSuchModel or CannotWrite for what is not there: to be asked before anything is read."""
        self.models.named(params.model)
        chosen(params.target, FORMATS[DEFAULT])

    async def file(
        self,
        source: ImageSource,
        params: DenoiseParams,
        memory: MemoryShare,
        disconnected: Disconnected,
        charge: Callable[[int], None],
        told: Callable[[float], None] = lambda share: None,
    ) -> Denoised:
        """A file's bytes -> the denoised file. disconnected: as Scheduler.turn.

        memory: holds the encoded image's bytes from here on; the caller releases it.
        charge: called with the number of its pixels, once they are known; see Keys.charging.
        told: called after each window with the share of the file's pixels that is denoised, up to 1.
        Raises what Decoder.read and `encode` raise, NoSuchModel, and what Scheduler.turn raises.
        """
        name, settings = self.models.named(params.model), self.settings
        found = await self._look(source, params.page)
        kind, pixels = chosen(params.target, found.kind), found.pixels
        finish = Finish(params.strength, params.luma, params.chroma, params.output)
        load = _load(found, source.memory, kind, finish)
        lap = self.metrics.laps()
        async with self.schedule.turn(disconnected, load, self.accepted, self.low_priority) as turn:
            lap("wait")
            file = await turn.in_thread(partial(self._read, source, params.page, turn))
            lap("decode")
            charge(pixels)
            # The first page decides for all: they come from one camera. The weights taken here see all of them,
            # whatever is put in service meanwhile.
            model, estimate = await turn.in_thread(partial(self.models.choose, name, file.pages[0]))
            done = 0

            def tell(more: int) -> None:
                nonlocal done
                done += more
                told(done / pixels)

            pages = [await self._page(turn, model, page, finish, tell) for page in file.pages]
            lap("denoise", model.name)
            self.schedule.rest_network()
            written = await turn.in_thread(
                partial(encode, replace(file, pages=tuple(pages)), kind, params.quality, settings.png_level)
            )
            lap("encode", model.name)
            made = Denoised(written, model, self.models.precision, estimate, turn.seconds)
            turn.keep(memory, len(written.data))
        self.metrics.image(model, pixels)
        return made

    async def estimate(
        self, source: ImageSource, page: int, disconnected: Disconnected
    ) -> tuple[NoiseEstimate, dict[str, str]]:
        """The noise of a file's page, counted from 1, and by their names which models the choices take for it.

        disconnected: as Scheduler.turn. Raises what Decoder.read and Schedule.turn raise.
        """
        load = _load(await self._look(source, page), source.memory)
        async with self.schedule.turn(disconnected, load) as turn:
            file = await turn.in_thread(partial(self._read, source, page, turn))
            return await turn.in_thread(partial(self.models.look, file.pages[0]))

    async def _look(self, source: ImageSource, page: int | None) -> Outline:
        """What is in a file."""
        limits = (self.settings.max_pixels, self.settings.max_pages, page)

        def look() -> Outline:
            with _telling_of_attacks(), source.open() as file:
                return self.decoder.outline(file, *limits)

        # Not in the threads that images are decoded in: whoever is to be turned away is told at once.
        # Of those that take memory of their own one at a time.
        async with self.looking if source.memory else nullcontext():
            return await until_done(asyncio.ensure_future(to_thread.run_sync(look, limiter=self.looks)))

    def _read(self, source: ImageSource, page: int | None, turn: Ticket) -> File:
        limits = (self.settings.max_pixels, self.settings.max_pages, page)
        with _telling_of_attacks(), source.open() as file:
            return self.decoder.read(file, *limits, turn.flow.check)

    async def _page(
        self, turn: Ticket, model: Model, page: Image, finish: Finish, tell: Callable[[int], None]
    ) -> Image:
        """One page, denoised. tell: called with the pixels of each window that is done."""
        budget = self.settings.memory_budget
        denoising = await turn.in_thread(partial(Denoising, model.net, page, budget, finish=finish))
        for piece in denoising.pieces:
            await turn.in_network(piece)
            tell(piece.pixels)
        return await turn.in_thread(denoising.result)


@contextmanager
def _telling_of_attacks() -> Iterator[None]:
    """Who runs the service may want to give more, or to know what comes."""
    try:
        yield
    except (Crashed, TooLargeToDecode, TooSlowToDecode) as error:
        log.warning("decoding ended", reason=str(error))
        raise


def _load(found: Outline, size: int, kind: Format | None = None, finish: Finish = WHOLE) -> Load:
    """size: of the file, if its memory counts here. kind: to be written, if any is."""
    each = PIXEL_BYTES[found.depth] + (ENCODER_BYTES.get(kind.name, 0) if kind else 0)
    return Load(found.pixels, found.pixels * each * (2 if finish.output == "compare" else 1) + size)
